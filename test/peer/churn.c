/*
 * churn: guest memory that is given back and used again all the time, by many threads at once. Readers compare every
 * page they see with what it may hold at that moment; removers give runs of pages back with MADV_DONTNEED and write to
 * some of them afterwards, so that pages go round and round: missing, zero, written, given back, zero again.
 *
 *   churn SOCKET MEMORY_FILE MILLISECONDS READERS SEED [--huge] [--rest MICROSECONDS] [--pulse]
 *
 * SIGTERM ends it as if its time were over.
 *
 *   --huge    2 MiB pages
 *   --rest    readers rest for so long after each pair of reads, removers ten times as long after each run: pages that
 *             hold the file's bytes last longer, and many such VMs leave each other some CPU time
 *   --pulse   one more thread gives the last page back and reads it, again and again, and notes when the answer took
 *             long: what a handler's death costs a guest
 *
 * What a page may hold is told by its epoch, which its one remover counts up: even while it rests, odd from before the
 * madvise until after it (and after the write).
 *
 *   epoch 0      never given back: the file's bytes
 *   epoch 1      being given back for the first time: each word the file's or zero
 *   odd, > 1     each word zero, but the first of the page, which may hold a tag
 *   even, > 0    zeroes, and in the first word the tag that the remover wrote, if it did
 *
 * Prints {"reads":N,"removes":N,"wrong":N,"stalls":[[END,LENGTH],...]}: stalls in milliseconds, their ends by
 * CLOCK_MONOTONIC. Exit codes: 0 all was right; 1 it was not; 2 a call failed.
 * There is no timeout: whoever runs it has to time it. Shares no code with Faultline.
 *
 * Build: gcc -O2 -Wall -pthread -o churn churn.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
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
#define WORDS (PAGE / sizeof(uint64_t))
#define REMOVERS 2
#define MAX_READERS 64
#define LONGEST_RUN 8
#define PULSE_REST_US 2000
#define STALL_MS 5.0 /* what is shorter is not noted */
#define MAX_STALLS 4096

static size_t page_size = PAGE; /* what is given back at a time */
static size_t memory_size, page_count;
static const char *expected;
static volatile uint64_t *guest;
static _Atomic uint32_t *epochs;
static _Atomic uint64_t *tags;
static atomic_bool over;
static atomic_size_t reads, removes, wrong;
static uint64_t seed;
static useconds_t rest_us;
static bool has_pulse;
static struct stall {
  double end_ms, length_ms;
} stalls[MAX_STALLS];
static size_t stall_count;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("churn: ", stderr);
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  _exit(2);
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static void map_memory_file(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) < 0) die("%s: %m", path);
  memory_size = (size_t)info.st_size;
  page_count = memory_size / page_size;
  if (page_count < REMOVERS) die("%s: too small", path);
  expected = mmap(NULL, memory_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (expected == MAP_FAILED) die("mmap %s: %m", path);
}

static int register_guest(void) {
  int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
  if (page_size > PAGE) flags |= MAP_HUGETLB | MAP_HUGE_2MB;
  void *memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, flags, -1, 0);
  if (memory == MAP_FAILED) die("mmap of the guest: %m");
  guest = memory;
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), uffd = -1;
  if (device >= 0) uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  if (uffd < 0) uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (uffd < 0) die("userfaultfd: %m");
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
  if (ioctl(uffd, UFFDIO_API, &api) < 0) die("UFFDIO_API: %m");
  struct uffdio_register request = {.range = {.start = (uintptr_t)memory, .len = memory_size},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("UFFDIO_REGISTER: %m");
  return uffd;
}

static void shake_hands(const char *path, int uffd) {
  char json[256];
  int length = snprintf(json, sizeof json,
                        "[{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%zu,\"offset\":0,\"page_size\":%zu,"
                        "\"page_size_kib\":%zu}]",
                        (uintptr_t)guest, memory_size, page_size, page_size);
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(path) >= sizeof address.sun_path) die("%s: too long", path);
  strcpy(address.sun_path, path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0); /* stays open, as in Firecracker */
  if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect %s: %m", path);
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
  if (sendmsg(fd, &message, MSG_NOSIGNAL) != length) die("sendmsg: %m");
}

static void complain(size_t page, size_t word, uint64_t found, uint32_t epoch) {
  if (atomic_fetch_add(&wrong, 1) < 5)
    fprintf(stderr, "churn: page %zu word %zu holds %016" PRIx64 " in epoch %u\n", page, word, found, epoch);
}

/* Reads 4 KiB, and checks them if the page rested all the while, or what can be said while it did not. */
static void read_page(size_t small_page) {
  size_t page = small_page * PAGE / page_size;
  uint64_t seen[WORDS];
  uint32_t epoch = atomic_load(&epochs[page]);
  uint64_t tag = atomic_load(&tags[page]);
  for (size_t i = 0; i < WORDS; i++) seen[i] = guest[small_page * WORDS + i];
  atomic_thread_fence(memory_order_seq_cst);
  if (atomic_load(&epochs[page]) != epoch) return;
  bool is_first = small_page * PAGE % page_size == 0;
  const uint64_t *file = (const uint64_t *)(expected + small_page * PAGE);
  for (size_t i = 0; i < WORDS; i++) {
    bool ok = seen[i] == 0;
    if (epoch == 0) ok = seen[i] == file[i];
    else if (epoch == 1) ok = ok || seen[i] == file[i];
    if (is_first && i == 0 && epoch > 0) ok = epoch % 2 == 0 ? seen[i] == tag : true;
    if (!ok) complain(page, i, seen[i], epoch);
  }
  atomic_fetch_add(&reads, 1);
}

static void *keep_reading(void *argument) {
  uint64_t state = seed * 1000 + (uintptr_t)argument;
  size_t small_pages = memory_size / PAGE, sequential = next_random(&state) % small_pages;
  while (!atomic_load(&over)) {
    read_page(next_random(&state) % small_pages);
    read_page(sequential++ % small_pages); /* neighbours at the same time, so that copies merge */
    if (rest_us) usleep(rest_us);
  }
  return NULL;
}

/* Each remover has its own part of the memory: an epoch has one writer. */
static void *keep_removing(void *argument) {
  size_t self = (uintptr_t)argument, share = (page_count - has_pulse) / REMOVERS, base = self * share;
  uint64_t state = seed * 2000 + self;
  while (!atomic_load(&over)) {
    size_t first = base + next_random(&state) % share, run = 1 + next_random(&state) % LONGEST_RUN;
    if (run > base + share - first) run = base + share - first;
    for (size_t page = first; page < first + run; page++) atomic_fetch_add(&epochs[page], 1);
    if (madvise((char *)guest + first * page_size, run * page_size, MADV_DONTNEED) < 0) die("madvise: %m");
    for (size_t page = first; page < first + run; page++) {
      uint64_t tag = next_random(&state) % 4 == 0 ? next_random(&state) | 1 : 0;
      if (tag) guest[page * page_size / sizeof(uint64_t)] = tag; /* the guest uses the page again */
      atomic_store(&tags[page], tag);
      atomic_fetch_add(&epochs[page], 1);
    }
    atomic_fetch_add(&removes, run);
    if (rest_us) usleep(10 * rest_us);
  }
  return NULL;
}

static double now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return (double)now.tv_sec * 1e3 + (double)now.tv_nsec / 1e6;
}

/* The remover of the last page, which it reads at once: each beat is one event and one fault. */
static void *keep_beating(void *unused) {
  size_t page = page_count - 1;
  double last_ms = now_ms();
  while (!atomic_load(&over)) {
    atomic_fetch_add(&epochs[page], 1);
    if (madvise((char *)guest + page * page_size, page_size, MADV_DONTNEED) < 0) die("madvise: %m");
    atomic_fetch_add(&epochs[page], 1);
    uint64_t found = guest[page * page_size / sizeof(uint64_t)];
    if (found != 0) complain(page, 0, found, atomic_load(&epochs[page]));
    double end_ms = now_ms(), length_ms = end_ms - last_ms;
    if (length_ms >= STALL_MS && stall_count < MAX_STALLS) stalls[stall_count++] = (struct stall){end_ms, length_ms};
    usleep(PULSE_REST_US);
    last_ms = now_ms();
  }
  return unused;
}

static void print_result(void) {
  printf("{\"reads\":%zu,\"removes\":%zu,\"wrong\":%zu,\"stalls\":[", atomic_load(&reads), atomic_load(&removes),
         atomic_load(&wrong));
  for (size_t i = 0; i < stall_count; i++)
    printf("%s[%.1f,%.1f]", i ? "," : "", stalls[i].end_ms, stalls[i].length_ms);
  puts("]}");
}

static void finish(int signal_number) {
  (void)signal_number;
  atomic_store(&over, true);
}

int main(int argc, char **argv) {
  if (argc < 6) die("usage: churn SOCKET MEMORY_FILE MILLISECONDS READERS SEED [options]");
  for (int i = 6; i < argc; i++) {
    if (strcmp(argv[i], "--huge") == 0) page_size = (size_t)2 << 20;
    else if (strcmp(argv[i], "--pulse") == 0) has_pulse = true;
    else if (strcmp(argv[i], "--rest") == 0 && i + 1 < argc) rest_us = (useconds_t)atol(argv[++i]);
    else die("unknown option %s", argv[i]);
  }
  long duration_ms = atol(argv[3]), readers = atol(argv[4]);
  if (readers < 1 || readers > MAX_READERS) die("1 to %d readers", MAX_READERS);
  seed = strtoull(argv[5], NULL, 10);
  map_memory_file(argv[2]);
  epochs = calloc(page_count, sizeof *epochs);
  tags = calloc(page_count, sizeof *tags);
  if (!epochs || !tags) die("out of memory");
  struct sigaction on_term = {.sa_handler = finish};
  sigaction(SIGTERM, &on_term, NULL);
  shake_hands(argv[1], register_guest());

  sigset_t terminate, none;
  sigemptyset(&terminate);
  sigaddset(&terminate, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &terminate, &none); /* only this thread takes it, and its sleep ends */
  pthread_t threads[MAX_READERS + REMOVERS + 1];
  long count = 0;
  for (; count < readers + REMOVERS; count++) {
    void *(*body)(void *) = count < readers ? keep_reading : keep_removing;
    uintptr_t ordinal = (uintptr_t)(count < readers ? count : count - readers);
    if (pthread_create(&threads[count], NULL, body, (void *)ordinal)) die("pthread_create");
  }
  if (has_pulse && pthread_create(&threads[count++], NULL, keep_beating, NULL)) die("pthread_create");
  struct timespec duration = {.tv_sec = duration_ms / 1000, .tv_nsec = duration_ms % 1000 * 1000000};
  pthread_sigmask(SIG_SETMASK, &none, NULL);
  while (!atomic_load(&over) && nanosleep(&duration, &duration) < 0 && errno == EINTR) continue;
  atomic_store(&over, true);
  for (long i = 0; i < count; i++) pthread_join(threads[i], NULL);
  for (size_t page = 0; page < memory_size / PAGE; page++) read_page(page);
  print_result();
  return atomic_load(&wrong) ? 1 : 0;
}
