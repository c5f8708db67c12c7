/*
 * handler: the reference page-fault handler that the benchmarks compare Faultline with.
 *
 *   handler SOCKET MEMORY_FILE
 *
 * It does what Firecracker's own example (on-demand) does, in plain C and without its accidents, so that a number
 * measured against it says something about Faultline and not about a straw man: one VM, one thread, the whole memory
 * file mapped and populated beforehand, one page per UFFDIO_COPY, no prefetch, no batching, no polling without sleep.
 *
 * It listens on SOCKET (an old file there is removed), prints "ready\n" on stdout, takes ONE connection with the
 * Firecracker handshake (a JSON array of mappings and the uffd as SCM_RIGHTS) and serves until that VM is gone.
 *
 * Exit codes: 0 the VM has died, which is how this program normally ends
 *             1 it cannot go on; the reason is on stderr. Once its handshake was accepted, the VM is killed first:
 *               without a handler it would hang for ever in its next fault, as it holds a copy of the uffd
 *             2 wrong usage
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o handler handler.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
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

#define MAX_REGIONS 256
#define MAX_HANDSHAKE 65536 /* 256 regions of some 150 bytes need 38 KiB; what is longer is no handshake */
#define MAX_JSON_DEPTH 32
#define DEFAULT_PAGE_SIZE 4096
/* The kernel answers EEXIST both for "page is there" and for "no huge page left". Only the second repeats for ever. */
#define MAX_REPEATED_EEXIST 1000

struct region {
  uint64_t base;
  uint64_t size;
  uint64_t offset;
  uint64_t page_size;
};

static struct region regions[MAX_REGIONS];
static size_t region_count;
static const char *memory;
static uint64_t memory_size;
static int vm_pidfd = -1;

/* Formats may use %m, the text of errno. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs("handler: ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  if (vm_pidfd >= 0) syscall(SYS_pidfd_send_signal, vm_pidfd, SIGKILL, NULL, 0);
  exit(1);
}

/* ---- the handshake's JSON ------------------------------------------------------------------------------------- */

/* A reader for exactly what the handshake may be: an array of objects whose known keys are unsigned integers. Unknown
 * keys are skipped whatever their value, because Firecracker has added keys before and will again. */
struct cursor {
  const char *at;
  const char *end;
};

static void skip_space(struct cursor *c) {
  while (c->at < c->end && strchr(" \t\r\n", *c->at) && *c->at) c->at++;
}

static char peek(struct cursor *c) {
  skip_space(c);
  return c->at < c->end ? *c->at : '\0';
}

static bool accept_char(struct cursor *c, char wanted) {
  if (peek(c) != wanted) return false;
  c->at++;
  return true;
}

static void expect_char(struct cursor *c, char wanted) {
  if (!accept_char(c, wanted)) die("handshake: expected '%c', found '%c'", wanted, peek(c));
}

/* Gives the raw text between the quotes: no known key contains an escape, so an escaped one is simply unknown. */
static struct cursor read_string(struct cursor *c) {
  expect_char(c, '"');
  struct cursor text = {c->at, c->at};
  while (c->at < c->end && *c->at != '"') c->at += *c->at == '\\' ? 2 : 1;
  if (c->at >= c->end) die("handshake: string without end");
  text.end = c->at++;
  return text;
}

static bool equals(struct cursor text, const char *word) {
  size_t length = strlen(word);
  return (size_t)(text.end - text.at) == length && memcmp(text.at, word, length) == 0;
}

static uint64_t read_u64(struct cursor *c, const char *key) {
  uint64_t value = 0;
  const char *start = (skip_space(c), c->at);
  for (; c->at < c->end && *c->at >= '0' && *c->at <= '9'; c->at++) {
    if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, (uint64_t)(*c->at - '0'), &value))
      die("handshake: %s does not fit in 64 bits", key);
  }
  if (c->at == start || (c->at < c->end && strchr(".eE", *c->at) && *c->at))
    die("handshake: %s is not an unsigned integer", key);
  return value;
}

static void skip_value(struct cursor *c, int depth) {
  if (depth > MAX_JSON_DEPTH) die("handshake: nested deeper than %d", MAX_JSON_DEPTH);
  char first = peek(c);
  if (first == '"') {
    read_string(c);
  } else if (first == '[' || first == '{') {
    char close = first == '[' ? ']' : '}';
    c->at++;
    if (accept_char(c, close)) return;
    do {
      if (first == '{') {
        read_string(c);
        expect_char(c, ':');
      }
      skip_value(c, depth + 1);
    } while (accept_char(c, ','));
    expect_char(c, close);
  } else { /* number, true, false, null: what exactly does not matter, where it ends does */
    const char *start = c->at;
    while (c->at < c->end && *c->at && !strchr(",]} \t\r\n", *c->at)) c->at++;
    if (c->at == start) die("handshake: value missing");
  }
}

static struct region read_region(struct cursor *c) {
  enum { BASE = 1, SIZE = 2, OFFSET = 4, ALL = 7 };
  struct region region = {0};
  uint64_t page_size_kib = 0;
  int seen = 0;
  expect_char(c, '{');
  do {
    struct cursor key = read_string(c);
    expect_char(c, ':');
    if (equals(key, "base_host_virt_addr")) {
      region.base = read_u64(c, "base_host_virt_addr");
      seen |= BASE;
    } else if (equals(key, "size")) {
      region.size = read_u64(c, "size");
      seen |= SIZE;
    } else if (equals(key, "offset")) {
      region.offset = read_u64(c, "offset");
      seen |= OFFSET;
    } else if (equals(key, "page_size")) {
      region.page_size = read_u64(c, "page_size");
    } else if (equals(key, "page_size_kib")) {
      page_size_kib = read_u64(c, "page_size_kib");
    } else {
      skip_value(c, 0);
    }
  } while (accept_char(c, ','));
  expect_char(c, '}');
  if (seen != ALL) die("handshake: a mapping lacks base_host_virt_addr, size or offset");
  /* page_size_kib holds BYTES in every release that ever sent it; before v1.7 there was no page size at all. */
  if (region.page_size == 0) region.page_size = page_size_kib ? page_size_kib : DEFAULT_PAGE_SIZE;
  return region;
}

static void check_region(const struct region *r) {
  uint64_t mask = r->page_size - 1;
  if (r->page_size < DEFAULT_PAGE_SIZE || (r->page_size & mask))
    die("handshake: page size %llu is not a power of two >= 4096", (unsigned long long)r->page_size);
  if (r->size == 0 || (r->size & mask) || (r->base & mask) || r->base + r->size < r->base)
    die("handshake: mapping at 0x%llx, size %llu, is not made of whole pages of %llu bytes",
        (unsigned long long)r->base, (unsigned long long)r->size, (unsigned long long)r->page_size);
  if (r->offset > memory_size || r->size > memory_size - r->offset)
    die("handshake: mapping of %llu bytes at file offset %llu ends beyond the memory file (%llu bytes)",
        (unsigned long long)r->size, (unsigned long long)r->offset, (unsigned long long)memory_size);
}

static void parse_handshake(const char *json, size_t length) {
  struct cursor c = {json, json + length};
  expect_char(&c, '[');
  do {
    if (region_count == MAX_REGIONS) die("handshake: more than %d mappings", MAX_REGIONS);
    regions[region_count] = read_region(&c);
    check_region(&regions[region_count++]);
  } while (accept_char(&c, ','));
  expect_char(&c, ']');
}

/* The message has no length and no terminator: it is complete when its brackets are closed. */
static bool is_complete(const char *json, size_t length) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < length; i++) {
    char ch = json[i];
    if (in_string) {
      if (ch == '\\') i++;
      else if (ch == '"') in_string = false;
    } else if (ch == '"') {
      in_string = true;
    } else if (ch == '[' || ch == '{') {
      depth++;
    } else if ((ch == ']' || ch == '}') && --depth <= 0) {
      return true;
    }
  }
  return false;
}

/* ---- connection ----------------------------------------------------------------------------------------------- */

static int listen_on(const char *path) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) die("%s: socket path longer than 107 bytes", path);
  strcpy(address.sun_path, path);
  int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (listener < 0) die("socket: %m");
  if (unlink(path) < 0 && errno != ENOENT) die("unlink %s: %m", path);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0) die("bind %s: %m", path);
  if (listen(listener, 1) < 0) die("listen %s: %m", path);
  return listener;
}

/* Body and fd come together in the first part of the message; the rest of a long body may come later without fd. */
static int receive_handshake(int socket) {
  static char json[MAX_HANDSHAKE];
  size_t length = 0;
  int uffd = -1;
  while (!is_complete(json, length)) {
    if (length == sizeof json) die("handshake: longer than %d bytes", MAX_HANDSHAKE);
    union { /* room for more than the one fd, so that a second is seen and refused rather than lost */
      char bytes[CMSG_SPACE(8 * sizeof(int))];
      struct cmsghdr align;
    } control;
    struct iovec body = {json + length, sizeof json - length};
    struct msghdr message = {
        .msg_iov = &body, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
    ssize_t n = recvmsg(socket, &message, MSG_CMSG_CLOEXEC);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) die("recvmsg handshake: %m");
    if (message.msg_flags & MSG_CTRUNC) die("handshake: more file descriptors than expected");
    for (struct cmsghdr *h = CMSG_FIRSTHDR(&message); h; h = CMSG_NXTHDR(&message, h)) {
      if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
      if (h->cmsg_len != CMSG_LEN(sizeof(int)) || uffd >= 0) die("handshake: more than one file descriptor");
      memcpy(&uffd, CMSG_DATA(h), sizeof uffd);
    }
    if (n == 0) die("handshake: connection closed after %zu bytes, before the JSON was complete", length);
    length += (size_t)n;
  }
  if (uffd < 0) die("handshake: no file descriptor came with the JSON");
  parse_handshake(json, length);
  /* A blocking uffd reports POLLERR for ever; every VMM sets O_NONBLOCK, so its absence means "not a uffd" too. */
  int flags = fcntl(uffd, F_GETFL);
  if (flags < 0) die("fcntl F_GETFL on the uffd: %m");
  if (!(flags & O_NONBLOCK)) die("handshake: the file descriptor is no userfaultfd opened with O_NONBLOCK");
  return uffd;
}

static int open_peer_pidfd(int socket) {
  struct ucred peer;
  socklen_t length = sizeof peer;
  if (getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0) die("getsockopt SO_PEERCRED: %m");
  int pidfd = (int)syscall(SYS_pidfd_open, peer.pid, 0);
  if (pidfd < 0 && errno == ESRCH) exit(0); /* already dead: nothing left to serve */
  if (pidfd < 0) die("pidfd_open %d: %m", (int)peer.pid);
  return pidfd;
}

/* ---- faults --------------------------------------------------------------------------------------------------- */

/* Faults read but not answered yet. Bounded by the VM's threads times the rare stale message, so it stays small. */
static uint64_t *pending;
static size_t pending_count, pending_capacity;

static void add_pending(uint64_t address) {
  if (pending_count == pending_capacity) {
    pending_capacity = pending_capacity ? 2 * pending_capacity : 256;
    pending = realloc(pending, pending_capacity * sizeof *pending);
    if (!pending) die("out of memory for %zu pending faults", pending_capacity);
  }
  pending[pending_count++] = address;
}

static const struct region *find_region(uint64_t address) {
  for (size_t i = 0; i < region_count; i++)
    if (address - regions[i].base < regions[i].size) return &regions[i];
  die("page fault at 0x%llx, which is in no mapping of the handshake", (unsigned long long)address);
}

static bool peer_has_exited(void) {
  struct pollfd peer = {.fd = vm_pidfd, .events = POLLIN};
  return poll(&peer, 1, 0) > 0;
}

/* A removed range must read as zeroes from now on. Unregistered, it does so without us: the kernel fills it, and
 * whoever waits for one of its pages is woken. */
static void forget_range(int uffd, uint64_t start, uint64_t end) {
  struct uffdio_range range = {.start = start, .len = end - start};
  if (ioctl(uffd, UFFDIO_UNREGISTER, &range) == 0) return;
  int error = errno;
  /* ENOMEM is both "the VM's memory is gone" and "too many mappings" (every hole splits one). */
  if (error == ENOMEM && peer_has_exited()) return;
  die("UFFDIO_UNREGISTER of 0x%llx..0x%llx: %s%s", (unsigned long long)start, (unsigned long long)end, strerror(error),
      error == ENOMEM ? " (vm.max_map_count reached?)" : "");
}

/* The kernel hands out faults before events, so a fault can be read ahead of the REMOVE that came before it. Hence:
 * read until empty, act on every REMOVE on the way, and answer faults only afterwards. */
static void drain(int uffd) {
  struct uffd_msg messages[64];
  for (;;) {
    ssize_t n = read(uffd, messages, sizeof messages);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0) die("read uffd: %m");
    for (size_t i = 0; i < (size_t)n / sizeof messages[0]; i++) {
      const struct uffd_msg *m = &messages[i];
      if (m->event == UFFD_EVENT_PAGEFAULT) add_pending(m->arg.pagefault.address);
      else if (m->event == UFFD_EVENT_REMOVE) forget_range(uffd, m->arg.remove.start, m->arg.remove.end);
      else die("unexpected userfaultfd event 0x%x", m->event);
    }
  }
}

static void wake(int uffd, uint64_t start, uint64_t length) {
  struct uffdio_range range = {.start = start, .len = length};
  if (ioctl(uffd, UFFDIO_WAKE, &range) < 0) die("UFFDIO_WAKE at 0x%llx: %m", (unsigned long long)start);
}

/* True when there is nothing more to do for this fault, false when it has to be tried again after the next drain. */
static bool answer_fault(int uffd, uint64_t address) {
  static uint64_t repeated_page, repeated_count;
  const struct region *r = find_region(address);
  uint64_t page = address & ~(r->page_size - 1);
  struct uffdio_copy copy = {
      .dst = page, .src = (uint64_t)(uintptr_t)(memory + r->offset + (page - r->base)), .len = r->page_size};
  if (ioctl(uffd, UFFDIO_COPY, &copy) == 0) return true;
  switch (errno) {
    case EAGAIN: /* an unread event stands before us: the layout is about to change */
      return false;
    case EEXIST: /* two threads wanted the page and the first answer served both; COPY itself woke nobody here */
      repeated_count = page == repeated_page ? repeated_count + 1 : 0;
      repeated_page = page;
      if (repeated_count > MAX_REPEATED_EEXIST)
        die("UFFDIO_COPY at 0x%llx says EEXIST again and again: are the huge pages used up?", (unsigned long long)page);
      wake(uffd, page, r->page_size);
      return true;
    case ENOENT: /* removed since, and so unregistered; the access repeats and finds the kernel's zeroes */
      wake(uffd, page, r->page_size);
      return true;
    case ESRCH: /* the VM is dying; its pidfd will say so */
      return true;
    default:
      die("UFFDIO_COPY of %llu bytes at 0x%llx: %m", (unsigned long long)r->page_size, (unsigned long long)page);
  }
}

static void answer_pending(int uffd) {
  size_t kept = 0;
  for (size_t i = 0; i < pending_count; i++)
    if (!answer_fault(uffd, pending[i])) pending[kept++] = pending[i];
  pending_count = kept;
}

/* Returns when the VM is dead. Neither sign is enough by itself: VMMs up to v1.11 close the socket right after the
 * handshake, and the process that connected may have left its memory and socket to a child. */
static void serve(int uffd, int socket) {
  enum { UFFD, SOCKET, PROCESS };
  struct pollfd fds[] = {
      [UFFD] = {.fd = uffd, .events = POLLIN},
      [SOCKET] = {.fd = socket, .events = 0}, /* POLLHUP comes unasked; data sent by mistake must not wake us */
      [PROCESS] = {.fd = vm_pidfd, .events = POLLIN},
  };
  /* After EAGAIN the thread that removes memory has to run before COPY can work. If its event was read already, no
   * further one announces that, so sleep a moment: this gives it the CPU, where retrying at once would keep it. */
  const struct timespec retry_delay = {.tv_nsec = 50 * 1000};
  while (fds[SOCKET].fd >= 0 || fds[PROCESS].fd >= 0) {
    if (ppoll(fds, 3, pending_count ? &retry_delay : NULL, NULL) < 0) {
      if (errno == EINTR) continue;
      die("ppoll: %m");
    }
    if (fds[UFFD].revents & (POLLERR | POLLNVAL)) die("poll: the userfaultfd reports an error");
    if (fds[SOCKET].revents) fds[SOCKET].fd = -1; /* a hung-up socket stays ready: out of the set, or we spin */
    if (fds[PROCESS].revents) fds[PROCESS].fd = -1;
    if (fds[UFFD].revents & POLLIN) drain(uffd);
    answer_pending(uffd);
  }
}

static void map_memory_file(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("open %s: %m", path);
  struct stat info;
  if (fstat(fd, &info) < 0) die("fstat %s: %m", path);
  if (info.st_size == 0) die("%s: memory file is empty", path);
  memory_size = (uint64_t)info.st_size;
  void *address = mmap(NULL, memory_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
  if (address == MAP_FAILED) die("mmap %s: %m", path);
  memory = address;
  close(fd);
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: handler SOCKET MEMORY_FILE\n");
    return 2;
  }
  map_memory_file(argv[2]);
  int listener = listen_on(argv[1]);
  puts("ready");
  fflush(stdout);
  int socket;
  do socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  while (socket < 0 && errno == EINTR);
  if (socket < 0) die("accept on %s: %m", argv[1]);
  /* One VM only: a second one shall be refused, not wait in the backlog for ever. */
  close(listener);
  unlink(argv[1]);
  /* Before the handshake, while the process is sure to be the one that connected. Killing it when something fails is
   * right only once its memory is ours, so die() learns of it afterwards. */
  int pidfd = open_peer_pidfd(socket);
  int uffd = receive_handshake(socket);
  vm_pidfd = pidfd;
  serve(uffd, socket);
  return 0;
}
