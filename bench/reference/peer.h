/*
 * peer.h: what every stand-in for a VMM here has in common: Firecracker's (HEAD) part of a restore. Anonymous memory
 * as large as the memory file, a userfaultfd with EVENT_REMOVE registered for missing pages, and the handshake.
 *
 * The program defines PROGRAM_NAME (a string) before it includes this. Any failure here ends it with exit code 2.
 */
#ifndef PEER_H
#define PEER_H

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define PAGE_SIZE 4096
#define HUGE_PAGE_SIZE ((size_t)2 << 20)

/* Set before the memory is mapped, by guests in pages of HUGE_PAGE_SIZE. */
static size_t guest_page_size = PAGE_SIZE;

/* Formats may use %m, the text of errno. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs(PROGRAM_NAME ": ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  _exit(2); /* a forked VM must not flush what its parent has buffered */
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t parse_number(const char *name, const char *text) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno || end == text || (*end && *end != '\n') || *text == '-')
    die("%s: '%s' is not an unsigned integer", name, text);
  return value;
}

/* A private mapping of the whole file; `flags` are more flags for mmap. */
static char *map_memory_file(const char *path, int protection, int flags, size_t *size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("open %s: %m", path);
  struct stat info;
  if (fstat(fd, &info) < 0) die("fstat %s: %m", path);
  if (info.st_size == 0 || info.st_size % PAGE_SIZE)
    die("%s: %lld bytes are not whole pages of %d bytes", path, (long long)info.st_size, PAGE_SIZE);
  *size = (size_t)info.st_size;
  void *address = mmap(NULL, *size, protection, MAP_PRIVATE | flags, fd, 0);
  if (address == MAP_FAILED) die("mmap %s: %m", path);
  close(fd);
  return address;
}

static char *map_guest_memory(size_t size) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (guest_page_size == HUGE_PAGE_SIZE) flags |= MAP_HUGETLB | 21 << MAP_HUGE_SHIFT;
  void *guest = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (guest == MAP_FAILED) die("mmap of %zu bytes of guest memory: %m", size);
  return guest;
}

/* The device node first, as Firecracker does: its file mode is then the only permission needed. */
static int create_uffd(void) {
  const int flags = O_CLOEXEC | O_NONBLOCK;
  int uffd = -1;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    uffd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
    close(device);
  }
  if (uffd < 0) uffd = (int)syscall(SYS_userfaultfd, flags);
  if (uffd < 0) die("userfaultfd: %m");
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
  if (ioctl(uffd, UFFDIO_API, &api) < 0) die("UFFDIO_API: %m");
  return uffd;
}

static int connect_to(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) die("%s: socket path longer than 107 bytes", path);
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket: %m");
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect %s: %m", path);
  return fd;
}

static void send_handshake(int socket, int uffd, const char *guest, size_t size) {
  char json[256];
  int length = snprintf(json, sizeof json,
                        "[{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%zu,\"offset\":0,"
                        "\"page_size\":%zu,\"page_size_kib\":%zu}]", /* bytes, whatever the name says */
                        (uintptr_t)guest, size, guest_page_size, guest_page_size);
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  struct iovec body = {json, (size_t)length};
  struct msghdr message = {
      .msg_iov = &body, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof uffd);
  memcpy(CMSG_DATA(header), &uffd, sizeof uffd);
  ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  if (sent < 0) die("sendmsg handshake: %m");
  if (sent != length) die("sendmsg handshake: %zd of %d bytes sent", sent, length);
}

/*
 * Hands the guest's memory to the handler at `socket_path`. Userfaultfd and socket stay open until the process ends, as
 * in Firecracker: the socket tells the handler that we live, and as long as we hold the userfaultfd too, the death of
 * the handler cannot turn missing pages into zeroes.
 *
 * Returns when (now_ns) the handshake was about to be sent. Before, not after: sending wakes the handler, which may do
 * its work while the sender waits for its CPU to be given back.
 */
static uint64_t attach(const char *socket_path, const char *guest, size_t size) {
  int uffd = create_uffd();
  struct uffdio_register request = {
      .range = {.start = (uint64_t)(uintptr_t)guest, .len = size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("UFFDIO_REGISTER: %m");
  int socket = connect_to(socket_path);
  uint64_t sent_at = now_ns();
  send_handshake(socket, uffd, guest, size);
  return sent_at;
}

#endif
