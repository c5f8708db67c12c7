/*
 * userfault-kernel: a kernel with KVM Userfault, played on a stock one. Loaded with LD_PRELOAD, it stands between a VMM
 * and KVM, and adds what the patches add: memory slots with a bitmap, vCPUs that leave KVM_RUN at a set bit.
 *
 *     slot with KVM_MEM_USERFAULT ─► to KVM: ordinary memory of ours, empty, under userfaultfd
 *     vCPU touches a page ─► our thread reads the fault ┬ bit clear: copies the page from guest_memfd; it goes on
 *                                                       └ bit set: interrupts KVM_RUN, which then fails with EFAULT
 *
 * Guests do not write to guest_memfd here, and KVM's own accesses come as the vCPU's. One VM at a time, one vCPU, and
 * what is given to KVM is taken as the patches define it: padding that is not zero is refused.
 *
 *   FAULTLINE_USERFAULT_MISTAKE   what this kernel does wrong: see the names below
 *
 * Build: gcc -O2 -Wall -shared -fPIC -pthread -o userfault-kernel.so userfault-kernel.c
 */
#define _GNU_SOURCE
#include "../abi/kvm-userfault.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define PAGE 4096ull
#define MAX_SLOTS 8
#define RUN_SIZE 4096
/* Node uses none of the real-time signals. */
#define KICK (SIGRTMIN + 5)

struct slot {
  uint64_t gpa, size, source; /* source: where the VMM has mapped guest_memfd */
  uint64_t *bitmap;
  char *shadow;
};

static struct slot slots[MAX_SLOTS];
static int slot_count;
static int uffd = -1;
static int vcpu_fd = -1;
static struct kvm_run *run_page;
static pthread_t vcpu_thread;
/* Of the fault that interrupts KVM_RUN; ~0: none. Written before the signal, read after it. */
static volatile uint64_t pending_gpa = ~0ull;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs("userfault-kernel: ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  _exit(2);
}

static bool makes(const char *mistake) {
  const char *chosen = getenv("FAULTLINE_USERFAULT_MISTAKE");
  return chosen && strcmp(chosen, mistake) == 0;
}

static long real_ioctl(int fd, unsigned long request, void *argument) {
  return syscall(SYS_ioctl, fd, request, argument);
}

static long refuse(int error) {
  errno = error;
  return -1;
}

/* ---- userfaultfd: which page the vCPU wants ------------------------------------------------------------------- */

static void install(struct slot *slot, uint64_t page) {
  struct uffdio_copy copy = {.dst = (uint64_t)(uintptr_t)slot->shadow + page * PAGE,
                             .src = slot->source + page * PAGE,
                             .len = PAGE};
  if (real_ioctl(uffd, UFFDIO_COPY, &copy) < 0 && errno != EEXIST) die("UFFDIO_COPY: %m");
}

static void answer(uint64_t address) {
  for (int i = 0; i < slot_count; i++) {
    uint64_t offset = address - (uint64_t)(uintptr_t)slots[i].shadow;
    if (offset >= slots[i].size) continue;
    uint64_t page = offset / PAGE;
    uint64_t word = __atomic_load_n(&slots[i].bitmap[page / 64], __ATOMIC_ACQUIRE);
    bool is_set = (word >> (page % 64)) & 1;
    if (makes("never-clear")) is_set = true;
    if (makes("ignores-bits")) is_set = false;
    if (!is_set) {
      install(&slots[i], page);
      return;
    }
    pending_gpa = slots[i].gpa + page * PAGE;
    run_page->immediate_exit = 1;
    if (pthread_kill(vcpu_thread, KICK)) die("pthread_kill");
    return;
  }
  die("a fault at %llx, in no slot", (unsigned long long)address);
}

static void *read_faults(void *unused) {
  struct uffd_msg message;
  struct pollfd ready = {.fd = uffd, .events = POLLIN};
  for (;;) {
    if (poll(&ready, 1, -1) < 0 && errno != EINTR) die("poll: %m");
    /* A fault that was interrupted takes its message back: EAGAIN. */
    if (read(uffd, &message, sizeof message) != sizeof message) continue;
    if (message.event == UFFD_EVENT_PAGEFAULT) answer(message.arg.pagefault.address & ~(PAGE - 1));
  }
  return unused;
}

static void on_kick(int signal) { (void)signal; }

static void start_reader(void) {
  const int flags = O_CLOEXEC | O_NONBLOCK;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  uffd = device >= 0 ? (int)real_ioctl(device, USERFAULTFD_IOC_NEW, (void *)(uintptr_t)flags)
                     : (int)syscall(SYS_userfaultfd, flags);
  if (device >= 0) close(device);
  if (uffd < 0) die("userfaultfd: %m");
  struct uffdio_api api = {.api = UFFD_API};
  if (real_ioctl(uffd, UFFDIO_API, &api) < 0) die("UFFDIO_API: %m");
  struct sigaction action = {.sa_handler = on_kick};
  if (sigaction(KICK, &action, NULL) < 0) die("sigaction: %m");
  pthread_t reader;
  if (pthread_create(&reader, NULL, read_faults, NULL)) die("pthread_create");
}

/* ---- what the patches add to KVM's ioctls --------------------------------------------------------------------- */

static long create_guest_memfd(int fd, struct kvm_create_guest_memfd *argument) {
  struct kvm_create_guest_memfd stock = *argument;
  if (makes("no-write") && stock.flags & GUEST_MEMFD_FLAG_WRITE) return refuse(EINVAL);
  stock.flags &= ~(GUEST_MEMFD_FLAG_NO_DIRECT_MAP | GUEST_MEMFD_FLAG_WRITE);
  return real_ioctl(fd, KVM_CREATE_GUEST_MEMFD, &stock);
}

static long set_region(int fd, const struct kvm_userspace_memory_region2 *region) {
  static const uint64_t zeroes[13];
  if (!(region->flags & KVM_MEM_USERFAULT)) return real_ioctl(fd, KVM_SET_USER_MEMORY_REGION2, (void *)region);
  if (region->flags != (KVM_MEM_USERFAULT | KVM_MEM_GUEST_MEMFD)) return refuse(EINVAL);
  if (region->pad1 || memcmp(region->pad2, zeroes, sizeof zeroes) || !region->userfault_bitmap) return refuse(EINVAL);
  if (region->guest_memfd_offset % PAGE || fcntl((int)region->guest_memfd, F_GETFD) < 0) return refuse(EINVAL);
  if (slot_count == MAX_SLOTS) die("more than %d slots with a bitmap", MAX_SLOTS);
  if (uffd < 0) start_reader();

  char *shadow = mmap(NULL, region->memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (shadow == MAP_FAILED) die("mmap: %m");
  slots[slot_count++] = (struct slot){.gpa = region->guest_phys_addr,
                                      .size = region->memory_size,
                                      .source = region->userspace_addr,
                                      .bitmap = (uint64_t *)(uintptr_t)region->userfault_bitmap,
                                      .shadow = shadow};
  struct uffdio_register watched = {.range = {.start = (uint64_t)(uintptr_t)shadow, .len = region->memory_size},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (real_ioctl(uffd, UFFDIO_REGISTER, &watched) < 0) die("UFFDIO_REGISTER: %m");
  struct kvm_userspace_memory_region stock = {.slot = region->slot,
                                              .guest_phys_addr = region->guest_phys_addr,
                                              .memory_size = region->memory_size,
                                              .userspace_addr = (uint64_t)(uintptr_t)shadow};
  return real_ioctl(fd, KVM_SET_USER_MEMORY_REGION, &stock);
}

/* One VM at a time: the slots of the last one are gone. */
static long create_vm(int fd, void *type) {
  while (slot_count > 0) {
    slot_count--;
    if (munmap(slots[slot_count].shadow, slots[slot_count].size) < 0) die("munmap: %m");
  }
  return real_ioctl(fd, KVM_CREATE_VM, type);
}

static long create_vcpu(int fd, void *id) {
  long vcpu = real_ioctl(fd, KVM_CREATE_VCPU, id);
  if (vcpu < 0) return vcpu;
  vcpu_fd = (int)vcpu;
  run_page = mmap(NULL, RUN_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu_fd, 0);
  if (run_page == MAP_FAILED) die("mmap of a vCPU: %m");
  return vcpu;
}

static long run(int fd) {
  vcpu_thread = pthread_self();
  long result = real_ioctl(fd, KVM_RUN, NULL);
  if (result == 0 || errno != EINTR || pending_gpa == ~0ull) return result;
  struct kvm_run_memory_fault *fault = (struct kvm_run_memory_fault *)run_page;
  run_page->immediate_exit = 0;
  run_page->exit_reason = KVM_EXIT_MEMORY_FAULT;
  fault->flags = makes("no-flag") ? 0 : KVM_MEMORY_EXIT_FLAG_USERFAULT;
  fault->gpa = pending_gpa;
  fault->size = PAGE;
  pending_gpa = ~0ull;
  return refuse(EFAULT);
}

static long enable_capability(int fd, struct kvm_enable_cap *argument) {
  if (argument->cap != KVM_CAP_ASYNC_PF_USERFAULT) return real_ioctl(fd, KVM_ENABLE_CAP, argument);
  return makes("no-async") || argument->flags || argument->args[0] > 1 ? refuse(EINVAL) : 0;
}

static long set_eventfds(const struct kvm_apf_eventfd *argument) {
  if (makes("no-rings")) return refuse(EINVAL);
  if (argument->flags || argument->padding || argument->reserved[0] || argument->reserved[1]) return refuse(EINVAL);
  if (argument->fd < 0 || argument->complete_fd < 0 || argument->fd == argument->complete_fd) return refuse(EINVAL);
  return fcntl(argument->fd, F_GETFD) < 0 || fcntl(argument->complete_fd, F_GETFD) < 0 ? refuse(EBADF) : 0;
}

int ioctl(int fd, unsigned long request, ...) {
  va_list args;
  va_start(args, request);
  void *argument = va_arg(args, void *);
  va_end(args);
  switch (request) {
    case KVM_CREATE_GUEST_MEMFD: return (int)create_guest_memfd(fd, argument);
    case KVM_SET_USER_MEMORY_REGION2: return (int)set_region(fd, argument);
    case KVM_CREATE_VM: return (int)create_vm(fd, argument);
    case KVM_CREATE_VCPU: return (int)create_vcpu(fd, argument);
    case KVM_RUN: return (int)(fd == vcpu_fd ? run(fd) : real_ioctl(fd, request, argument));
    case KVM_ENABLE_CAP: return (int)enable_capability(fd, argument);
    case KVM_SET_APF_EVENTFD: return (int)set_eventfds(argument);
    default: return (int)real_ioctl(fd, request, argument);
  }
}
