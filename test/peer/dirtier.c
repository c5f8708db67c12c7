/*
 * dirtier: a VMM for tests of dirty tracking. Its "guest" reads, writes and gives back memory as it is told, and it can
 * write its whole memory down itself: what anybody else makes of its memory has to be the same, byte by byte. Shares no
 * code with Faultline.
 *
 *   dirtier SOCKET MEMORY_FILE [--regions N] [--huge] [--shared] [--touched N]
 *
 *   --regions N   split the file in N regions with unrelated addresses, in reverse order (default 1, at most 16)
 *   --huge        2 MiB hugetlb pages
 *   --shared      a shared mapping of a memfd
 *   --touched N   write to the first N pages before the memory is registered, as a VMM does that loads firmware
 *
 * Commands come on stdin, one a line; each is answered by a line on stdout. Pages have 4096 bytes, whatever backs them,
 * and are counted in the memory file.
 *
 *   read FIRST COUNT            reads a word of each page                                   -> {"sum":N}
 *   write FIRST COUNT           writes a word that was never there into each page           -> {"done":N}
 *   remove FIRST COUNT          gives pages back with MADV_DONTNEED                         -> {"done":N}
 *   punch FIRST COUNT           takes pages of shared memory out of its file (MADV_REMOVE)  -> {"done":N}
 *   random OPERATIONS THREADS SEED
 *                               so many threads do so many operations each: reads, writes, whole pages, writes by the
 *                               kernel (getrandom), pages given back, runs of each, anywhere      -> {"done":N}
 *   time read|write COUNT SEED  one access to each of COUNT random pages, each timed        -> {"p50_us":F,"p99_us":F}
 *   dump FILE                   writes all memory to FILE                                   -> {"done":BYTES}
 *   drop                        unregisters nothing, but becomes /bin/cat by exec: the memory is gone (no answer)
 *
 * It ends at the end of its stdin. Exit codes: 0, or 2 if a call failed (stderr names it and its errno). There is no
 * timeout: whoever runs it has to time it.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o dirtier dirtier.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/random.h>
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
#define MAX_REGIONS 16
#define MAX_THREADS 64
#define LONGEST_RUN 12

struct region {
  char *base;
  size_t size;
  size_t offset;
};

static size_t page_size = PAGE; /* what is given back at a time */
static size_t memory_size;
static struct region regions[MAX_REGIONS];
static size_t region_count = 1;
static bool is_shared;
static size_t touched;
static atomic_uint_fast64_t next_word = 0x4449525459000000; /* no memory file holds such words by chance */

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs("dirtier: ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  _exit(2);
}

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/* ---- memory --------------------------------------------------------------------------------------------------- */

static size_t size_of_file(const char *path) {
  struct stat info;
  if (stat(path, &info) < 0) die("stat %s: %m", path);
  return (size_t)info.st_size;
}

/* The first regions are the largest; later ones are mapped first, so that addresses and offsets run apart. */
static void map_regions(void) {
  size_t pages = memory_size / page_size, offset = 0;
  if (memory_size % page_size || pages < region_count) die("the memory file has no whole pages for all regions");
  for (size_t i = 0; i < region_count; i++) {
    regions[i].size = (pages / region_count + (i < pages % region_count)) * page_size;
    regions[i].offset = offset;
    offset += regions[i].size;
  }
  for (size_t i = region_count; i-- > 0;) {
    int flags = is_shared ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, fd = -1;
    if (page_size == HUGE_PAGE) flags |= MAP_HUGETLB | MAP_HUGE_2MB;
    if (is_shared) {
      fd = memfd_create("guest", MFD_CLOEXEC);
      if (fd < 0 || ftruncate(fd, (off_t)regions[i].size) < 0) die("memfd: %m");
    }
    void *base = mmap(NULL, regions[i].size, PROT_READ | PROT_WRITE, flags, fd, 0);
    if (base == MAP_FAILED) die("mmap of %zu bytes: %m", regions[i].size);
    regions[i].base = base;
    if (fd >= 0) close(fd);
    if (mmap(NULL, PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) == MAP_FAILED) die("mmap of a gap: %m");
  }
}

static struct region *region_of(size_t offset) {
  for (size_t i = 0; i < region_count; i++)
    if (offset < regions[i].offset + regions[i].size) return &regions[i];
  die("offset %zu is outside of the memory", offset);
}

static char *at(size_t page) {
  struct region *region = region_of(page * PAGE);
  return region->base + (page * PAGE - region->offset);
}

static void write_word(size_t page, size_t word) {
  ((volatile uint64_t *)at(page))[word] = atomic_fetch_add(&next_word, 1);
}

static uint64_t read_word(size_t page, size_t word) {
  return ((volatile uint64_t *)at(page))[word];
}

/* Whole pages of the backing only: rounds inwards, and stays in one region. */
static size_t remove_pages(size_t first, size_t count, int advice) {
  struct region *region = region_of(first * PAGE);
  size_t start = (first * PAGE + page_size - 1) / page_size * page_size;
  size_t end = (first + count) * PAGE;
  if (end > region->offset + region->size) end = region->offset + region->size;
  end = end / page_size * page_size;
  if (start >= end) return 0;
  if (madvise(region->base + (start - region->offset), end - start, advice) < 0) die("madvise: %m");
  return (end - start) / PAGE;
}

/* ---- the handshake -------------------------------------------------------------------------------------------- */

static int register_memory(void) {
  const int flags = O_CLOEXEC | O_NONBLOCK;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), uffd = -1;
  if (device >= 0) uffd = ioctl(device, USERFAULTFD_IOC_NEW, flags);
  if (uffd < 0) uffd = (int)syscall(SYS_userfaultfd, flags);
  if (uffd < 0) die("userfaultfd: %m");
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
  if (ioctl(uffd, UFFDIO_API, &api) < 0) die("UFFDIO_API: %m");
  for (size_t i = 0; i < region_count; i++) {
    struct uffdio_register request = {.range = {.start = (uintptr_t)regions[i].base, .len = regions[i].size},
                                      .mode = UFFDIO_REGISTER_MODE_MISSING};
    if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("UFFDIO_REGISTER: %m");
  }
  return uffd;
}

static void shake_hands(const char *path, int uffd) {
  static char json[MAX_REGIONS * 160];
  size_t length = 0;
  for (size_t i = 0; i < region_count; i++)
    length += (size_t)snprintf(json + length, sizeof json - length,
                               "%s{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%zu,\"offset\":%zu,"
                               "\"page_size\":%zu,\"page_size_kib\":%zu}%s",
                               i == 0 ? "[" : ",", (uintptr_t)regions[i].base, regions[i].size, regions[i].offset,
                               page_size, page_size, i + 1 == region_count ? "]" : "");
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) die("%s: too long", path);
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); /* stays open, as in Firecracker */
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect %s: %m", path);
  union {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr align;
  } control = {0};
  struct iovec body = {json, length};
  struct msghdr message = {
      .msg_iov = &body, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes};
  struct cmsghdr *header = CMSG_FIRSTHDR(&message);
  header->cmsg_level = SOL_SOCKET;
  header->cmsg_type = SCM_RIGHTS;
  header->cmsg_len = CMSG_LEN(sizeof uffd);
  memcpy(CMSG_DATA(header), &uffd, sizeof uffd);
  if (sendmsg(fd, &message, MSG_NOSIGNAL) != (ssize_t)length) die("sendmsg: %m");
}

/* ---- what the guest does -------------------------------------------------------------------------------------- */

struct random_work {
  pthread_t thread;
  uint64_t state;
  size_t operations;
};

static void one_random_operation(uint64_t *state) {
  size_t pages = memory_size / PAGE, first = next_random(state) % pages;
  size_t run = next_random(state) % 4 ? 1 : 1 + next_random(state) % LONGEST_RUN;
  if (run > pages - first) run = pages - first;
  size_t word = next_random(state) % (PAGE / 8), kind = next_random(state) % 8;
  if (kind == 7) { /* a huge page goes only as a whole */
    size_t unit = page_size / PAGE;
    remove_pages(first / unit * unit, page_size == PAGE ? run : unit, MADV_DONTNEED);
    return;
  }
  for (size_t page = first; page < first + run; page++) {
    if (kind < 3) read_word(page, word);
    else if (kind < 5) write_word(page, word);
    else if (kind == 5) memset(at(page), (int)(word & 0xff), PAGE);
    else if (getrandom(at(page) + word, 64 < PAGE - word ? 64 : PAGE - word, 0) < 0) die("getrandom: %m");
  }
}

static void *work_at_random(void *argument) {
  struct random_work *work = argument;
  for (size_t i = 0; i < work->operations; i++) one_random_operation(&work->state);
  return NULL;
}

static void run_at_random(size_t operations, size_t threads, uint64_t seed) {
  static struct random_work works[MAX_THREADS];
  if (threads < 1 || threads > MAX_THREADS) die("1 to %d threads", MAX_THREADS);
  for (size_t i = 0; i < threads; i++) {
    works[i] = (struct random_work){.state = seed * 1000 + i, .operations = operations};
    if (pthread_create(&works[i].thread, NULL, work_at_random, &works[i])) die("pthread_create");
  }
  for (size_t i = 0; i < threads; i++) pthread_join(works[i].thread, NULL);
}

static int compare_numbers(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static void time_accesses(bool writes, size_t count, uint64_t seed) {
  size_t pages = memory_size / PAGE;
  if (count < 1 || count > pages) die("1 to %zu pages", pages);
  size_t *order = calloc(pages, sizeof *order);
  uint64_t *took = calloc(count, sizeof *took), state = seed;
  if (!order || !took) die("calloc: %m");
  for (size_t i = 0; i < pages; i++) order[i] = i;
  for (size_t i = 0; i < count; i++) {
    size_t other = i + next_random(&state) % (pages - i), page = order[other];
    order[other] = order[i];
    order[i] = page;
    uint64_t start = now_ns();
    if (writes) write_word(page, 1);
    else read_word(page, 1);
    took[i] = now_ns() - start;
  }
  qsort(took, count, sizeof *took, compare_numbers);
  printf("{\"p50_us\":%.3f,\"p99_us\":%.3f}\n", (double)took[count / 2] / 1000, (double)took[count * 99 / 100] / 1000);
  free(order);
  free(took);
}

static void dump(const char *path) {
  int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (fd < 0) die("open %s: %m", path);
  static char page[4096];
  for (size_t i = 0; i < memory_size / PAGE; i++) {
    memcpy(page, at(i), PAGE);
    if (write(fd, page, PAGE) != (ssize_t)PAGE) die("write %s: %m", path);
  }
  close(fd);
}

static void obey(char *line) {
  char path[512], what[16];
  size_t a, b;
  uint64_t seed;
  if (sscanf(line, "read %zu %zu", &a, &b) == 2) {
    uint64_t sum = 0;
    for (size_t page = a; page < a + b; page++) sum += read_word(page, 0) & 0xff;
    printf("{\"sum\":%" PRIu64 "}\n", sum);
  } else if (sscanf(line, "write %zu %zu", &a, &b) == 2) {
    for (size_t page = a; page < a + b; page++) write_word(page, page % (PAGE / 8));
    printf("{\"done\":%zu}\n", b);
  } else if (sscanf(line, "remove %zu %zu", &a, &b) == 2) {
    printf("{\"done\":%zu}\n", remove_pages(a, b, MADV_DONTNEED));
  } else if (sscanf(line, "punch %zu %zu", &a, &b) == 2) {
    printf("{\"done\":%zu}\n", remove_pages(a, b, MADV_REMOVE));
  } else if (sscanf(line, "random %zu %zu %" SCNu64, &a, &b, &seed) == 3) {
    run_at_random(a, b, seed);
    printf("{\"done\":%zu}\n", a * b);
  } else if (sscanf(line, "time %15s %zu %" SCNu64, what, &a, &seed) == 3) {
    time_accesses(strcmp(what, "write") == 0, a, seed);
  } else if (sscanf(line, "dump %511s", path) == 1) {
    dump(path);
    printf("{\"done\":%zu}\n", memory_size);
  } else if (strncmp(line, "drop", 4) == 0) {
    execl("/bin/cat", "cat", (char *)NULL);
    die("exec: %m");
  } else {
    die("unknown command: %s", line);
  }
  fflush(stdout);
}

int main(int argc, char **argv) {
  if (argc < 3) die("usage: dirtier SOCKET MEMORY_FILE [options]; they are explained at the top of dirtier.c");
  for (int i = 3; i < argc; i++) {
    if (strcmp(argv[i], "--huge") == 0) page_size = HUGE_PAGE;
    else if (strcmp(argv[i], "--shared") == 0) is_shared = true;
    else if (strcmp(argv[i], "--regions") == 0 && i + 1 < argc) region_count = strtoull(argv[++i], NULL, 10);
    else if (strcmp(argv[i], "--touched") == 0 && i + 1 < argc) touched = strtoull(argv[++i], NULL, 10);
    else die("unknown option %s", argv[i]);
  }
  if (region_count < 1 || region_count > MAX_REGIONS) die("1 to %d regions", MAX_REGIONS);
  memory_size = size_of_file(argv[2]);
  map_regions();
  for (size_t page = 0; page < touched; page++) write_word(page, 0);
  shake_hands(argv[1], register_memory());
  puts("{\"ready\":true}");
  fflush(stdout);
  char line[1024];
  while (fgets(line, sizeof line, stdin)) obey(line);
  return 0;
}
