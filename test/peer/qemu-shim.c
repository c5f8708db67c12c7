/*
 * qemu-shim: lets an unchanged QEMU restore its guest lazily. Loaded with LD_PRELOAD, it waits for QEMU to map the
 * guest's memory (`-object memory-backend-memfd`), registers that mapping with userfaultfd, and introduces it to a
 * page-fault handler as Firecracker would. Every page is missing then, and QEMU notices nothing.
 *
 *   FAULTLINE_SHIM_SOCKET   the handler's socket; without it the shim does nothing
 *
 * Works for one memory backend in pages of 4 KiB. The userfaultfd and the connection stay open as long as QEMU lives.
 *
 * Build: gcc -O2 -Wall -shared -fPIC -o qemu-shim.so qemu-shim.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

/* What QEMU calls the file of a memory-backend-memfd, as /proc/self/fd shows it. */
#define BACKEND_NAME "/memfd:memory-backend-memfd"

/* Formats may use %m, the text of errno. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs("qemu-shim: ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  _exit(2);
}

static bool is_guest_memory(int fd) {
  if (fd < 0 || !getenv("FAULTLINE_SHIM_SOCKET")) return false;
  char link[64], name[256];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  ssize_t length = readlink(link, name, sizeof name - 1);
  if (length < 0) return false;
  name[length] = '\0';
  return strncmp(name, BACKEND_NAME, strlen(BACKEND_NAME)) == 0;
}

static int register_memory(void *base, size_t size) {
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
  if (ioctl(uffd, UFFDIO_API, &api) < 0) die("ioctl UFFDIO_API: %m");
  struct uffdio_register request = {.range = {.start = (uint64_t)(uintptr_t)base, .len = size},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("ioctl UFFDIO_REGISTER: %m");
  return uffd;
}

static void introduce(void *base, size_t size, int uffd) {
  const char *path = getenv("FAULTLINE_SHIM_SOCKET");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) die("FAULTLINE_SHIM_SOCKET: '%s' is too long for a socket", path);
  strcpy(address.sun_path, path);
  int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connection < 0) die("socket: %m");
  if (connect(connection, (struct sockaddr *)&address, sizeof address) < 0) die("connect to %s: %m", path);

  char json[256];
  int length = snprintf(json, sizeof json,
                        "[{\"base_host_virt_addr\":%llu,\"size\":%zu,\"offset\":0,"
                        "\"page_size\":4096,\"page_size_kib\":4096}]",
                        (unsigned long long)(uintptr_t)base, size);
  struct iovec data = {.iov_base = json, .iov_len = (size_t)length};
  union {
    char bytes[CMSG_SPACE(sizeof uffd)];
    struct cmsghdr aligned;
  } control = {0};
  struct msghdr message = {
      .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof uffd);
  memcpy(CMSG_DATA(header), &uffd, sizeof uffd);
  if (sendmsg(connection, &message, MSG_NOSIGNAL) != length) die("sendmsg of the handshake: %m");
}

/* QEMU first reserves address space without a file, to align it, and then maps the memory into that: once. */
void *mmap64(void *address, size_t size, int protection, int flags, int fd, off64_t offset) {
  void *base = (void *)syscall(SYS_mmap, address, size, protection, flags, fd, offset);
  if (base == MAP_FAILED || !(protection & PROT_WRITE) || !is_guest_memory(fd)) return base;
  static bool is_introduced;
  if (is_introduced || offset != 0) die("guest memory is mapped twice: use one memory backend");
  is_introduced = true;
  introduce(base, size, register_memory(base, size));
  return base;
}

void *mmap(void *address, size_t size, int protection, int flags, int fd, off_t offset) {
  return mmap64(address, size, protection, flags, fd, offset);
}
