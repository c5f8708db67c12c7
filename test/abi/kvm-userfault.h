/*
 * kvm-userfault.h: guest_memfd and KVM Userfault in C, for headers that lack them. Everything that <linux/kvm.h> has is
 * taken from there, or compared with it: Linux 6.8 and 6.18 have parts, a kernel with Firecracker's patches has all.
 */
#ifndef KVM_USERFAULT_H
#define KVM_USERFAULT_H

#include <linux/kvm.h>
#include <stddef.h>

#ifndef KVM_CREATE_GUEST_MEMFD /* Linux 6.8 */
#define KVM_EXIT_MEMORY_FAULT 39
#define KVM_MEM_GUEST_MEMFD (1UL << 2)
struct kvm_create_guest_memfd {
  __u64 size;
  __u64 flags;
  __u64 reserved[6];
};
#define KVM_CREATE_GUEST_MEMFD _IOWR(KVMIO, 0xd4, struct kvm_create_guest_memfd)
#define KVM_SET_USER_MEMORY_REGION2 _IOW(KVMIO, 0x49, struct kvm_userspace_memory_region2)
#define HEADERS_BEFORE_6_8
#endif

#ifndef GUEST_MEMFD_FLAG_MMAP /* Linux 6.18 */
#define GUEST_MEMFD_FLAG_MMAP (1ULL << 0)
#define GUEST_MEMFD_FLAG_INIT_SHARED (1ULL << 1)
#endif

#ifndef KVM_MEM_USERFAULT /* in no released kernel */
#define GUEST_MEMFD_FLAG_NO_DIRECT_MAP (1ULL << 2)
#define GUEST_MEMFD_FLAG_WRITE (1ULL << 3)
#define KVM_MEM_USERFAULT (1UL << 3)
#define KVM_MEMORY_EXIT_FLAG_USERFAULT (1ULL << 4)
#define KVM_MEMORY_EXIT_FLAG_APF (1ULL << 5)
#define KVM_CAP_USERFAULT 245
#define KVM_CAP_ASYNC_PF_USERFAULT 246
#define KVM_CAP_ASYNC_PF_USERFAULT_EVENTFD 247

struct userfault_memory_region2 {
  __u32 slot;
  __u32 flags;
  __u64 guest_phys_addr;
  __u64 memory_size;
  __u64 userspace_addr;
  __u64 guest_memfd_offset;
  __u32 guest_memfd;
  __u32 pad1;
  __u64 userfault_bitmap;
  __u64 pad2[13];
};
#ifndef HEADERS_BEFORE_6_8
_Static_assert(sizeof(struct userfault_memory_region2) == sizeof(struct kvm_userspace_memory_region2), "size");
_Static_assert(offsetof(struct userfault_memory_region2, guest_memfd) ==
                   offsetof(struct kvm_userspace_memory_region2, guest_memfd),
               "guest_memfd");
_Static_assert(offsetof(struct userfault_memory_region2, userfault_bitmap) ==
                   offsetof(struct kvm_userspace_memory_region2, pad2),
               "the bitmap took the first word of the padding");
#endif
/* From here on the name means the struct with the bitmap. */
#define kvm_userspace_memory_region2 userfault_memory_region2

struct kvm_async_pf {
  __u64 gpa;
  __u32 op;
  __u32 flags;
  __u64 reserved[2];
};
#define KVM_ASYNC_PF_ACCEPT 1
#define KVM_ASYNC_PF_READY 2
#define KVM_ASYNC_PF _IOW(KVMIO, 0xd6, struct kvm_async_pf)

struct kvm_apf_eventfd {
  __s32 fd;
  __s32 complete_fd;
  __u32 flags;
  __u32 padding;
  __u64 reserved[2];
};
#define KVM_SET_APF_EVENTFD _IOW(KVMIO, 0xd9, struct kvm_apf_eventfd)
#endif

/* The part of kvm_run that an exit describes begins where its union does. */
struct kvm_run_memory_fault {
  __u8 common[offsetof(struct kvm_run, hw)];
  __u64 flags;
  __u64 gpa;
  __u64 size;
};
#ifndef HEADERS_BEFORE_6_8
_Static_assert(offsetof(struct kvm_run_memory_fault, flags) == offsetof(struct kvm_run, memory_fault.flags), "flags");
_Static_assert(offsetof(struct kvm_run_memory_fault, gpa) == offsetof(struct kvm_run, memory_fault.gpa), "gpa");
_Static_assert(offsetof(struct kvm_run_memory_fault, size) == offsetof(struct kvm_run, memory_fault.size), "size");
#endif

#endif
