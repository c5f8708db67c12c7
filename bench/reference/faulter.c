/*
 * faulter: the measuring stand-in for a guest. It asks a page-fault handler for pages and times every answer.
 *
 *   faulter SOCKET MEMORY_FILE FAULTS [--cpu N] [--order sequential|random] [--seed N] [--pause US] [--out FILE]
 *
 * It behaves as Firecracker (HEAD) does on restore: anonymous memory as large as MEMORY_FILE, a userfaultfd with
 * EVENT_REMOVE registered for missing pages, and the handshake on SOCKET, where a handler must be listening. Then one
 * thread reads one 8-byte word in each of FAULTS distinct pages, one after the other, and afterwards every word is
 * compared with the file.
 *
 *   --cpu N      pin the touching thread to this CPU
 *   --order O    sequential: pages 0, 1, 2 ... (default); random: a seeded permutation of all pages
 *   --seed N     for --order random (default 1)
 *   --pause US   sleep for so long between two faults (default 0)
 *   --out FILE   every latency in nanoseconds, in order of touching, one a line
 *
 * Prints one line of JSON:
 *   {"faults":N,"first_us":F,"p50_us":F,"p90_us":F,"p99_us":F,"max_us":F,"mean_us":F,"total_ms":F,"mismatches":N}
 *   first_us       from just after the handshake was sent until the first word was there: accept and parse included
 *   p50/p90/p99    without the first 64 faults (warm-up), unless there are not more than these
 *   max, mean      of all faults, the first one included
 *   total_ms       from before the first touch until after the last
 *
 * Exit codes: 0 every word was right; 1 some were not; 2 wrong usage or a setup step failed (said on stderr).
 * There is no timeout: with a handler that does not answer, a guest hangs, and so does this. Whoever runs it, times it.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o faulter faulter.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <sched.h>
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

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define PAGE_SIZE 4096
#define WARM_UP_FAULTS 64

struct options {
  const char *socket_path;
  const char *memory_path;
  uint64_t faults;
  int cpu; /* -1: not pinned */
  bool random_order;
  uint64_t seed;
  uint64_t pause_us;
  const char *out_path;
};

/* Formats may use %m, the text of errno. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs("faulter: ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(2);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- options -------------------------------------------------------------------------------------------------- */

static uint64_t parse_number(const char *name, const char *text) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno || end == text || *end || *text == '-') die("%s: '%s' is not an unsigned integer", name, text);
  return value;
}

static struct options parse_options(int argc, char **argv) {
  if (argc < 4)
    die("usage: faulter SOCKET MEMORY_FILE FAULTS [--cpu N] [--order sequential|random] [--seed N] [--pause US] "
        "[--out FILE]");
  struct options o = {.socket_path = argv[1], .memory_path = argv[2], .cpu = -1, .seed = 1};
  o.faults = parse_number("FAULTS", argv[3]);
  if (o.faults == 0) die("FAULTS must be at least 1");
  for (int i = 4; i < argc; i += 2) {
    const char *name = argv[i], *value = argv[i + 1];
    if (!value) die("%s: value missing", name);
    if (strcmp(name, "--cpu") == 0) {
      uint64_t cpu = parse_number(name, value);
      if (cpu >= CPU_SETSIZE) die("--cpu: %s is too large", value);
      o.cpu = (int)cpu;
    } else if (strcmp(name, "--order") == 0) {
      if (strcmp(value, "random") != 0 && strcmp(value, "sequential") != 0)
        die("--order: '%s' is neither sequential nor random", value);
      o.random_order = strcmp(value, "random") == 0;
    } else if (strcmp(name, "--seed") == 0) {
      o.seed = parse_number(name, value);
    } else if (strcmp(name, "--pause") == 0) {
      o.pause_us = parse_number(name, value);
    } else if (strcmp(name, "--out") == 0) {
      o.out_path = value;
    } else {
      die("unknown option %s", name);
    }
  }
  return o;
}

/* ---- setup ---------------------------------------------------------------------------------------------------- */

static void *allocate(size_t bytes) {
  void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (address == MAP_FAILED) die("mmap of %zu bytes: %m", bytes);
  return address;
}

static const char *map_memory_file(const char *path, size_t *size) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) die("open %s: %m", path);
  struct stat info;
  if (fstat(fd, &info) < 0) die("fstat %s: %m", path);
  if (info.st_size == 0 || info.st_size % PAGE_SIZE)
    die("%s: %lld bytes are not whole pages of %d", path, (long long)info.st_size, PAGE_SIZE);
  *size = (size_t)info.st_size;
  void *address = mmap(NULL, *size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
  if (address == MAP_FAILED) die("mmap %s: %m", path);
  close(fd);
  return address;
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

static void register_missing(int uffd, const char *guest, size_t size) {
  struct uffdio_register request = {
      .range = {.start = (uint64_t)(uintptr_t)guest, .len = size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("UFFDIO_REGISTER: %m");
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
                        "\"page_size\":%d,\"page_size_kib\":%d}]", /* bytes, whatever the name says */
                        (uintptr_t)guest, size, PAGE_SIZE, PAGE_SIZE);
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

static void pin_to_cpu(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) < 0) die("sched_setaffinity to CPU %d: %m", cpu);
}

/* ---- measurement ---------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* The pages in the order of touching; with random order all pages are permuted, of which the caller takes the first. */
static uint64_t *make_order(const struct options *o, uint64_t pages) {
  uint64_t *order = allocate(pages * sizeof *order);
  for (uint64_t i = 0; i < pages; i++) order[i] = i;
  uint64_t state = o->seed;
  for (uint64_t i = pages - 1; o->random_order && i > 0; i--) { /* Fisher-Yates */
    uint64_t j = next_random(&state) % (i + 1), page = order[i];
    order[i] = order[j];
    order[j] = page;
  }
  return order;
}

/* Another word in each page, so that a handler which copies only part of a page is found out. */
static uint64_t word_offset(uint64_t page) {
  return page * PAGE_SIZE + (page * 8) % PAGE_SIZE;
}

static int compare_numbers(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static double percentile_us(const uint64_t *sorted, uint64_t count, unsigned percent) {
  uint64_t rank = (count * percent + 99) / 100; /* nearest rank, counted from 1 */
  return (double)sorted[rank - 1] / 1e3;
}

static void write_latencies(const char *path, const uint64_t *latencies, uint64_t count) {
  FILE *file = fopen(path, "w");
  if (!file) die("open %s: %m", path);
  for (uint64_t i = 0; i < count; i++) fprintf(file, "%" PRIu64 "\n", latencies[i]);
  if (ferror(file) || fclose(file) != 0) die("write %s: %m", path);
}

int main(int argc, char **argv) {
  struct options o = parse_options(argc, argv);
  if (o.cpu >= 0) pin_to_cpu(o.cpu);
  size_t size;
  const char *expected = map_memory_file(o.memory_path, &size);
  uint64_t pages = size / PAGE_SIZE;
  if (o.faults > pages)
    die("FAULTS: %" PRIu64 " wanted, but %s has only %" PRIu64 " pages", o.faults, o.memory_path, pages);

  /* All that the loop below writes to is present beforehand: no fault but the guest's shall be measured. */
  uint64_t *order = make_order(&o, pages);
  uint64_t *latencies = allocate(o.faults * sizeof *latencies);
  uint64_t *words = allocate(o.faults * sizeof *words);
  const char *guest = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (guest == MAP_FAILED) die("mmap of %zu bytes of guest memory: %m", size);
  /* Both stay open until the end: the socket tells the handler that we live, and as long as we hold the uffd too, the
   * death of the handler cannot turn missing pages into zeroes. */
  int uffd = create_uffd();
  register_missing(uffd, guest, size);
  int socket = connect_to(o.socket_path);

  send_handshake(socket, uffd, guest, size);
  uint64_t sent_at = now_ns(), first_at = 0;
  uint64_t start = sent_at, end = sent_at;
  for (uint64_t i = 0; i < o.faults; i++) {
    const char *word = guest + word_offset(order[i]);
    if (o.pause_us > 0 && i > 0) usleep((useconds_t)o.pause_us);
    uint64_t before = now_ns();
    words[i] = *(volatile const uint64_t *)word;
    end = now_ns();
    latencies[i] = end - before;
    if (i == 0) {
      start = before;
      first_at = end;
    }
  }

  uint64_t mismatches = 0, sum = 0, max = 0;
  for (uint64_t i = 0; i < o.faults; i++) {
    uint64_t wanted;
    memcpy(&wanted, expected + word_offset(order[i]), sizeof wanted);
    mismatches += words[i] != wanted;
    sum += latencies[i];
    if (latencies[i] > max) max = latencies[i];
  }
  if (o.out_path) write_latencies(o.out_path, latencies, o.faults);
  uint64_t skipped = o.faults > WARM_UP_FAULTS ? WARM_UP_FAULTS : 0;
  uint64_t *measured = latencies + skipped, count = o.faults - skipped;
  qsort(measured, count, sizeof *measured, compare_numbers);
  printf("{\"faults\":%" PRIu64 ",\"first_us\":%.1f,\"p50_us\":%.1f,\"p90_us\":%.1f,\"p99_us\":%.1f,\"max_us\":%.1f,"
         "\"mean_us\":%.2f,\"total_ms\":%.3f,\"mismatches\":%" PRIu64 "}\n",
         o.faults, (double)(first_at - sent_at) / 1e3, percentile_us(measured, count, 50),
         percentile_us(measured, count, 90), percentile_us(measured, count, 99), (double)max / 1e3,
         (double)sum / (double)o.faults / 1e3, (double)(end - start) / 1e6, mismatches);
  return mismatches ? 1 : 0;
}
