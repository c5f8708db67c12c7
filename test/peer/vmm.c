/*
 * vmm: a foreign VMM for tests of page-fault handlers. It restores "guest memory" through userfaultfd and says on the
 * socket what a Firecracker release from v1.1 to today would say, then uses the memory and checks every byte of it.
 * Written from the protocol's description alone and sharing no code with Faultline, so that both cannot be wrong in
 * the same way.
 *
 *   vmm SOCKET MEMORY_FILE [options]
 *
 *   --version v1.1|v1.7|v1.11|v1.12|head   whom to imitate (default head):
 *        v1.1    keys base_host_virt_addr, size, offset; closes the socket at once; EVENT_REMOVE only with --balloon
 *        v1.7    the same and page_size_kib, which holds BYTES
 *        v1.11   as v1.7
 *        v1.12   and page_size; socket stays open as long as the process lives; EVENT_REMOVE always
 *        head    as v1.12, regions aligned to 2 MiB (all before: only to 4 KiB)
 *   --regions N       split the file in N regions with unrelated addresses (default 1, at most 64)
 *   --huge            2 MiB hugetlb pages; not with v1.1, which could not name a page size. The pool (nr_hugepages)
 *                     has to hold what is touched, with --balloon the whole file
 *   --split-json K    send the first K bytes with the fd, the rest 20 ms later
 *   --extra-keys      add keys that no release knows, before and after the known ones
 *   --kernel-touch    first of all let the kernel fault: write(2) three missing pages into a pipe
 *   --touch all|random:N|stride:N   4096-byte pages to touch: all, N distinct ones (always the same), or every Nth
 *                     (default all)
 *   --threads N       threads that touch the whole list each, starting at once, so that pages are raced for (default 1)
 *   --balloon         afterwards one thread gives memory back with MADV_DONTNEED, page after page: every 3rd touched
 *                     page, and a quarter of the untouched ones in runs of up to 8. Meanwhile the touching threads
 *                     read all that is not given back, which includes the other untouched pages (so use random or
 *                     stride: with "all" nothing is missing by then), and, while the thread goes on, half of what it
 *                     has given back. In the end everything is read again: what was given back must be zeroes
 *   --die-mid         SIGKILL itself when one thread has touched half of the list
 *   --kill-when-read PID   SIGKILL this process the moment it has taken the handshake out of the socket (as root, and not
 *                     with versions that close the socket)
 *   --linger MS       stay alive for so long after the result was printed
 *
 * Prints one line of JSON:
 *   {"touched":N,"mismatches":N,"removed":N,"nonzero_after_remove":N,"first_us":F,"total_ms":F}
 *   touched                distinct pages of the list, each verified in full by every thread
 *   mismatches             page reads that differed from the file (a page wrong for four threads counts four times)
 *   removed                pages (2 MiB ones with --huge) given back
 *   nonzero_after_remove   page reads that found anything but zeroes in memory given back
 *   first_us, total_ms     from just after the handshake was sent to the first page, and to the end (without --linger)
 *
 * Exit codes: 0 all memory was right; 1 it was not; 2 wrong usage, or a call failed (stderr names it and its errno).
 * There is no timeout: without answers a VM hangs, and so does this. Whoever runs it has to time it.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o vmm vmm.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
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

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif
#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif

#define PAGE ((size_t)4096)
#define HUGE_PAGE ((size_t)2 << 20)
#define MAX_REGIONS 64
#define MAX_THREADS 256
#define SPLIT_DELAY_MS 20
#define BALLOON_RUN 8 /* pages per madvise at most: a balloon driver reports runs, not one page at a time */

struct version {
  const char *name;
  bool sends_page_size_kib;
  bool sends_page_size;
  bool keeps_socket_open;
  bool always_wants_remove;
  bool aligns_to_huge_pages;
};

static const struct version versions[] = {
    {.name = "v1.1"},
    {.name = "v1.7", .sends_page_size_kib = true},
    {.name = "v1.11", .sends_page_size_kib = true},
    {.name = "v1.12",
     .sends_page_size_kib = true,
     .sends_page_size = true,
     .keeps_socket_open = true,
     .always_wants_remove = true},
    {.name = "head",
     .sends_page_size_kib = true,
     .sends_page_size = true,
     .keeps_socket_open = true,
     .always_wants_remove = true,
     .aligns_to_huge_pages = true},
};
#define VERSION_COUNT (sizeof versions / sizeof versions[0])

struct region {
  char *base;
  size_t size;
  size_t offset;
};

/* Numbers of 4096-byte pages, counted in the memory file. */
struct list {
  size_t *pages;
  size_t count;
};

static struct options {
  const char *socket_path;
  const char *memory_path;
  const struct version *version;
  size_t region_count;
  size_t page_size;
  size_t split_at; /* 0: not split */
  bool extra_keys;
  bool kernel_touch;
  enum { TOUCH_ALL, TOUCH_RANDOM, TOUCH_STRIDE } touch;
  size_t touch_argument;
  size_t thread_count;
  bool balloon;
  bool die_mid;
  pid_t kill_when_read;
  size_t linger_ms;
} options = {.version = &versions[VERSION_COUNT - 1], .region_count = 1, .page_size = PAGE, .thread_count = 1};

static const char *expected; /* the memory file */
static size_t memory_size;
static struct region regions[MAX_REGIONS];

static struct list touched; /* what --touch asks for, in that order */
static struct list kept;    /* with --balloon: all pages that are not given back, touched or not */
static struct list removed; /* with --balloon: the pages given back, ascending */
static size_t removed_units;

static atomic_size_t mismatches, nonzero_after_remove;
static atomic_size_t removed_so_far; /* how much of `removed` is given back; the balloon thread counts it up */
static _Atomic uint64_t first_page_at;
static pthread_barrier_t start_line;
static sem_t half_way;

/* Formats may use %m, the text of errno. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs("vmm: ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  _exit(2); /* other threads may hang in a fault; exit() could wait for what they hold */
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static void sleep_us(size_t us) {
  struct timespec t = {.tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000};
  while (nanosleep(&t, &t) < 0 && errno == EINTR) continue;
}

static void *allocate(size_t count, size_t size) {
  void *memory = calloc(count ? count : 1, size);
  if (!memory) die("calloc of %zu times %zu bytes: %m", count, size);
  return memory;
}

/* ---- options -------------------------------------------------------------------------------------------------- */

static size_t parse_number(const char *name, const char *text, size_t least, size_t most) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno || end == text || *end || *text == '-' || value < least || value > most)
    die("%s: '%s' is not a number from %zu to %zu", name, text, least, most);
  return value;
}

static const struct version *parse_version(const char *name) {
  for (size_t i = 0; i < VERSION_COUNT; i++)
    if (strcmp(versions[i].name, name) == 0) return &versions[i];
  die("--version: '%s' is none of v1.1, v1.7, v1.11, v1.12, head", name);
}

static void parse_touch(const char *text) {
  if (strcmp(text, "all") == 0) {
    options.touch = TOUCH_ALL;
  } else if (strncmp(text, "random:", 7) == 0) {
    options.touch = TOUCH_RANDOM;
    options.touch_argument = parse_number("--touch random", text + 7, 1, SIZE_MAX);
  } else if (strncmp(text, "stride:", 7) == 0) {
    options.touch = TOUCH_STRIDE;
    options.touch_argument = parse_number("--touch stride", text + 7, 1, SIZE_MAX);
  } else {
    die("--touch: '%s' is none of all, random:N, stride:N", text);
  }
}

static void parse_options(int argc, char **argv) {
  if (argc < 3) die("usage: vmm SOCKET MEMORY_FILE [options]; the options are explained at the top of vmm.c");
  options.socket_path = argv[1];
  options.memory_path = argv[2];
  for (int i = 3; i < argc; i++) {
    const char *name = argv[i];
    if (strcmp(name, "--huge") == 0) options.page_size = HUGE_PAGE;
    else if (strcmp(name, "--extra-keys") == 0) options.extra_keys = true;
    else if (strcmp(name, "--kernel-touch") == 0) options.kernel_touch = true;
    else if (strcmp(name, "--balloon") == 0) options.balloon = true;
    else if (strcmp(name, "--die-mid") == 0) options.die_mid = true;
    else {
      const char *value = argv[++i];
      if (!value) die("%s: unknown option, or its value is missing", name);
      if (strcmp(name, "--version") == 0) options.version = parse_version(value);
      else if (strcmp(name, "--regions") == 0) options.region_count = parse_number(name, value, 1, MAX_REGIONS);
      else if (strcmp(name, "--split-json") == 0) options.split_at = parse_number(name, value, 1, SIZE_MAX);
      else if (strcmp(name, "--touch") == 0) parse_touch(value);
      else if (strcmp(name, "--threads") == 0) options.thread_count = parse_number(name, value, 1, MAX_THREADS);
      else if (strcmp(name, "--kill-when-read") == 0) options.kill_when_read = (pid_t)parse_number(name, value, 2, 4194304);
      else if (strcmp(name, "--linger") == 0) options.linger_ms = parse_number(name, value, 0, 86400000);
      else die("unknown option %s", name);
    }
  }
  if (options.page_size == HUGE_PAGE && !options.version->sends_page_size_kib)
    die("--huge: %s could not tell the handler its page size", options.version->name);
}

/* ---- guest memory --------------------------------------------------------------------------------------------- */

static void map_memory_file(void) {
  const char *path = options.memory_path;
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("open %s: %m", path);
  struct stat info;
  if (fstat(fd, &info) < 0) die("fstat %s: %m", path);
  memory_size = (size_t)info.st_size;
  if (memory_size == 0 || memory_size % options.page_size)
    die("%s: %zu bytes are not whole pages of %zu bytes", path, memory_size, options.page_size);
  void *address = mmap(NULL, memory_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (address == MAP_FAILED) die("mmap %s: %m", path);
  expected = address;
  close(fd);
}

/* Each region lies in an inaccessible reservation of its own, so that no two are neighbours and the kernel cannot join
 * them: a handler that reads or fills past the end of a region gets an error instead of being lucky. */
static char *map_region(size_t size) {
  size_t alignment = options.page_size == HUGE_PAGE || options.version->aligns_to_huge_pages ? HUGE_PAGE : PAGE;
  char *reserved = mmap(NULL, size + 2 * HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (reserved == MAP_FAILED) die("mmap of %zu bytes of address space: %m", size + 2 * HUGE_PAGE);
  uintptr_t base = ((uintptr_t)reserved + PAGE + alignment - 1) / alignment * alignment;
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
  if (options.page_size == HUGE_PAGE) flags |= MAP_HUGETLB | MAP_HUGE_2MB;
  void *address = mmap((void *)base, size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (address == MAP_FAILED)
    die("mmap of %zu bytes of guest memory in pages of %zu bytes: %m", size, options.page_size);
  return address;
}

static void map_guest(void) {
  size_t units = memory_size / options.page_size;
  if (options.region_count > units)
    die("--regions: %zu regions, but the file has only %zu pages", options.region_count, units);
  size_t offset = 0;
  for (size_t i = 0; i < options.region_count; i++) {
    size_t size = (units / options.region_count + (i < units % options.region_count)) * options.page_size;
    regions[i] = (struct region){.base = map_region(size), .size = size, .offset = offset};
    offset += size;
  }
}

static size_t region_of(size_t offset) {
  size_t i = 0;
  while (offset - regions[i].offset >= regions[i].size) i++;
  return i;
}

static char *guest_address(size_t page) {
  size_t offset = page * PAGE;
  const struct region *r = &regions[region_of(offset)];
  return r->base + (offset - r->offset);
}

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
  bool wants_remove = options.version->always_wants_remove || options.balloon;
  struct uffdio_api api = {.api = UFFD_API, .features = wants_remove ? UFFD_FEATURE_EVENT_REMOVE : 0};
  if (ioctl(uffd, UFFDIO_API, &api) < 0) die("ioctl UFFDIO_API: %m");
  for (size_t i = 0; i < options.region_count; i++) {
    struct uffdio_register request = {
        .range = {.start = (uint64_t)(uintptr_t)regions[i].base, .len = regions[i].size},
        .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("ioctl UFFDIO_REGISTER of region %zu: %m", i);
  }
  return uffd;
}

/* ---- handshake ------------------------------------------------------------------------------------------------ */

static char *make_json(size_t *length) {
  char *json;
  FILE *out = open_memstream(&json, length);
  if (!out) die("open_memstream: %m");
  for (size_t i = 0; i < options.region_count; i++) {
    const struct region *r = &regions[i];
    fputs(i == 0 ? "[{" : ",{", out);
    /* Traps for parsers that search instead of parsing: brackets in a string, known names at a deeper level. */
    if (options.extra_keys) fputs("\"x_note\":\"a \\\"quoted\\\" ]} and \\\\\",\"x_flag\":true,", out);
    fprintf(out, "\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%zu,\"offset\":%zu", (uintptr_t)r->base, r->size,
            r->offset);
    if (options.version->sends_page_size) fprintf(out, ",\"page_size\":%zu", options.page_size);
    if (options.version->sends_page_size_kib) fprintf(out, ",\"page_size_kib\":%zu", options.page_size);
    if (options.extra_keys) fputs(",\"x_nested\":{\"offset\":1,\"size\":[null,-1.5e3,[]]},\"x_empty\":{}", out);
    fputc('}', out);
  }
  fputc(']', out);
  if (fclose(out) != 0) die("open_memstream: %m");
  return json;
}

static void send_with_fd(int socket, const char *bytes, size_t length, int fd) {
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  struct iovec body = {(void *)bytes, length};
  struct msghdr message = {
      .msg_iov = &body, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof fd);
  memcpy(CMSG_DATA(header), &fd, sizeof fd);
  ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
  if (sent < 0) die("sendmsg handshake: %m");
  if ((size_t)sent != length) die("sendmsg handshake: %zd of %zu bytes sent", sent, length);
}

static int connect_to_handler(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *path = options.socket_path;
  if (strlen(path) >= sizeof address.sun_path) die("%s: socket path longer than 107 bytes", path);
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket: %m");
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect %s: %m", path);
  return fd;
}

/* Between two steps of a handler there are microseconds: so it shares a CPU with us, and we come first. We are woken as
 * its recvmsg frees what was sent, and it never returns from that. */
static void prepare_to_kill_reader(int socket) {
  int least = 1; /* what is sent fills the buffer, and poll waits until it was read */
  if (setsockopt(socket, SOL_SOCKET, SO_SNDBUF, &least, sizeof least) < 0) die("SO_SNDBUF: %m");
  cpu_set_t first_cpu;
  CPU_ZERO(&first_cpu);
  CPU_SET(0, &first_cpu);
  if (sched_setaffinity(options.kill_when_read, sizeof first_cpu, &first_cpu) < 0) die("sched_setaffinity: %m");
  if (sched_setaffinity(0, sizeof first_cpu, &first_cpu) < 0) die("sched_setaffinity: %m");
  struct sched_param lowest = {.sched_priority = 1};
  if (sched_setscheduler(0, SCHED_FIFO, &lowest) < 0) die("sched_setscheduler: %m");
}

static void kill_reader(int socket) {
  struct pollfd writable = {.fd = socket, .events = POLLOUT};
  if (poll(&writable, 1, 0) != 0) die("--kill-when-read: the handshake is too short, add regions and --extra-keys");
  if (poll(&writable, 1, -1) < 0) die("poll: %m");
  if (kill(options.kill_when_read, SIGKILL) < 0) die("kill %d: %m", (int)options.kill_when_read);
  struct sched_param none = {0};
  if (sched_setscheduler(0, SCHED_OTHER, &none) < 0) die("sched_setscheduler: %m");
}

/* Gives the time at which the last byte was sent. The uffd stays open here, as in Firecracker: the death of the handler
 * then stops the guest instead of feeding it zeroes. */
static uint64_t shake_hands(int uffd) {
  size_t length;
  char *json = make_json(&length);
  if (options.split_at >= length) die("--split-json: %zu, but the JSON has only %zu bytes", options.split_at, length);
  int socket = connect_to_handler();
  if (options.kill_when_read) prepare_to_kill_reader(socket);
  size_t first = options.split_at ? options.split_at : length;
  send_with_fd(socket, json, first, uffd);
  if (first < length) {
    sleep_us(SPLIT_DELAY_MS * 1000);
    ssize_t sent = send(socket, json + first, length - first, MSG_NOSIGNAL);
    if (sent < 0) die("send rest of handshake: %m");
    if ((size_t)sent != length - first) die("send rest of handshake: %zd of %zu bytes sent", sent, length - first);
  }
  uint64_t sent_at = now_ns();
  if (options.kill_when_read) kill_reader(socket);
  if (!options.version->keeps_socket_open) close(socket);
  free(json);
  return sent_at;
}

/* ---- what to touch, what to give back ------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static void plan_touching(void) {
  size_t pages = memory_size / PAGE;
  if (options.touch == TOUCH_RANDOM && options.touch_argument > pages)
    die("--touch: %zu pages wanted, but the file has only %zu", options.touch_argument, pages);
  size_t stride = options.touch == TOUCH_STRIDE ? options.touch_argument : 1;
  touched.pages = allocate(pages, sizeof *touched.pages);
  for (size_t page = 0; page < pages; page += stride > pages - page ? pages - page : stride)
    touched.pages[touched.count++] = page;
  if (options.touch != TOUCH_RANDOM) return;
  uint64_t state = 1;
  for (size_t i = 0; i < options.touch_argument; i++) { /* Fisher-Yates, stopped when enough are drawn */
    size_t j = i + next_random(&state) % (pages - i), page = touched.pages[i];
    touched.pages[i] = touched.pages[j];
    touched.pages[j] = page;
  }
  touched.count = options.touch_argument;
}

/* In units of the page size: a part of a huge page cannot be given back. */
static void plan_balloon(void) {
  enum { UNTOUCHED, TOUCHED, REMOVED };
  size_t units = memory_size / options.page_size, pages_per_unit = options.page_size / PAGE;
  unsigned char *state = allocate(units, 1);
  for (size_t i = 0, seen = 0; i < touched.count; i++) {
    size_t unit = touched.pages[i] / pages_per_unit;
    if (state[unit] == UNTOUCHED) state[unit] = seen++ % 3 == 0 ? REMOVED : TOUCHED;
  }
  for (size_t unit = 0, seen = 0; unit < units; unit++)
    if (state[unit] == UNTOUCHED && seen++ / BALLOON_RUN % 4 == 0) state[unit] = REMOVED;

  kept.pages = allocate(units * pages_per_unit, sizeof *kept.pages);
  removed.pages = allocate(units * pages_per_unit, sizeof *removed.pages);
  for (size_t page = 0; page < units * pages_per_unit; page++) {
    struct list *list = state[page / pages_per_unit] == REMOVED ? &removed : &kept;
    list->pages[list->count++] = page;
  }
  removed_units = removed.count / pages_per_unit;
  free(state);
}

/* ---- using the memory ----------------------------------------------------------------------------------------- */

static void note_page_arrived(void) {
  uint64_t none = 0;
  if (atomic_load(&first_page_at) == 0) atomic_compare_exchange_strong(&first_page_at, &none, now_ns());
}

static void check_page(size_t page) {
  const char *address = guest_address(page);
  (void)*(volatile const char *)address; /* the fault */
  note_page_arrived();
  if (memcmp(address, expected + page * PAGE, PAGE) != 0) atomic_fetch_add(&mismatches, 1);
}

static void check_zero(size_t page) {
  static const char zeroes[PAGE];
  if (memcmp(guest_address(page), zeroes, PAGE) != 0) atomic_fetch_add(&nonzero_after_remove, 1);
}

/* Firecracker's devices and its snapshot writer pass guest memory to system calls: the kernel faults, not the guest. */
static void kernel_touch(void) {
  size_t pages = memory_size / PAGE;
  const size_t chosen[] = {0, pages / 2, pages - 1};
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) die("pipe2: %m");
  for (size_t i = 0; i < sizeof chosen / sizeof chosen[0]; i++) {
    char copy[PAGE];
    ssize_t n = write(ends[1], guest_address(chosen[i]), PAGE);
    if (n < 0) die("write of missing page %zu to a pipe: %m", chosen[i]);
    if ((size_t)n != PAGE) die("write of missing page %zu to a pipe: %zd bytes written", chosen[i], n);
    note_page_arrived();
    n = read(ends[0], copy, PAGE);
    if (n < 0) die("read from the pipe: %m");
    if ((size_t)n != PAGE) die("read from the pipe: %zd bytes read", n);
    if (memcmp(copy, expected + chosen[i] * PAGE, PAGE) != 0) atomic_fetch_add(&mismatches, 1);
  }
  close(ends[0]);
  close(ends[1]);
}

static void *touch_all(void *unused) {
  pthread_barrier_wait(&start_line);
  for (size_t i = 0; i < touched.count; i++) {
    if (i == touched.count / 2) sem_post(&half_way);
    check_page(touched.pages[i]);
  }
  return unused;
}

static void *give_back(void *unused) {
  size_t pages_per_unit = options.page_size / PAGE;
  pthread_barrier_wait(&start_line);
  for (size_t i = 0; i < removed.count;) {
    size_t first = removed.pages[i], end = i + pages_per_unit;
    while (end < removed.count && end - i < BALLOON_RUN * pages_per_unit && removed.pages[end] == first + (end - i) &&
           region_of(removed.pages[end] * PAGE) == region_of(first * PAGE))
      end += pages_per_unit;
    if (madvise(guest_address(first), (end - i) * PAGE, MADV_DONTNEED) < 0)
      die("madvise MADV_DONTNEED of %zu bytes at page %zu: %m", (end - i) * PAGE, first);
    atomic_store(&removed_so_far, i = end);
  }
  return unused;
}

/* Runs beside give_back. Never touches what is still to be given back: its content would then be anybody's guess. */
static void *touch_while_removing(void *unused) {
  size_t zero = 0; /* every other page given back is read at once, while further REMOVE events are on their way */
  bool first_pass = true;
  pthread_barrier_wait(&start_line);
  do {
    for (size_t i = 0; i < kept.count; i++) {
      check_page(kept.pages[i]);
      if (zero < atomic_load(&removed_so_far)) {
        check_zero(removed.pages[zero]);
        zero += 2;
      }
      if (!first_pass && i % 64 == 0) {
        if (atomic_load(&removed_so_far) == removed.count) break;
        sleep_us(100); /* nothing is missing any more: leave the CPU to the handler */
      }
    }
    first_pass = false;
    if (kept.count == 0) sleep_us(100);
  } while (atomic_load(&removed_so_far) < removed.count);
  return unused;
}

static void *touch_after_removing(void *unused) {
  pthread_barrier_wait(&start_line);
  for (size_t i = 0; i < removed.count; i++) check_zero(removed.pages[i]);
  for (size_t i = 0; i < kept.count; i++) check_page(kept.pages[i]);
  return unused;
}

static pthread_t start_thread(void *(*body)(void *)) {
  pthread_t thread;
  errno = pthread_create(&thread, NULL, body, NULL);
  if (errno) die("pthread_create: %m");
  return thread;
}

/* Runs `body` in every touching thread, and `companion` (or nothing) in one more; all start together. */
static void run_threads(void *(*body)(void *), void *(*companion)(void *)) {
  pthread_t threads[MAX_THREADS + 1];
  size_t count = options.thread_count + (companion ? 1 : 0);
  errno = pthread_barrier_init(&start_line, NULL, (unsigned)count);
  if (errno) die("pthread_barrier_init: %m");
  for (size_t i = 0; i < count; i++) threads[i] = start_thread(i < options.thread_count ? body : companion);
  if (options.die_mid) {
    while (sem_wait(&half_way) < 0 && errno == EINTR) continue;
    kill(getpid(), SIGKILL);
  }
  for (size_t i = 0; i < count; i++) pthread_join(threads[i], NULL);
  pthread_barrier_destroy(&start_line);
}

int main(int argc, char **argv) {
  parse_options(argc, argv);
  map_memory_file();
  plan_touching();
  if (options.balloon) plan_balloon();
  if (sem_init(&half_way, 0, 0) < 0) die("sem_init: %m");
  map_guest();
  int uffd = create_uffd();

  uint64_t sent_at = shake_hands(uffd);
  if (options.kernel_touch) kernel_touch();
  run_threads(touch_all, NULL);
  if (options.balloon) {
    run_threads(touch_while_removing, give_back);
    run_threads(touch_after_removing, NULL);
  }
  uint64_t end = now_ns();

  size_t wrong = atomic_load(&mismatches), nonzero = atomic_load(&nonzero_after_remove);
  printf("{\"touched\":%zu,\"mismatches\":%zu,\"removed\":%zu,\"nonzero_after_remove\":%zu,\"first_us\":%.1f,"
         "\"total_ms\":%.3f}\n",
         touched.count, wrong, removed_units, nonzero, (double)(atomic_load(&first_page_at) - sent_at) / 1e3,
         (double)(end - sent_at) / 1e6);
  fflush(stdout);
  sleep_us(options.linger_ms * 1000);
  return wrong || nonzero ? 1 : 0;
}
