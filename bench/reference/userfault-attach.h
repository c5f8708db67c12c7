/*
 * userfault-attach.h: how a handler comes by a VM with KVM Userfault: it listens on both sockets, takes one VM's two
 * messages, and has then the guest's regions, memory, bitmap and rings.
 *
 * The program includes userfault.h first.
 */
#ifndef USERFAULT_ATTACH_H
#define USERFAULT_ATTACH_H

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAX_REGIONS 16

struct region {
  uint64_t host, size, offset, gpa;
};

static struct region regions[MAX_REGIONS];
static int region_count;
static int uffd = -1, guest_fd = -1;
static uint64_t *bitmap;
static struct {
  struct ring_page *page;
  int notify, complete;
} vcpus[MAX_VCPUS];
static int ring_count;

static inline bool find(uint64_t address, bool is_gpa, struct region *found, uint64_t *offset) {
  for (int i = 0; i < region_count; i++) {
    uint64_t start = is_gpa ? regions[i].gpa : regions[i].host;
    if (address < start || address - start >= regions[i].size) continue;
    *found = regions[i];
    *offset = address - start + regions[i].offset;
    return true;
  }
  return false;
}

/* Present in whole, so that no fault of our own is in any answer. */
static inline char *map_memory_file(const char *path, size_t *size) {
  int file = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (file < 0 || fstat(file, &info) < 0) die("%s: %m", path);
  *size = (size_t)info.st_size;
  char *memory = mmap(NULL, *size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, file, 0);
  if (memory == MAP_FAILED) die("mmap of %s: %m", path);
  close(file);
  return memory;
}

static inline int listen_at(const char *path, bool is_apf) {
  struct sockaddr_un address = socket_address(path, is_apf);
  unlink(address.sun_path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof address) < 0 || listen(fd, 4) < 0)
    die("listen on %s: %m", address.sun_path);
  return fd;
}

static inline ssize_t receive(int socket, void *bytes, size_t size, int *fds, int *fd_count) {
  char control[CMSG_SPACE(sizeof(int) * 3 * MAX_VCPUS)];
  struct iovec body = {bytes, size};
  struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
  ssize_t count = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
  if (count <= 0) die("the VMM has gone: %m");
  *fd_count = 0;
  for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h != NULL; h = CMSG_NXTHDR(&message, h)) {
    *fd_count = (int)((h->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(h), h->cmsg_len - CMSG_LEN(0));
  }
  return count;
}

static inline uint64_t field(const char *object, const char *name) {
  const char *at = strstr(object, name);
  if (at == NULL) die("the handshake lacks %s", name);
  return strtoull(at + strlen(name) + 2, NULL, 10);
}

static inline void take_handshake(int socket) {
  static char json[65536];
  int fds[3 * MAX_VCPUS], fd_count;
  json[receive(socket, json, sizeof json - 1, fds, &fd_count)] = 0;
  if (fd_count != 3) die("the handshake carries %d descriptors, not 3", fd_count);
  uffd = fds[0];
  guest_fd = fds[1];
  for (char *at = json; (at = strchr(at, '{')) != NULL && region_count < MAX_REGIONS; at++) {
    regions[region_count++] = (struct region){.host = field(at, "base_host_virt_addr"), .size = field(at, "\"size"),
                                              .offset = field(at, "offset"), .gpa = field(at, "gpa_start")};
  }
  struct stat info;
  if (fstat(fds[2], &info) < 0) die("fstat: %m");
  bitmap = mmap(NULL, (size_t)info.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fds[2], 0);
  if (bitmap == MAP_FAILED) die("mmap of the bitmap: %m");
}

/* The text ends where it ends; behind it frames may be, which stay in the stream. */
static inline void take_rings(struct stream *s) {
  int fds[3 * MAX_VCPUS], fd_count;
  s->held = (size_t)receive(s->fd, s->bytes, sizeof s->bytes, fds, &fd_count);
  ring_count = fd_count / 3;
  char text[32];
  size_t length = (size_t)snprintf(text, sizeof text, ring_count ? "exitless_apf:%d" : "no_exitless_apf", ring_count);
  while (s->held < length) {
    if (!fill_stream(s)) die("the VMM has gone");
  }
  if (memcmp(s->bytes, text, length) != 0) die("the second message is not %s", text);
  s->held -= length;
  memmove(s->bytes, s->bytes + length, s->held);
  for (int i = 0; i < ring_count; i++) {
    vcpus[i].notify = fds[3 * i];
    vcpus[i].complete = fds[3 * i + 1];
    vcpus[i].page = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fds[3 * i + 2], RING_OFFSET);
    if (vcpus[i].page == MAP_FAILED) die("mmap of a ring: %m");
    close(fds[3 * i + 2]);
  }
}
#endif
