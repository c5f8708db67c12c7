/**
 * guest_memfd and KVM Userfault, names verbatim: what is newer than the headers of distributions,
 * or in no released kernel. PURE; compared by `test/abi` with what `test/abi/kvm-userfault.h` says
 * in C.
 *
 * Out of tree means: the patches for Linux 6.18 of Firecracker's branch `feature/secret-hiding`.
 * Their numbers of capabilities mean other things elsewhere, so nobody may believe a number alone
 * (linux/userfault-probe.ts).
 */
import { _IOW, _IOWR, struct } from "./layout.ts";

const KVMIO = 0xae;

// Linux 6.8.
export const KVM_MEM_GUEST_MEMFD = 1 << 2;
export const KVM_EXIT_MEMORY_FAULT = 39;
/** `reserved` of 48 bytes follows, zero. */
export const kvm_create_guest_memfd = struct(64, { size: 0, flags: 8 });
export const KVM_CREATE_GUEST_MEMFD = _IOWR(KVMIO, 0xd4, kvm_create_guest_memfd.size);

// Linux 6.18. A guest_memfd with both can be mapped by the VMM, and a guest runs on it.
export const GUEST_MEMFD_FLAG_MMAP = 1 << 0;
export const GUEST_MEMFD_FLAG_INIT_SHARED = 1 << 1;

// Out of tree, like all below. Taken out of the kernel's direct map; filled by pwrite(2).
export const GUEST_MEMFD_FLAG_NO_DIRECT_MAP = 1 << 2;
export const GUEST_MEMFD_FLAG_WRITE = 1 << 3;

/** The slot has a bitmap: where a bit is set, a vCPU may not map the page. */
export const KVM_MEM_USERFAULT = 1 << 3;

/** Linux 6.8, but for `userfault_bitmap`, which is padding there: an address in the VMM. */
export const kvm_userspace_memory_region2 = struct(160, {
  slot: 0,
  flags: 4,
  guest_phys_addr: 8,
  memory_size: 16,
  userspace_addr: 24,
  guest_memfd_offset: 32,
  guest_memfd: 40,
  userfault_bitmap: 48,
});
export const KVM_SET_USER_MEMORY_REGION2 = _IOW(KVMIO, 0x49, kvm_userspace_memory_region2.size);

/** What KVM_EXIT_MEMORY_FAULT (Linux 6.8) leaves in `kvm_run`. */
export const kvm_run_memory_fault = struct(56, { flags: 32, gpa: 40, size: 48 });
/** A bit of the bitmap was set. */
export const KVM_MEMORY_EXIT_FLAG_USERFAULT = 1 << 4;
/** The guest may go on meanwhile: KVM_ASYNC_PF. */
export const KVM_MEMORY_EXIT_FLAG_APF = 1 << 5;

export const KVM_CAP_USERFAULT = 245;
/** Of a vCPU, `args[0]` 0 or 1. x86 only. */
export const KVM_CAP_ASYNC_PF_USERFAULT = 246;
export const KVM_CAP_ASYNC_PF_USERFAULT_EVENTFD = 247;

/** `reserved` of 16 bytes follows, zero. */
export const kvm_async_pf = struct(32, { gpa: 0, op: 8, flags: 12 });
export const KVM_ASYNC_PF = _IOW(KVMIO, 0xd6, kvm_async_pf.size);
export const KVM_ASYNC_PF_ACCEPT = 1;
export const KVM_ASYNC_PF_READY = 2;

/** `fd` -1 ends it. `reserved` of 16 bytes follows, zero. */
export const kvm_apf_eventfd = struct(32, { fd: 0, complete_fd: 4, flags: 8 });
export const KVM_SET_APF_EVENTFD = _IOW(KVMIO, 0xd9, kvm_apf_eventfd.size);
