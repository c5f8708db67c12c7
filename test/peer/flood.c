/*
 * flood: a guest whose threads do nothing but give single pages back and touch them again, as fast as they can. Each
 * page is the file's bytes until it was given back, and zeroes from then on.
 *
 *   flood SOCKET MEMORY_FILE MILLISECONDS THREADS SEED
 *
 * Prints "flooding" when every thread has given its first page back, and at the end {"removes":N,"wrong":N}.
 * Exit codes: 0 all was right; 1 it was not; 2 a call failed. MILLISECONDS 0: floods until it is killed.
 * There is no timeout: whoever runs it has to time it. Shares no code with Faultline.
 *
 * Build: gcc -O2 -Wall -pthread -o flood flood.c
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
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define PAGE ((size_t)4096)
#define MAX_THREADS 64

static size_t memory_size, page_count;
static long thread_count;
static const char *expected;
static char *guest;
static bool *is_removed; /* a page has one thread */
static const char zeroes[4096];
static uint64_t seed;
static atomic_bool over;
static atomic_size_t removes, wrong;
static pthread_barrier_t started;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("flood: ", stderr);
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
  page_count = memory_size / PAGE;
  expected = mmap(NULL, memory_size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (expected == MAP_FAILED) die("mmap %s: %m", path);
}

static int register_guest(void) {
  guest = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (guest == MAP_FAILED) die("mmap of the guest: %m");
  int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC), uffd = -1;
  if (device >= 0) uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
  if (uffd < 0) uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
  if (uffd < 0) die("userfaultfd: %m");
  struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
  if (ioctl(uffd, UFFDIO_API, &api) < 0) die("UFFDIO_API: %m");
  struct uffdio_register request = {.range = {.start = (uintptr_t)guest, .len = memory_size},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("UFFDIO_REGISTER: %m");
  return uffd;
}

static void shake_hands(const char *path, int uffd) {
  char json[256];
  int length = snprintf(json, sizeof json,
                        "[{\"base_host_virt_addr\":%" PRIuPTR ",\"size\":%zu,\"offset\":0,\"page_size\":%zu}]",
                        (uintptr_t)guest, memory_size, PAGE);
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

static void check(size_t page) {
  const char *wanted = is_removed[page] ? zeroes : expected + page * PAGE;
  if (memcmp(guest + page * PAGE, wanted, PAGE) == 0) return;
  if (atomic_fetch_add(&wrong, 1) < 5)
    fprintf(stderr, "flood: page %zu, %sgiven back, is wrong\n", page, is_removed[page] ? "" : "not yet ");
}

/* Each thread has its own part of the memory. */
static void *keep_removing(void *argument) {
  size_t self = (uintptr_t)argument, share = page_count / (size_t)thread_count, base = self * share;
  uint64_t state = seed * 1000 + self;
  for (size_t turn = 0; turn == 0 || !atomic_load(&over); turn++) {
    size_t page = base + next_random(&state) % share;
    if (next_random(&state) % 4 == 0) check(page);
    if (madvise(guest + page * PAGE, PAGE, MADV_DONTNEED) < 0) die("madvise: %m");
    is_removed[page] = true;
    check(page);
    atomic_fetch_add(&removes, 1);
    if (turn == 0 && pthread_barrier_wait(&started) == PTHREAD_BARRIER_SERIAL_THREAD) {
      puts("flooding");
      fflush(stdout);
    }
  }
  return NULL;
}

int main(int argc, char **argv) {
  if (argc != 6) die("usage: flood SOCKET MEMORY_FILE MILLISECONDS THREADS SEED");
  long duration_ms = atol(argv[3]);
  thread_count = atol(argv[4]);
  if (thread_count < 1 || thread_count > MAX_THREADS) die("1 to %d threads", MAX_THREADS);
  seed = strtoull(argv[5], NULL, 10);
  map_memory_file(argv[2]);
  if (page_count < (size_t)thread_count) die("%s: too small", argv[2]);
  is_removed = calloc(page_count, sizeof *is_removed);
  if (!is_removed) die("out of memory");
  pthread_barrier_init(&started, NULL, (unsigned)thread_count);
  shake_hands(argv[1], register_guest());

  pthread_t threads[MAX_THREADS];
  for (long i = 0; i < thread_count; i++)
    if (pthread_create(&threads[i], NULL, keep_removing, (void *)(uintptr_t)i)) die("pthread_create");
  struct timespec duration = {.tv_sec = duration_ms / 1000, .tv_nsec = duration_ms % 1000 * 1000000};
  while (duration_ms == 0) pause();
  while (nanosleep(&duration, &duration) < 0 && errno == EINTR) continue;
  atomic_store(&over, true);
  for (long i = 0; i < thread_count; i++) pthread_join(threads[i], NULL);
  for (size_t page = 0; page < page_count; page++) check(page);
  printf("{\"removes\":%zu,\"wrong\":%zu}\n", atomic_load(&removes), atomic_load(&wrong));
  return atomic_load(&wrong) ? 1 : 0;
}
