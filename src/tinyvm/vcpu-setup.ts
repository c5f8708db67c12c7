/**
 * The vCPU's state at boot: 64-bit long mode at privilege level 3, with IOPL 3 so that OUT is
 * allowed there. No interrupt table: whatever goes wrong in the guest ends as KVM_EXIT_SHUTDOWN.
 *
 * Level 3, because KVM inside some virtual machines (PVM) runs it natively and emulates level 0,
 * two thousand times slower and through other fault paths than hardware takes.
 */
import { kvm_regs, kvm_segment, kvm_sregs } from "../linux/abi-kvm.ts";
import { writeU64 } from "../linux/layout.ts";
import type { GuestPlan } from "./guest-plan.ts";
import { PML4_ADDRESS, PROGRAM_ADDRESS, RAM_GUEST_ADDRESS } from "./memory-layout.ts";

// From the Intel SDM, volume 3: control registers (2.5), EFER (2.2.1), segment types (3.4.5.1).
const CR0_PAGING_PROTECTION = 0x80000031; // PG, NE, ET, PE; not CD and NW, which reset leaves set.
const CR4_PAE = 0x20;
const EFER_LONG_MODE = 0x500; // LME and LMA.
const RFLAGS_IOPL3 = 0x3002; // Bit 1 is always set.
const CODE_EXECUTE_READ_ACCESSED = 11;
const DATA_READ_WRITE_ACCESSED = 3;
const USER_CODE_SELECTOR = 0x33;
const USER_DATA_SELECTOR = 0x2b;

/** General registers: the plan as the program expects it. See programs.ts. */
export function bootRegisters(plan: GuestPlan): Uint8Array {
  const registers = new Uint8Array(kvm_regs.size);
  const words = new Uint32Array(registers.buffer);
  const at = kvm_regs.offset;
  writeU64(words, at.rip, PROGRAM_ADDRESS);
  writeU64(words, at.rflags, RFLAGS_IOPL3);
  writeU64(words, at.rdi, RAM_GUEST_ADDRESS);
  writeU64(words, at.rbx, plan.seed);
  writeU64(words, at.r8, plan.fill.count);
  writeU64(words, at.r9, plan.fill.stride);
  writeU64(words, at.r10, plan.fill.steps);
  writeU64(words, at.r11, plan.workingSet.count);
  writeU64(words, at.r12, plan.workingSet.stride);
  writeU64(words, at.r13, plan.workingSet.steps);
  writeU64(words, at.r14, plan.dirty.stride);
  writeU64(words, at.r15, plan.dirty.steps);
  return registers;
}

/** System registers, made from those of a fresh vCPU. */
export function bootSystemRegisters(fresh: Uint8Array): Uint8Array {
  const registers = Uint8Array.from(fresh);
  const words = new Uint32Array(registers.buffer);
  const at = kvm_sregs.offset;
  writeU64(words, at.cr3, PML4_ADDRESS);
  writeU64(words, at.cr4, CR4_PAE);
  writeU64(words, at.cr0, CR0_PAGING_PROTECTION);
  writeU64(words, at.efer, EFER_LONG_MODE);
  setFlatSegment(registers, at.cs, { selector: USER_CODE_SELECTOR, isCode: true });
  for (const segment of [at.ss, at.ds, at.es]) {
    setFlatSegment(registers, segment, { selector: USER_DATA_SELECTOR, isCode: false });
  }
  return registers;
}

function setFlatSegment(
  registers: Uint8Array,
  offset: number,
  segment: { readonly selector: number; readonly isCode: boolean },
): void {
  const at = kvm_segment.offset;
  const view = new DataView(registers.buffer, offset, kvm_segment.size);
  view.setBigUint64(at.base, 0n, true);
  view.setUint32(at.limit, 0xffffffff, true);
  view.setUint16(at.selector, segment.selector, true);
  view.setUint8(at.type, segment.isCode ? CODE_EXECUTE_READ_ACCESSED : DATA_READ_WRITE_ACCESSED);
  view.setUint8(at.present, 1);
  view.setUint8(at.dpl, 3);
  view.setUint8(at.db, segment.isCode ? 0 : 1); // Long mode wants L without D.
  view.setUint8(at.s, 1);
  view.setUint8(at.l, segment.isCode ? 1 : 0);
  view.setUint8(at.g, 1);
  view.setUint8(at.unusable, 0);
}
