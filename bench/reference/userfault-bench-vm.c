/*
 * userfault-bench-vm: a VM with KVM Userfault that times its handler. VMM and kernel in one, as userfault-vm.c, on a
 * kernel that has none of it; that one looks for mistakes, this one is fast.
 *
 *   userfault-bench-vm SOCKET MEMORY_FILE sync|ring FAULTS [--vcpus N] [--seed N] [--cpu N]
 *   userfault-bench-vm SOCKET MEMORY_FILE prefault [--cpu N]
 *
 *   sync       one vCPU asks for a page on the first socket, and goes on when it is answered
 *   ring       each vCPU puts faults into its ring, as KVM does: published one by one, the eventfd signalled where the
 *              handler has asked for it. Up to 63 are under way; then, or when its faults end, the vCPU sleeps until its
 *              eventfd of completions is signalled. Where KVM would turn to the second socket, as the ring is full, it
 *              yields the CPU
 *   prefault   nobody asks; it looks every 50 us whether all bits are clear
 *
 *   --vcpus N  for ring, 1 (default) to 4, each with a share of the faults
 *   --seed N   of the order: the first FAULTS of a permutation of all pages (default 1)
 *   --cpu N    pins all threads to this CPU
 *
 * Prints one line of JSON:
 *   {"faults":N,"vcpus":N,"p50_us":F,"p90_us":F,"p99_us":F,"total_ms":F,"faults_per_s":F,"mismatches":N}
 *   p50/p90/p99   of sync: from just before the request was sent until its reply was read; without the first 64. Else 0
 *   total_ms      from before the first fault until the last answer was seen; of prefault, from just before the second
 *                 message was sent until the last bit was seen clear
 *   faults_per_s  FAULTS, or all pages, over that
 *   mismatches    pages with wrong bytes: one in 16 is looked at as it is answered, and all at the end
 * An answer for a page that was not asked for, or whose bit is still set, ends it.
 *
 * Exit codes: 0 every byte was right; 1 some were not; 2 wrong usage, a setup step failed, or a wrong answer (stderr).
 * There is no timeout: with a handler that does not answer, a vCPU hangs, and so does this. Whoever runs it, times it.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o userfault-bench-vm userfault-bench-vm.c
 */
#define _GNU_SOURCE
#define PROGRAM_NAME "userfault-bench-vm"
#include "userfault.h"
#include "userfault-vmm.h"

#include <pthread.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_BENCH_VCPUS 4
#define MOST_OUTSTANDING (RING_ENTRIES - 1)
#define WARM_UP_FAULTS 64
#define CHECKED_EVERY 16
#define LOOK_NS 50000

static struct options {
  const char *socket_path, *memory_path, *mode;
  uint64_t faults, vcpus, seed;
  int cpu; /* -1: not pinned */
} options = {.vcpus = 1, .seed = 1, .cpu = -1};

static struct vcpu {
  pthread_t thread;
  uint64_t index, first, end; /* its share of `order` */
  int notify, complete, fd;
  struct ring_page *page;
  uint64_t started_at, ended_at, mismatches;
} vcpus[MAX_BENCH_VCPUS];

static size_t size, pages;
static int guest_fd;
static const char *file;
static uint64_t *bitmap, *order, *latencies;
static uint8_t *asked_by; /* of each page: the vCPU that waits for it, from 1 on */
static struct stream sync_stream;
static pthread_barrier_t barrier;

static uint64_t now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static bool is_mode(const char *name) { return strcmp(options.mode, name) == 0; }

/* ---- answers -------------------------------------------------------------------------------------------------- */

/* Through the file: a look through a mapping would put zeroes where nothing is. */
static bool is_right(uint64_t page) {
  char bytes[PAGE];
  if (pread(guest_fd, bytes, PAGE, (off_t)(page * PAGE)) != PAGE) die("pread: %m");
  return memcmp(bytes, file + page * PAGE, PAGE) == 0;
}

static void take_answer(struct vcpu *v, uint64_t gpa) {
  uint64_t page = gpa < SECOND_GPA ? gpa / PAGE : pages / 2 + (gpa - SECOND_GPA) / PAGE;
  if (page >= pages || gpa_of_page(page, pages) != gpa || asked_by[page] != v->index + 1)
    die("an answer for vCPU %" PRIu64 " and gpa %#" PRIx64 ", which has not asked for it", v->index, gpa);
  if (is_set(bitmap, page)) die("the bit of page %" PRIu64 " is still set with its answer", page);
  asked_by[page] = 0;
  if (page % CHECKED_EVERY == 0 && !is_right(page)) v->mismatches++;
}

/* ---- faults --------------------------------------------------------------------------------------------------- */

static void read_reply(struct vcpu *v, uint64_t gpa) {
  uint32_t length;
  uint8_t *payload;
  while ((payload = next_frame(&sync_stream, &length)) == NULL) {
    if (!fill_stream(&sync_stream)) die("the handler has closed the first socket");
  }
  struct reply r;
  if (!decode_reply(payload, length, &r)) die("a frame that is no reply");
  if (!r.has_vcpu || r.vcpu != v->index || (r.has_gpa && r.gpa != gpa)) die("a reply to nobody's request");
  drop_frame(&sync_stream, length);
}

static void fault_synchronously(struct vcpu *v) {
  for (uint64_t i = v->first; i < v->end; i++) {
    uint64_t gpa = gpa_of_page(order[i], pages), before = now_ns();
    uint8_t frame[64];
    struct request r = {.vcpu = (uint32_t)v->index, .flags = FLAG_USERFAULT, .has_gpa = true, .gpa = gpa};
    asked_by[order[i]] = (uint8_t)(v->index + 1);
    write_all(sync_stream.fd, frame, encode_request(frame, &r));
    read_reply(v, gpa);
    latencies[i] = now_ns() - before;
    take_answer(v, gpa);
  }
}

static void fault_by_ring(struct vcpu *v) {
  uint32_t produced = FIRST_INDEX, consumed = FIRST_INDEX, outstanding = 0;
  for (uint64_t next = v->first; next < v->end || outstanding > 0;) {
    while (next < v->end && outstanding < MOST_OUTSTANDING && !is_notify_full(v->page, produced)) {
      asked_by[order[next]] = (uint8_t)(v->index + 1);
      put_notify(v->page, produced++, gpa_of_page(order[next++], pages));
      publish_notify(v->page, produced, v->notify);
      outstanding++;
    }
    if (outstanding == 0) {
      sched_yield();
      continue;
    }
    /* KVM looks at the completions when it is signalled, and at no other time. */
    uint64_t count;
    if (read(v->complete, &count, sizeof count) < 0 && errno != EINTR) die("read of an eventfd: %m");
    uint32_t head = __atomic_load_n(&v->page->complete.head, __ATOMIC_ACQUIRE);
    if (head - consumed > outstanding) die("%u completions of %u faults", head - consumed, outstanding);
    outstanding -= head - consumed;
    for (; consumed != head; consumed++) take_answer(v, v->page->complete.entries[consumed % RING_ENTRIES].gpa);
    __atomic_store_n(&v->page->complete.tail, consumed, __ATOMIC_RELEASE);
  }
}

static void *run_vcpu(void *argument) {
  struct vcpu *v = argument;
  pthread_barrier_wait(&barrier);
  v->started_at = now_ns();
  if (is_mode("sync")) fault_synchronously(v);
  else fault_by_ring(v);
  v->ended_at = now_ns();
  return NULL;
}

static void await_all_bits(void) {
  for (size_t word = 0; word < pages / 64;) {
    if (__atomic_load_n(&bitmap[word], __ATOMIC_ACQUIRE) == 0) {
      word++;
      continue;
    }
    struct timespec pause = {.tv_nsec = LOOK_NS};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
  }
}

/* ---- setting up ----------------------------------------------------------------------------------------------- */

static void *allocate(size_t bytes) {
  void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (address == MAP_FAILED) die("mmap of %zu bytes: %m", bytes);
  return address;
}

static uint64_t next_random(uint64_t *state) { /* splitmix64 */
  uint64_t z = (*state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static void make_order(void) {
  order = allocate(pages * sizeof *order);
  latencies = allocate(pages * sizeof *latencies);
  asked_by = allocate(pages);
  for (uint64_t i = 0; i < pages; i++) order[i] = i;
  uint64_t state = options.seed;
  for (uint64_t i = pages - 1; i > 0; i--) { /* Fisher-Yates */
    uint64_t j = next_random(&state) % (i + 1), page = order[i];
    order[i] = order[j];
    order[j] = page;
  }
}

static void map_file(void) {
  int fd = open(options.memory_path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) < 0) die("%s: %m", options.memory_path);
  size = (size_t)info.st_size;
  pages = size / PAGE;
  if (size == 0 || size % (128 * PAGE)) die("%s: %zu bytes are not two regions", options.memory_path, size);
  file = mmap(NULL, size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
  if (file == MAP_FAILED) die("mmap of %s: %m", options.memory_path);
}

/* As a VMM does: to both sockets first, ones into the bitmap only after the first message. */
static void attach(void) {
  connect_to(options.socket_path, true); /* stays open */
  guest_fd = sealed_memfd("guest_memfd", size);
  int bitmap_fd = sealed_memfd("guest_mem", pages / 8);
  sync_stream.fd = connect_to(options.socket_path, false);
  introduce(sync_stream.fd, map(guest_fd, size, 0), size, guest_fd, bitmap_fd);
  bitmap = map(bitmap_fd, pages / 8, 0);
  memset(bitmap, 0xff, pages / 8);
  for (uint64_t i = 0; i < options.vcpus; i++) {
    vcpus[i] = (struct vcpu){.index = i, .notify = create_eventfd(EFD_NONBLOCK), .complete = create_eventfd(0)};
    vcpus[i].page = create_ring_page(&vcpus[i].fd);
  }
}

static void tell_rings(void) {
  int fds[3 * MAX_BENCH_VCPUS], count = 0;
  for (uint64_t i = 0; i < options.vcpus; i++) {
    fds[count++] = vcpus[i].notify;
    fds[count++] = vcpus[i].complete;
    fds[count++] = vcpus[i].fd;
  }
  char text[32];
  int length = snprintf(text, sizeof text, "exitless_apf:%d", (int)options.vcpus);
  send_fds(sync_stream.fd, text, (size_t)length, fds, count);
}

/* ---- a run ---------------------------------------------------------------------------------------------------- */

/* Nanoseconds from the first fault to the last answer. */
static uint64_t run_vcpus(void) {
  pthread_barrier_init(&barrier, NULL, (unsigned)options.vcpus);
  tell_rings();
  for (uint64_t i = 0; i < options.vcpus; i++) {
    vcpus[i].first = options.faults * i / options.vcpus;
    vcpus[i].end = options.faults * (i + 1) / options.vcpus;
    if ((errno = pthread_create(&vcpus[i].thread, NULL, run_vcpu, &vcpus[i]))) die("pthread_create: %m");
  }
  uint64_t start = UINT64_MAX, end = 0;
  for (uint64_t i = 0; i < options.vcpus; i++) {
    pthread_join(vcpus[i].thread, NULL);
    if (vcpus[i].started_at < start) start = vcpus[i].started_at;
    if (vcpus[i].ended_at > end) end = vcpus[i].ended_at;
  }
  return end - start;
}

static uint64_t run_prefault(void) {
  uint64_t start = now_ns();
  tell_rings();
  await_all_bits();
  return now_ns() - start;
}

static int compare_numbers(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static double percentile_us(unsigned percent) {
  uint64_t skipped = options.faults > WARM_UP_FAULTS ? WARM_UP_FAULTS : 0, count = options.faults - skipped;
  if (!is_mode("sync")) return 0;
  return (double)latencies[skipped + (count * percent + 99) / 100 - 1] / 1e3; /* nearest rank, counted from 1 */
}

static int report(uint64_t total_ns) {
  uint64_t mismatches = 0, skipped = options.faults > WARM_UP_FAULTS ? WARM_UP_FAULTS : 0;
  for (uint64_t i = 0; i < options.vcpus; i++) mismatches += vcpus[i].mismatches;
  for (uint64_t i = 0; i < options.faults; i++) mismatches += !is_right(order[i]);
  qsort(latencies + skipped, options.faults - skipped, sizeof *latencies, compare_numbers);
  printf("{\"faults\":%" PRIu64 ",\"vcpus\":%" PRIu64 ",\"p50_us\":%.3f,\"p90_us\":%.3f,\"p99_us\":%.3f,"
         "\"total_ms\":%.3f,\"faults_per_s\":%.0f,\"mismatches\":%" PRIu64 "}\n",
         options.faults, options.vcpus, percentile_us(50), percentile_us(90), percentile_us(99), (double)total_ns / 1e6,
         (double)options.faults * 1e9 / (double)total_ns, mismatches);
  fflush(stdout);
  return mismatches ? 1 : 0;
}

/* ---- options -------------------------------------------------------------------------------------------------- */

static uint64_t parse_number(const char *name, const char *text, uint64_t most) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno || end == text || *end || *text == '-' || value > most)
    die("%s: '%s' is not a whole number up to %" PRIu64, name, text, most);
  return value;
}

static void parse_options(int argc, char **argv) {
  if (argc < 4) die("usage: userfault-bench-vm SOCKET MEMORY_FILE sync|ring FAULTS | prefault [--vcpus N] [--seed N] "
                    "[--cpu N]");
  options.socket_path = argv[1];
  options.memory_path = argv[2];
  options.mode = argv[3];
  int i = 4;
  if (is_mode("sync") || is_mode("ring")) {
    if (argc < 5) die("FAULTS: value missing");
    options.faults = parse_number("FAULTS", argv[i++], UINT32_MAX);
  } else if (!is_mode("prefault")) {
    die("%s: neither sync, ring nor prefault", argv[3]);
  }
  for (; i < argc; i += 2) {
    const char *name = argv[i], *value = argv[i + 1];
    if (!value) die("%s: value missing", name);
    if (strcmp(name, "--vcpus") == 0) options.vcpus = parse_number(name, value, MAX_BENCH_VCPUS);
    else if (strcmp(name, "--seed") == 0) options.seed = parse_number(name, value, UINT64_MAX);
    else if (strcmp(name, "--cpu") == 0) options.cpu = (int)parse_number(name, value, CPU_SETSIZE - 1);
    else die("unknown option %s", name);
  }
  if (options.vcpus < 1 || (options.vcpus > 1 && !is_mode("ring"))) die("--vcpus: 1 to 4, and 1 but for ring");
}

int main(int argc, char **argv) {
  parse_options(argc, argv);
  if (options.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(options.cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) die("sched_setaffinity to CPU %d: %m", options.cpu);
  }
  prctl(PR_SET_TIMERSLACK, 1);
  map_file();
  if (is_mode("prefault")) options.faults = pages;
  if (options.faults < options.vcpus || options.faults > pages) die("FAULTS: up to %zu, one for each vCPU", pages);
  make_order();
  attach();
  return report(is_mode("prefault") ? run_prefault() : run_vcpus());
}
