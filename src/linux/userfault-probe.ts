/**
 * Whether this kernel has KVM Userfault, found out by playing it: a throw-away VM with one page.
 *
 * A number of a capability proves nothing, as other kernels give it other meanings; and the flag of
 * the memory slot may be another's some day. So a vCPU has to stop at the page while its bit is
 * set, and to go past it when the bit is clear. Nothing can hang: the page is there all the time,
 * filled with an instruction that ends the guest, and nobody waits for anything.
 *
 *     guest-physical   0         page tables          ordinary memory
 *                      1 MiB     the page, bit set    guest_memfd, rip points here
 *                      + 4 KiB   control: no bitmap   guest_memfd
 */
import { describeError, FaultlineError, SysError } from "../base/errors.ts";
import { MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import { UserfaultBitmap } from "../base/userfault-bitmap.ts";
import { KVM_EXIT_SHUTDOWN, kvm_regs } from "./abi-kvm.ts";
import {
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  GUEST_MEMFD_FLAG_WRITE,
  KVM_CAP_ASYNC_PF_USERFAULT,
} from "./abi-kvm-userfault.ts";
import { EventFd } from "./eventfd.ts";
import { Kvm, type KvmVcpu, type KvmVm, type RunOutcome } from "./kvm.ts";
import { writeU64 } from "./layout.ts";
import { longModeSystemRegisters } from "./long-mode.ts";
import { MappedRegion } from "./memory.ts";

export type UserfaultSupport =
  | { readonly kind: "none"; readonly reason: string }
  | {
      readonly kind: "userfault";
      /** A handler can fill guest_memfd by pwrite(2), without a mapping of its own. */
      readonly hasMemfdWrite: boolean;
      /** Guests that know asynchronous page faults go on while a page comes. */
      readonly hasAsyncFaults: boolean;
      /** … and their faults come by a ring, without an exit. */
      readonly hasRings: boolean;
    };

const TABLES_BYTES = 16 * SMALL_PAGE_BYTES;
const PML4_ADDRESS = 0x1000;
const PDPT_ADDRESS = 0x2000;
const DIRECTORY_ADDRESS = 0x3000;
/** Of x86-64 page tables: present, writable, user, accessed; dirty and 2 MiB for a page. */
const TABLE = 0x27;
const LARGE_PAGE = 0xe7;
const PAGE_ADDRESS = MIB;
const MAPPABLE = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
/** HLT, which privilege level 3 may not: without an interrupt table that is KVM_EXIT_SHUTDOWN. */
const HLT = 0xf4;
const RFLAGS = 2; // Bit 1 is always set.
/** Signals of Node may interrupt KVM_RUN; this many in a row do not happen. */
const RUN_TRIES = 16;

/** Takes a few milliseconds; changes nothing, and leaves nothing open. */
export function probeUserfault(): UserfaultSupport {
  try {
    using kvm = Kvm.open();
    using vm = kvm.createVm();
    return probeVm(kvm, vm);
  } catch (error) {
    if (!(error instanceof FaultlineError)) throw error;
    return none(describeError(error));
  }
}

const none = (reason: string): UserfaultSupport => ({ kind: "none", reason });

function probeVm(kvm: Kvm, vm: KvmVm): UserfaultSupport {
  using tables = MappedRegion.anonymous(TABLES_BYTES);
  writePageTables(tables);
  vm.setMemory(0, 0, tables);

  using memfd = createMemfd(vm, MAPPABLE);
  if (memfd === null) return none("guest_memfd that a VMM can map needs Linux 6.18.");
  using memory = MappedRegion.shared(memfd.fd, 2 * SMALL_PAGE_BYTES);
  new Uint8Array(memory.view()).fill(HLT);
  using bits = MappedRegion.anonymous(SMALL_PAGE_BYTES);
  const words = new Uint32Array(bits.view());
  words[0] = 1;
  const addSlot = (slot: number, page: number, bitmapAddress: number | null): boolean =>
    isDone(() =>
      vm.setGuestMemfd({
        slot,
        guestAddress: PAGE_ADDRESS + page * SMALL_PAGE_BYTES,
        sizeBytes: SMALL_PAGE_BYTES,
        hostAddress: memory.address + page * SMALL_PAGE_BYTES,
        guestMemfd: memfd.fd,
        offsetBytes: page * SMALL_PAGE_BYTES,
        bitmapAddress,
      }),
    );
  // Without it, a refusal of the next could have other reasons than the flag.
  if (!addSlot(1, 1, null)) return none("KVM refuses guest_memfd even without KVM_MEM_USERFAULT.");
  if (!addSlot(2, 0, bits.address)) return none("The kernel does not know KVM_MEM_USERFAULT.");

  using vcpu = vm.createVcpu(0);
  prepareVcpu(kvm, vcpu);
  const complaint = whyNotStopped(vcpu, new UserfaultBitmap(bits.view()));
  if (complaint !== null) return none(complaint);
  using writable = createMemfd(vm, MAPPABLE | GUEST_MEMFD_FLAG_WRITE);
  const hasAsyncFaults = isDone(() => vcpu.enableCapability(KVM_CAP_ASYNC_PF_USERFAULT, 1));
  const hasRings = hasAsyncFaults && takesRings(vcpu);
  return { kind: "userfault", hasMemfdWrite: writable !== null, hasAsyncFaults, hasRings };
}

function createMemfd(vm: KvmVm, flags: number): ReturnType<KvmVm["createGuestMemfd"]> | null {
  try {
    return vm.createGuestMemfd(2 * SMALL_PAGE_BYTES, flags);
  } catch (error) {
    if (error instanceof SysError) return null;
    throw error;
  }
}

/** Null if a set bit stops the vCPU, and a clear one does not: that is KVM Userfault. */
function whyNotStopped(vcpu: KvmVcpu, bitmap: UserfaultBitmap): string | null {
  const first = run(vcpu);
  if (first !== "memoryFault") return `A vCPU went past a set bit (${wordsFor(first, vcpu)}).`;
  const { isUserfault, guestAddress } = vcpu.memoryFault;
  if (!isUserfault || guestAddress !== PAGE_ADDRESS) {
    return "A vCPU stopped at a set bit, but KVM gives another reason or address.";
  }
  bitmap.clear(0, 1);
  const second = run(vcpu);
  if (second === "exited" && vcpu.exitReason === KVM_EXIT_SHUTDOWN) return null;
  return `A vCPU did not go past a clear bit (${wordsFor(second, vcpu)}).`;
}

function run(vcpu: KvmVcpu): RunOutcome {
  let outcome: RunOutcome = "interrupted";
  for (let tries = 0; tries < RUN_TRIES && outcome === "interrupted"; tries++) outcome = vcpu.run();
  return outcome;
}

const wordsFor = (outcome: RunOutcome, vcpu: KvmVcpu): string =>
  `${outcome}, exit reason ${vcpu.exitReason}`;

/** The ring's page is not looked at: a kernel that has it elsewhere would answer by SIGBUS. */
function takesRings(vcpu: KvmVcpu): boolean {
  using notify = EventFd.create();
  using complete = EventFd.create();
  return isDone(() => vcpu.setApfEventfds(notify.fd, complete.fd));
}

/** Addresses are mapped to themselves, up to 2 MiB. */
function writePageTables(memory: MappedRegion): void {
  const words = new Uint32Array(memory.view());
  words[PML4_ADDRESS / 4] = PDPT_ADDRESS | TABLE;
  words[PDPT_ADDRESS / 4] = DIRECTORY_ADDRESS | TABLE;
  words[DIRECTORY_ADDRESS / 4] = LARGE_PAGE;
}

function prepareVcpu(kvm: Kvm, vcpu: KvmVcpu): void {
  vcpu.setCpuid(kvm.supportedCpuid());
  vcpu.setSystemRegisters(longModeSystemRegisters(vcpu.systemRegisters(), PML4_ADDRESS));
  const registers = new Uint8Array(kvm_regs.size);
  const words = new Uint32Array(registers.buffer);
  writeU64(words, kvm_regs.offset.rip, PAGE_ADDRESS);
  writeU64(words, kvm_regs.offset.rflags, RFLAGS);
  vcpu.setRegisters(registers);
}

function isDone(attempt: () => void): boolean {
  try {
    attempt();
    return true;
  } catch (error) {
    if (error instanceof SysError) return false;
    throw error;
  }
}
