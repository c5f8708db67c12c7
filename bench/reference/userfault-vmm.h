/*
 * userfault-vmm.h: what models of the VMM's and the kernel's half of KVM Userfault have in common. Everything that a VMM
 * makes and sends until vCPUs run, and how the kernel puts a fault into a ring.
 *
 * The program includes userfault.h first.
 */
#ifndef USERFAULT_VMM_H
#define USERFAULT_VMM_H

#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#define SECOND_GPA (4ull << 30)
#define FIRST_INDEX (UINT32_MAX - 40) /* of the rings: they run freely, and wrap around soon */

/* The guest's memory is two regions, half of the file each. */
static inline uint64_t gpa_of_page(uint64_t page, size_t pages) {
  return page < pages / 2 ? page * PAGE : SECOND_GPA + (page - pages / 2) * PAGE;
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static inline int sealed_memfd(const char *name, size_t length) {
  int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ftruncate(fd, (off_t)length) < 0) die("memfd_create: %m");
  if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0) die("F_ADD_SEALS: %m");
  return fd;
}

static inline void *map(int fd, size_t length, off_t offset) {
  void *address = mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_SHARED, fd, offset);
  if (address == MAP_FAILED) die("mmap: %m");
  return address;
}

static inline int create_uffd(const char *host, size_t size) {
  int fd = -1, device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    fd = ioctl(device, _IO(0xAA, 0x00), O_CLOEXEC | O_NONBLOCK);
    close(device);
  }
  if (fd < 0) fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
  struct uffdio_register request = {.range = {(uintptr_t)host, size},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING | UFFDIO_REGISTER_MODE_MINOR};
  if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &request) < 0) die("userfaultfd: %m");
  return fd;
}

/* ---- messages ------------------------------------------------------------------------------------------------- */

static inline int connect_to(const char *path, bool is_apf) {
  struct sockaddr_un address = socket_address(path, is_apf);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0)
    die("connect to %s: %m", address.sun_path);
  return fd;
}

static inline void send_fds(int socket, const char *text, size_t length, const int *fds, int fd_count) {
  char control[CMSG_SPACE(sizeof(int) * 3 * MAX_VCPUS)] = {0};
  struct iovec body = {(void *)text, length};
  struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1};
  if (fd_count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(sizeof(int) * (unsigned)fd_count);
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int) * (unsigned)fd_count);
    memcpy(CMSG_DATA(header), fds, sizeof(int) * (unsigned)fd_count);
  }
  if (sendmsg(socket, &message, MSG_NOSIGNAL) != (ssize_t)length) die("sendmsg: %m");
}

/* The first message, with userfaultfd, guest_memfd and bitmap. */
static inline void introduce(int socket, const char *host, size_t size, int guest_fd, int bitmap_fd) {
  char json[1024];
  int length = 0;
  size_t pages = size / PAGE;
  for (int i = 0; i < 2; i++) {
    size_t first = i == 0 ? 0 : pages / 2, end = i == 0 ? pages / 2 : pages;
    length += snprintf(json + length, sizeof json - (size_t)length,
                       "%c{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%zu,\"offset\":%zu,\"gpa_start\":%" PRIu64
                       ",\"page_size\":4096,\"is_guest_memfd\":true,\"page_size_kib\":4096}",
                       i == 0 ? '[' : ',', (uintptr_t)host + first * PAGE, (end - first) * PAGE, first * PAGE,
                       gpa_of_page(first, pages));
  }
  length += snprintf(json + length, sizeof json - (size_t)length, "]");
  const int fds[3] = {create_uffd(host, size), guest_fd, bitmap_fd};
  send_fds(socket, json, (size_t)length, fds, 3);
}

/* ---- rings ---------------------------------------------------------------------------------------------------- */

/* A vCPU's page, in a memfd that stands for the vCPU's descriptor. */
static inline struct ring_page *create_ring_page(int *vcpu_fd) {
  *vcpu_fd = sealed_memfd("vcpu", 4 * PAGE);
  struct ring_page *page = map(*vcpu_fd, PAGE, RING_OFFSET);
  *page = (struct ring_page){.version = 1, .ring_size = RING_ENTRIES, .entry_size = sizeof(struct ring_entry)};
  page->notify.head = page->notify.tail = FIRST_INDEX;
  page->complete.head = page->complete.tail = FIRST_INDEX;
  return page;
}

static inline int create_eventfd(int flags) {
  int fd = eventfd(0, EFD_CLOEXEC | flags);
  if (fd < 0) die("eventfd: %m");
  return fd;
}

static inline bool is_notify_full(const struct ring_page *page, uint32_t produced) {
  return produced - __atomic_load_n(&page->notify.tail, __ATOMIC_ACQUIRE) >= RING_ENTRIES;
}

static inline void put_notify(struct ring_page *page, uint32_t produced, uint64_t gpa) {
  page->notify.entries[produced % RING_ENTRIES] = (struct ring_entry){gpa, FLAG_USERFAULT | FLAG_APF};
}

/* Publishes what was put; signals only a handler that has asked for it, and only once. */
static inline void publish_notify(struct ring_page *page, uint32_t produced, int notify) {
  __atomic_store_n(&page->notify.head, produced, __ATOMIC_RELEASE);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (!(__atomic_fetch_and(&page->flags, ~NOTIFY_ARMED, __ATOMIC_SEQ_CST) & NOTIFY_ARMED)) return;
  uint64_t one = 1;
  if (write(notify, &one, sizeof one) < 0) die("write to an eventfd: %m");
}
#endif
