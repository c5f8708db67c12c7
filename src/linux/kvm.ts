/**
 * Virtual machines: one class per kind of KVM descriptor, each with what is legal on it. x86-64.
 * See Documentation/virt/kvm/api.rst.
 *
 *     Kvm (/dev/kvm) ── createVm ──► KvmVm ── createVcpu ──► KvmVcpu + its mapped kvm_run page
 *
 * A VM and its vCPUs answer only to the process that created the VM (EIO to every other), but to
 * any of its threads, one at a time per vCPU.
 */
import { openSync } from "node:fs";
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import * as abi from "./abi-kvm.ts";
import * as userfaultAbi from "./abi-kvm-userfault.ts";
import { EFAULT, EINTR } from "./abi-posix.ts";
import { OwnedFd } from "./fd.ts";
import { encodeGuestMemfdSlot, type GuestMemfdSlot } from "./kvm-memory-slot.ts";
import { readU64, writeU64 } from "./layout.ts";
import { MappedRegion } from "./memory.ts";
import * as sys from "./sys.ts";

export const KVM_DEVICE = "/dev/kvm";

/** Room for the CPUID entries of any CPU: KVM itself has at most 256 (KVM_MAX_CPUID_ENTRIES). */
const CPUID_ENTRIES_MAX = 256;

/** /dev/kvm: what the machine offers, and new VMs. */
export class Kvm {
  readonly #owned: OwnedFd;

  private constructor(owned: OwnedFd) {
    this.#owned = owned;
  }

  /** @throws FaultlineError `no-kvm` (access, API version), `unsupported` (architecture) */
  static open(): Kvm {
    if (process.arch !== "x64") {
      throw new FaultlineError(
        "unsupported",
        `KVM on ${process.arch} is not known here, only x64.`,
      );
    }
    const kvm = new Kvm(openDevice());
    const version = sys.ioctl(kvm.#owned.fd, abi.KVM_GET_API_VERSION, null);
    if (version === abi.KVM_API_VERSION) return kvm;
    kvm.close();
    throw new FaultlineError(
      "no-kvm",
      `${KVM_DEVICE} answers with API version ${version}, not ${abi.KVM_API_VERSION}.`,
    );
  }

  /** 0: the kernel lacks it. See KVM_CHECK_EXTENSION. */
  checkExtension(capability: number): number {
    const result = sys.ioctl(this.#owned.fd, abi.KVM_CHECK_EXTENSION, capability);
    return sys.check(result, "ioctl(KVM_CHECK_EXTENSION)");
  }

  /** A `kvm_cpuid2` with everything this machine can show a guest. See KVM_GET_SUPPORTED_CPUID. */
  supportedCpuid(): Uint8Array {
    const sizeBytes = abi.kvm_cpuid2.size + CPUID_ENTRIES_MAX * abi.kvm_cpuid_entry2.size;
    const cpuid = new sys.Scratch(sizeBytes);
    cpuid.words[abi.kvm_cpuid2.offset.nent >>> 2] = CPUID_ENTRIES_MAX;
    const result = sys.ioctl(this.#owned.fd, abi.KVM_GET_SUPPORTED_CPUID, cpuid.address);
    sys.check(result, "ioctl(KVM_GET_SUPPORTED_CPUID)");
    const count = cpuid.words[abi.kvm_cpuid2.offset.nent >>> 2]!;
    return cpuid.bytes.slice(0, abi.kvm_cpuid2.size + count * abi.kvm_cpuid_entry2.size);
  }

  /** See KVM_CREATE_VM. */
  createVm(): KvmVm {
    const runSize = sys.ioctl(this.#owned.fd, abi.KVM_GET_VCPU_MMAP_SIZE, null);
    sys.check(runSize, "ioctl(KVM_GET_VCPU_MMAP_SIZE)");
    const fd = sys.check(sys.ioctl(this.#owned.fd, abi.KVM_CREATE_VM, 0), "ioctl(KVM_CREATE_VM)");
    return new KvmVm(new OwnedFd(fd), runSize);
  }

  close(): void {
    this.#owned.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A virtual machine: memory slots and vCPUs. */
export class KvmVm {
  readonly #owned: OwnedFd;
  readonly #runSizeBytes: number;

  /** Made by `Kvm.createVm`. */
  constructor(owned: OwnedFd, runSizeBytes: number) {
    this.#owned = owned;
    this.#runSizeBytes = runSizeBytes;
  }

  /**
   * Shows `memory` to the guest at a guest-physical address. Touches no page of it; the caller
   * keeps it mapped as long as the VM lives. See KVM_SET_USER_MEMORY_REGION.
   */
  setMemory(slot: number, guestAddress: number, memory: MappedRegion): void {
    const { size, offset } = abi.kvm_userspace_memory_region;
    const region = new sys.Scratch(size);
    region.words[offset.slot >>> 2] = slot;
    writeU64(region.words, offset.guest_phys_addr, guestAddress);
    writeU64(region.words, offset.memory_size, memory.sizeBytes);
    writeU64(region.words, offset.userspace_addr, memory.address);
    const result = sys.ioctl(this.#owned.fd, abi.KVM_SET_USER_MEMORY_REGION, region.address);
    sys.check(result, "ioctl(KVM_SET_USER_MEMORY_REGION)", `slot ${slot}`);
  }

  /**
   * Memory that belongs to this VM, with GUEST_MEMFD_* flags. A slot does not keep it: when the
   * descriptor and every mapping are gone, vCPUs find nothing there. See KVM_CREATE_GUEST_MEMFD.
   */
  createGuestMemfd(sizeBytes: number, flags: number): OwnedFd {
    const { size, offset } = userfaultAbi.kvm_create_guest_memfd;
    const argument = new sys.Scratch(size);
    writeU64(argument.words, offset.size, sizeBytes);
    writeU64(argument.words, offset.flags, flags);
    const request = userfaultAbi.KVM_CREATE_GUEST_MEMFD;
    const fd = sys.ioctl(this.#owned.fd, request, argument.address);
    return new OwnedFd(sys.check(fd, "ioctl(KVM_CREATE_GUEST_MEMFD)", `flags ${flags}`));
  }

  /** Shows guest_memfd to the guest. See KVM_SET_USER_MEMORY_REGION2. */
  setGuestMemfd(slot: GuestMemfdSlot): void {
    const region = new sys.Scratch(userfaultAbi.kvm_userspace_memory_region2.size);
    region.words.set(encodeGuestMemfdSlot(slot));
    const request = userfaultAbi.KVM_SET_USER_MEMORY_REGION2;
    const result = sys.ioctl(this.#owned.fd, request, region.address);
    sys.check(result, "ioctl(KVM_SET_USER_MEMORY_REGION2)", `slot ${slot.slot}`);
  }

  /** See KVM_CREATE_VCPU. */
  createVcpu(id: number): KvmVcpu {
    const fd = sys.ioctl(this.#owned.fd, abi.KVM_CREATE_VCPU, id);
    const owned = new OwnedFd(sys.check(fd, "ioctl(KVM_CREATE_VCPU)"));
    try {
      return new KvmVcpu(owned, MappedRegion.shared(owned.fd, this.#runSizeBytes));
    } catch (error) {
      owned.close();
      throw error;
    }
  }

  close(): void {
    this.#owned.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/**
 * How KVM_RUN came back:
 * - `exited` (0): `exitReason` says why.
 * - `interrupted` (EINTR): a signal, or `setImmediateExit(true)`. The next run goes on.
 * - `memoryFault` (EFAULT): `memoryFault` says which memory the guest may not touch yet.
 * - `unmapped` (EFAULT too): the guest touched memory that this process cannot reach; KVM tells no
 *   address.
 */
export type RunOutcome = "exited" | "interrupted" | "memoryFault" | "unmapped";

/** Where and why a vCPU had to stop: KVM_EXIT_MEMORY_FAULT. */
export interface MemoryFault {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  /** The page's bit is set in the userfault bitmap. */
  readonly isUserfault: boolean;
  /** The guest can go on with something else until KVM_ASYNC_PF says that the page is there. */
  readonly isAsync: boolean;
}

/** A virtual CPU: registers, and running. */
export class KvmVcpu {
  readonly #owned: OwnedFd;
  readonly #page: MappedRegion;
  readonly #run: DataView;

  /** Made by `KvmVm.createVcpu`. */
  constructor(owned: OwnedFd, page: MappedRegion) {
    assert(page.sizeBytes >= abi.kvm_run.size, `kvm_run has only ${page.sizeBytes} bytes`);
    this.#owned = owned;
    this.#page = page;
    this.#run = new DataView(page.view());
  }

  /** Blocks this thread while the guest runs, or waits for a missing page. See KVM_RUN. */
  run(): RunOutcome {
    if (sys.ioctl(this.#owned.fd, abi.KVM_RUN, null) === 0) return "exited";
    const errno = sys.errno();
    if (errno === EINTR) return "interrupted";
    if (errno !== EFAULT) throw sys.sysError("ioctl(KVM_RUN)");
    // KVM_RUN begins with KVM_EXIT_UNKNOWN: this reason is of this run.
    const isTold = this.exitReason === userfaultAbi.KVM_EXIT_MEMORY_FAULT;
    return isTold ? "memoryFault" : "unmapped";
  }

  /** After `memoryFault`. */
  get memoryFault(): MemoryFault {
    const at = userfaultAbi.kvm_run_memory_fault.offset;
    const flags = Number(this.#run.getBigUint64(at.flags, true));
    return {
      guestAddress: Number(this.#run.getBigUint64(at.gpa, true)),
      sizeBytes: Number(this.#run.getBigUint64(at.size, true)),
      isUserfault: (flags & userfaultAbi.KVM_MEMORY_EXIT_FLAG_USERFAULT) !== 0,
      isAsync: (flags & userfaultAbi.KVM_MEMORY_EXIT_FLAG_APF) !== 0,
    };
  }

  /** See KVM_ENABLE_CAP, of a vCPU. */
  enableCapability(capability: number, argument: number): void {
    const { size, offset } = abi.kvm_enable_cap;
    const scratch = new sys.Scratch(size);
    scratch.words[offset.cap >>> 2] = capability;
    writeU64(scratch.words, offset.args, argument);
    this.#set(abi.KVM_ENABLE_CAP, "KVM_ENABLE_CAP", scratch.bytes);
  }

  /** Faults come in by a ring from now on, see linux/apf-ring.ts. Two eventfds of its own. */
  setApfEventfds(notifyFd: number, completeFd: number): void {
    const { size, offset } = userfaultAbi.kvm_apf_eventfd;
    const scratch = new sys.Scratch(size);
    scratch.words[offset.fd >>> 2] = notifyFd;
    scratch.words[offset.complete_fd >>> 2] = completeFd;
    this.#set(userfaultAbi.KVM_SET_APF_EVENTFD, "KVM_SET_APF_EVENTFD", scratch.bytes);
  }

  /** While set, KVM_RUN only completes what the last exit left open, and returns `interrupted`. */
  setImmediateExit(isSet: boolean): void {
    this.#run.setUint8(abi.kvm_run.offset.immediate_exit, isSet ? 1 : 0);
  }

  /** A `KVM_EXIT_*`. */
  get exitReason(): number {
    return this.#run.getUint32(abi.kvm_run.offset.exit_reason, true);
  }

  /** The port of a KVM_EXIT_IO. */
  get ioPort(): number {
    return this.#run.getUint16(abi.kvm_run.offset["io.port"], true);
  }

  /** True if a KVM_EXIT_IO is a single 32-bit OUT. */
  get isIoOut32(): boolean {
    const at = abi.kvm_run.offset;
    return (
      this.#run.getUint8(at["io.direction"]) === abi.KVM_EXIT_IO_OUT &&
      this.#run.getUint8(at["io.size"]) === 4 &&
      this.#run.getUint32(at["io.count"], true) === 1
    );
  }

  /** The value of a 32-bit OUT. */
  get ioValue(): number {
    const offset = Number(this.#run.getBigUint64(abi.kvm_run.offset["io.data_offset"], true));
    return this.#run.getUint32(offset, true);
  }

  /** What the guest may learn about its CPU; needed before long mode. See KVM_SET_CPUID2. */
  setCpuid(cpuid: Uint8Array): void {
    this.#set(abi.KVM_SET_CPUID2, "KVM_SET_CPUID2", cpuid);
  }

  /** A `kvm_regs` as bytes. See KVM_GET_REGS. */
  registers(): Uint8Array {
    return this.#get(abi.KVM_GET_REGS, "KVM_GET_REGS", abi.kvm_regs.size);
  }

  /** See KVM_SET_REGS. */
  setRegisters(registers: Uint8Array): void {
    assert(registers.length === abi.kvm_regs.size, `not a kvm_regs: ${registers.length} bytes`);
    this.#set(abi.KVM_SET_REGS, "KVM_SET_REGS", registers);
  }

  /** A `kvm_sregs` as bytes. See KVM_GET_SREGS. */
  systemRegisters(): Uint8Array {
    return this.#get(abi.KVM_GET_SREGS, "KVM_GET_SREGS", abi.kvm_sregs.size);
  }

  /** See KVM_SET_SREGS. */
  setSystemRegisters(registers: Uint8Array): void {
    assert(registers.length === abi.kvm_sregs.size, `not a kvm_sregs: ${registers.length} bytes`);
    this.#set(abi.KVM_SET_SREGS, "KVM_SET_SREGS", registers);
  }

  /** Where the guest is: for messages. */
  get instructionPointer(): number {
    const registers = new Uint32Array(this.registers().buffer);
    return readU64(registers, abi.kvm_regs.offset.rip);
  }

  close(): void {
    this.#page.unmap();
    this.#owned.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #get(request: number, name: string, sizeBytes: number): Uint8Array<ArrayBuffer> {
    const scratch = new sys.Scratch(sizeBytes);
    sys.check(sys.ioctl(this.#owned.fd, request, scratch.address), `ioctl(${name})`);
    return scratch.bytes;
  }

  #set(request: number, name: string, bytes: Uint8Array): void {
    const scratch = new sys.Scratch(bytes.length);
    scratch.bytes.set(bytes);
    sys.check(sys.ioctl(this.#owned.fd, request, scratch.address), `ioctl(${name})`);
  }
}

function openDevice(): OwnedFd {
  let fd: number;
  try {
    fd = openSync(KVM_DEVICE, "r+");
  } catch (cause) {
    throw new FaultlineError("no-kvm", explainNoDevice(cause as NodeJS.ErrnoException), { cause });
  }
  return new OwnedFd(fd);
}

function explainNoDevice(error: NodeJS.ErrnoException): string {
  if (error.code === "EACCES" || error.code === "EPERM") {
    return (
      `This user may not open ${KVM_DEVICE}. Give it access: ` +
      `setfacl -m u:${process.getuid?.() ?? "USER"}:rw ${KVM_DEVICE}`
    );
  }
  return (
    `Cannot open ${KVM_DEVICE}. This machine has no KVM, or it is a virtual machine without ` +
    "nested virtualization."
  );
}
