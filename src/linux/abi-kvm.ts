/**
 * <linux/kvm.h> for x86-64, names verbatim: what a small VMM needs. PURE; compared with a C
 * compiler by `test/abi`. See Documentation/virt/kvm/api.rst.
 */
import { _IO, _IOR, _IOW, _IOWR, struct } from "./layout.ts";

const KVMIO = 0xae;

export const KVM_API_VERSION = 12;

export const kvm_userspace_memory_region = struct(32, {
  slot: 0,
  flags: 4,
  guest_phys_addr: 8,
  memory_size: 16,
  userspace_addr: 24,
});

/** `pad` of 64 bytes follows, zero. */
export const kvm_enable_cap = struct(104, { cap: 0, flags: 4, args: 8 });

/** `entries` follow, `nent` of them. */
export const kvm_cpuid2 = struct(8, { nent: 0 });
export const kvm_cpuid_entry2 = struct(40, { function: 0, index: 4 });

export const kvm_regs = struct(144, {
  rax: 0,
  rbx: 8,
  rcx: 16,
  rdx: 24,
  rsi: 32,
  rdi: 40,
  rsp: 48,
  rbp: 56,
  r8: 64,
  r9: 72,
  r10: 80,
  r11: 88,
  r12: 96,
  r13: 104,
  r14: 112,
  r15: 120,
  rip: 128,
  rflags: 136,
});

export const kvm_segment = struct(24, {
  base: 0,
  limit: 8,
  selector: 12,
  type: 14,
  present: 15,
  dpl: 16,
  db: 17,
  s: 18,
  l: 19,
  g: 20,
  avl: 21,
  unusable: 22,
});

export const kvm_sregs = struct(312, {
  cs: 0,
  ds: 24,
  es: 48,
  fs: 72,
  gs: 96,
  ss: 120,
  cr0: 224,
  cr3: 240,
  cr4: 248,
  efer: 264,
});

// What KVM_RUN leaves in the mapped page. `data` of a port access lies at io.data_offset.
export const kvm_run = struct(2352, {
  immediate_exit: 1,
  exit_reason: 8,
  "io.direction": 32,
  "io.size": 33,
  "io.port": 34,
  "io.count": 36,
  "io.data_offset": 40,
});
export const KVM_EXIT_IO_OUT = 1;

export const KVM_EXIT_UNKNOWN = 0;
export const KVM_EXIT_EXCEPTION = 1;
export const KVM_EXIT_IO = 2;
export const KVM_EXIT_HLT = 5;
export const KVM_EXIT_MMIO = 6;
export const KVM_EXIT_SHUTDOWN = 8;
export const KVM_EXIT_FAIL_ENTRY = 9;
export const KVM_EXIT_INTR = 10;
export const KVM_EXIT_INTERNAL_ERROR = 17;
export const KVM_EXIT_SYSTEM_EVENT = 24;

export const KVM_CAP_IMMEDIATE_EXIT = 136;

// On /dev/kvm.
export const KVM_GET_API_VERSION = _IO(KVMIO, 0x00);
export const KVM_CREATE_VM = _IO(KVMIO, 0x01);
export const KVM_CHECK_EXTENSION = _IO(KVMIO, 0x03);
export const KVM_GET_VCPU_MMAP_SIZE = _IO(KVMIO, 0x04);
export const KVM_GET_SUPPORTED_CPUID = _IOWR(KVMIO, 0x05, kvm_cpuid2.size);
// On a VM.
export const KVM_CREATE_VCPU = _IO(KVMIO, 0x41);
export const KVM_SET_USER_MEMORY_REGION = _IOW(KVMIO, 0x46, kvm_userspace_memory_region.size);
// On a vCPU.
export const KVM_RUN = _IO(KVMIO, 0x80);
export const KVM_GET_REGS = _IOR(KVMIO, 0x81, kvm_regs.size);
export const KVM_SET_REGS = _IOW(KVMIO, 0x82, kvm_regs.size);
export const KVM_GET_SREGS = _IOR(KVMIO, 0x83, kvm_sregs.size);
export const KVM_SET_SREGS = _IOW(KVMIO, 0x84, kvm_sregs.size);
export const KVM_SET_CPUID2 = _IOW(KVMIO, 0x90, kvm_cpuid2.size);
export const KVM_ENABLE_CAP = _IOW(KVMIO, 0xa3, kvm_enable_cap.size);
