/*
 * vms: many small stand-ins for guests, to see what a page-fault handler costs per VM and keeps after each.
 *
 *   vms SOCKET MEMORY_FILE PAGES
 *
 * Each VM is a process of its own (handlers watch pids) and behaves as Firecracker (HEAD) does on restore: anonymous
 * memory as large as MEMORY_FILE, a userfaultfd with EVENT_REMOVE, the handshake on SOCKET. Then it reads one word in
 * each of PAGES pages, spread evenly over the memory, and compares it with the file.
 *
 * Commands come on stdin, one a line; each is answered with one line of JSON on stdout when it is done:
 *   hold N     N more VMs, which sleep after their last page until this program ends
 *   cycle N    N VMs, one after the other, each of which exits after its last page
 *   {"held":N,"cycled":N,"mismatches":N,"ms":F,"first_us":F}
 *       VMs that sleep now; all that came and went; wrong words so far; the time this command took; and for the last VM
 *       the time from just before it sent the handshake until its first word was there. Before, not after: sending
 *       wakes the handler, which may do its work while the sender waits for its CPU to be given back
 * At the end of stdin all VMs are killed. They also die with this program.
 *
 * Exit codes: 0 every word was right; 1 some were not; 2 wrong usage or a setup step failed (said on stderr).
 * There is no timeout: with a handler that does not answer, a guest hangs, and so does this. Whoever runs it, times it.
 *
 * Build: gcc -O2 -Wall -Wextra -o vms vms.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define PAGE_SIZE 4096
#define MAX_HELD 4096

static const char *socket_path;
static const char *expected;
static size_t memory_size;
static uint64_t touched_pages;
static pid_t held[MAX_HELD];
static size_t held_count;
static uint64_t cycled, mismatches;
static double last_first_ms;

/* Formats may use %m, the text of errno. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs("vms: ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  _exit(2); /* a VM must not flush what its parent has buffered */
}

/* What a VM tells the parent. */
struct report {
  uint64_t wrong;
  double first_ms;
};

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static uint64_t parse_number(const char *name, const char *text) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno || end == text || (*end && *end != '\n') || *text == '-')
    die("%s: '%s' is not an unsigned integer", name, text);
  return value;
}

/* ---- one VM --------------------------------------------------------------------------------------------------- */

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

static int connect_to_handler(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(socket_path) >= sizeof address.sun_path) die("%s: socket path longer than 107 bytes", socket_path);
  strcpy(address.sun_path, socket_path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket: %m");
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect %s: %m", socket_path);
  return fd;
}

static void send_handshake(int socket, int uffd, const char *guest) {
  char json[256];
  int length = snprintf(json, sizeof json,
                        "[{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%zu,\"offset\":0,"
                        "\"page_size\":%d,\"page_size_kib\":%d}]", /* bytes, whatever the name says */
                        (uintptr_t)guest, memory_size, PAGE_SIZE, PAGE_SIZE);
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

/* uffd and socket stay open, as in Firecracker, until the process ends. */
static struct report restore(void) {
  char *guest = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (guest == MAP_FAILED) die("mmap of %zu bytes of guest memory: %m", memory_size);
  int uffd = create_uffd();
  struct uffdio_register request = {
      .range = {.start = (uint64_t)(uintptr_t)guest, .len = memory_size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("UFFDIO_REGISTER: %m");
  int socket = connect_to_handler();
  struct report report = {0};
  double sent_ms = now_ms();
  send_handshake(socket, uffd, guest);

  uint64_t step = memory_size / PAGE_SIZE / touched_pages;
  for (uint64_t i = 0; i < touched_pages; i++) {
    uint64_t word, wanted;
    memcpy(&word, guest + i * step * PAGE_SIZE, sizeof word);
    if (i == 0) report.first_ms = now_ms() - sent_ms;
    memcpy(&wanted, expected + i * step * PAGE_SIZE, sizeof wanted);
    report.wrong += word != wanted;
  }
  return report;
}

/* The VM writes its report to `parent_fd`, then sleeps or exits. */
static pid_t start_vm(int parent_fd, int stays) {
  pid_t parent = getpid(), pid = fork();
  if (pid < 0) die("fork: %m");
  if (pid > 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(2); /* it died before the line above */
  struct report report = restore();
  if (write(parent_fd, &report, sizeof report) != (ssize_t)sizeof report) die("write to the parent: %m");
  while (stays) pause();
  _exit(0);
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

static void read_report(int fd) {
  struct report report;
  ssize_t n = read(fd, &report, sizeof report);
  if (n != (ssize_t)sizeof report) die("a VM ended before its last page");
  mismatches += report.wrong;
  last_first_ms = report.first_ms;
}

static pid_t start_and_hear(int stays) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) die("pipe2: %m");
  pid_t pid = start_vm(ends[1], stays);
  close(ends[1]); /* or the death of the VM would leave us waiting */
  read_report(ends[0]);
  close(ends[0]);
  return pid;
}

static void hold(uint64_t count) {
  if (count > MAX_HELD - held_count) die("hold: at most %d VMs", MAX_HELD);
  for (uint64_t i = 0; i < count; i++) held[held_count++] = start_and_hear(1);
}

static void cycle(uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    pid_t pid = start_and_hear(0);
    if (waitpid(pid, NULL, 0) < 0) die("waitpid %d: %m", (int)pid);
    cycled++;
  }
}

static void map_memory_file(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("open %s: %m", path);
  struct stat info;
  if (fstat(fd, &info) < 0) die("fstat %s: %m", path);
  memory_size = (size_t)info.st_size;
  if (memory_size == 0 || memory_size % PAGE_SIZE)
    die("%s: %zu bytes are not whole pages of %d bytes", path, memory_size, PAGE_SIZE);
  void *address = mmap(NULL, memory_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (address == MAP_FAILED) die("mmap %s: %m", path);
  expected = address;
  close(fd);
}

int main(int argc, char **argv) {
  if (argc != 4) die("usage: vms SOCKET MEMORY_FILE PAGES");
  socket_path = argv[1];
  map_memory_file(argv[2]);
  touched_pages = parse_number("PAGES", argv[3]);
  if (touched_pages == 0 || touched_pages > memory_size / PAGE_SIZE)
    die("PAGES: 1 to %zu, not %s", memory_size / PAGE_SIZE, argv[3]);

  char line[64];
  while (fgets(line, sizeof line, stdin)) {
    double start = now_ms();
    if (strncmp(line, "hold ", 5) == 0) hold(parse_number("hold", line + 5));
    else if (strncmp(line, "cycle ", 6) == 0) cycle(parse_number("cycle", line + 6));
    else die("unknown command %s", line);
    printf("{\"held\":%zu,\"cycled\":%" PRIu64 ",\"mismatches\":%" PRIu64 ",\"ms\":%.3f,\"first_us\":%.1f}\n",
           held_count, cycled, mismatches, now_ms() - start, last_first_ms * 1e3);
    fflush(stdout);
  }
  for (size_t i = 0; i < held_count; i++) kill(held[i], SIGKILL);
  while (wait(NULL) > 0) continue;
  return mismatches ? 1 : 0;
}
