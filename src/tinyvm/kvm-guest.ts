/**
 * The guest on a vCPU. KVM_RUN blocks the calling thread, also while a page is missing: tinyvm is a
 * process of its own and has nothing else to do meanwhile. Deadly signals end it even there, as
 * `main.ts` takes care that nobody catches them.
 */
import { FaultlineError } from "../base/errors.ts";
import { formatHex } from "../base/units.ts";
import * as abi from "../linux/abi-kvm.ts";
import { KVM_EXIT_MEMORY_FAULT } from "../linux/abi-kvm-userfault.ts";
import type { Kvm, KvmVcpu, KvmVm, RunOutcome } from "../linux/kvm.ts";
import { longModeSystemRegisters } from "../linux/long-mode.ts";
import type { Guest, VcpuState } from "./guest.ts";
import type { GuestMemory } from "./guest-memory.ts";
import type { GuestPlan } from "./guest-plan.ts";
import { PML4_ADDRESS } from "./memory-layout.ts";
import { STOP_PORT, VALUE_PORT } from "./programs.ts";
import type { UserfaultMemory } from "./userfault-memory.ts";
import { bootRegisters } from "./vcpu-setup.ts";

/** A guest at its first instruction; its memory holds lowMemoryImage() and zeroes. */
export function bootKvmGuest(kvm: Kvm, memory: GuestMemory, plan: GuestPlan): Guest {
  const guest = KvmGuest.create(kvm, memory);
  guest.vcpu.setSystemRegisters(
    longModeSystemRegisters(guest.vcpu.systemRegisters(), PML4_ADDRESS),
  );
  guest.vcpu.setRegisters(bootRegisters(plan));
  return guest;
}

/** A guest that goes on where a snapshot was taken. */
export function restoreKvmGuest(kvm: Kvm, memory: GuestMemory, state: VcpuState): Guest {
  return restored(KvmGuest.create(kvm, memory), state);
}

/** The same in a VM that has its memory already: each page comes when the vCPU stops at its bit. */
export function restoreUserfaultGuest(
  kvm: Kvm,
  vm: KvmVm,
  memory: UserfaultMemory,
  state: VcpuState,
): Guest {
  return restored(KvmGuest.on(kvm, vm, memory), state);
}

function restored(guest: KvmGuest, state: VcpuState): Guest {
  guest.vcpu.setSystemRegisters(Buffer.from(state.systemRegisters, "hex"));
  guest.vcpu.setRegisters(Buffer.from(state.registers, "hex"));
  return guest;
}

class KvmGuest implements Guest {
  readonly #vm: KvmVm;
  readonly vcpu: KvmVcpu;
  /** Null: faults are the business of whoever watches the mappings. */
  readonly #memory: UserfaultMemory | null;

  private constructor(vm: KvmVm, vcpu: KvmVcpu, memory: UserfaultMemory | null) {
    this.#vm = vm;
    this.vcpu = vcpu;
    this.#memory = memory;
  }

  /** A VM over `memory` with one vCPU, its registers as after a reset. */
  static create(kvm: Kvm, memory: GuestMemory): KvmGuest {
    const vm = kvm.createVm();
    try {
      for (const [slot, region] of memory.regions.entries()) {
        vm.setMemory(slot, region.guestAddress, region.mapping);
      }
      return KvmGuest.on(kvm, vm, null);
    } catch (error) {
      vm.close();
      throw error;
    }
  }

  /** The same in a VM with memory. */
  static on(kvm: Kvm, vm: KvmVm, memory: UserfaultMemory | null): KvmGuest {
    if (kvm.checkExtension(abi.KVM_CAP_IMMEDIATE_EXIT) === 0) {
      throw new FaultlineError("unsupported", "tinyvm needs KVM_CAP_IMMEDIATE_EXIT: Linux 4.13.");
    }
    const vcpu = vm.createVcpu(0);
    vcpu.setCpuid(kvm.supportedCpuid());
    return new KvmGuest(vm, vcpu, memory);
  }

  next(): number | null {
    for (;;) {
      const outcome = this.vcpu.run();
      if (outcome === "interrupted") continue;
      if (outcome === "memoryFault" && this.#memory?.populate(this.vcpu.memoryFault)) continue;
      if (outcome !== "exited") throw this.#memoryUnreachable(outcome);
      return this.#takeExit();
    }
  }

  vcpuState(): VcpuState {
    // Only the next KVM_RUN completes an OUT and leaves rip behind it (KVM_EXIT_IO in api.rst).
    this.vcpu.setImmediateExit(true);
    const outcome = this.vcpu.run();
    this.vcpu.setImmediateExit(false);
    if (outcome !== "interrupted") throw this.#unexpectedExit();
    return {
      registers: Buffer.from(this.vcpu.registers()).toString("hex"),
      systemRegisters: Buffer.from(this.vcpu.systemRegisters()).toString("hex"),
    };
  }

  close(): void {
    this.vcpu.close();
    this.#vm.close();
  }

  #takeExit(): number | null {
    if (this.vcpu.exitReason !== abi.KVM_EXIT_IO || !this.vcpu.isIoOut32) {
      throw this.#unexpectedExit();
    }
    if (this.vcpu.ioPort === VALUE_PORT) return this.vcpu.ioValue;
    if (this.vcpu.ioPort === STOP_PORT) return null;
    throw this.#unexpectedExit();
  }

  #unexpectedExit(): FaultlineError {
    return new FaultlineError(
      "session-failed",
      `The guest left with ${exitName(this.vcpu.exitReason)} at rip ` +
        `${formatHex(this.vcpu.instructionPointer)}: its program or page tables are damaged, or ` +
        "this KVM cannot run 64-bit code at privilege level 3.",
    );
  }

  #memoryUnreachable(outcome: RunOutcome): FaultlineError {
    const where =
      outcome === "memoryFault"
        ? `, at guest address ${formatHex(this.vcpu.memoryFault.guestAddress)}`
        : "";
    return new FaultlineError(
      "unresolvable-page",
      `The guest touched memory that KVM cannot reach${where}, at rip ` +
        `${formatHex(this.vcpu.instructionPointer)} (EFAULT from KVM_RUN).`,
    );
  }
}

const exitNames: ReadonlyMap<number, string> = new Map([
  [abi.KVM_EXIT_UNKNOWN, "KVM_EXIT_UNKNOWN"],
  [abi.KVM_EXIT_EXCEPTION, "KVM_EXIT_EXCEPTION"],
  [abi.KVM_EXIT_IO, "KVM_EXIT_IO (not a 32-bit OUT to a port of ours)"],
  [abi.KVM_EXIT_HLT, "KVM_EXIT_HLT"],
  [abi.KVM_EXIT_MMIO, "KVM_EXIT_MMIO"],
  [abi.KVM_EXIT_SHUTDOWN, "KVM_EXIT_SHUTDOWN"],
  [abi.KVM_EXIT_FAIL_ENTRY, "KVM_EXIT_FAIL_ENTRY"],
  [abi.KVM_EXIT_INTR, "KVM_EXIT_INTR"],
  [abi.KVM_EXIT_INTERNAL_ERROR, "KVM_EXIT_INTERNAL_ERROR"],
  [abi.KVM_EXIT_SYSTEM_EVENT, "KVM_EXIT_SYSTEM_EVENT"],
  [KVM_EXIT_MEMORY_FAULT, "KVM_EXIT_MEMORY_FAULT"],
]);

function exitName(reason: number): string {
  return exitNames.get(reason) ?? `exit reason ${reason}`;
}
