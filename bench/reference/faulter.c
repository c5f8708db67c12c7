/*
 * faulter: the measuring stand-in for a guest. It asks a page-fault handler for pages and times every answer.
 *
 *   faulter SOCKET|--mapping MEMORY_FILE FAULTS [--threads N] [--order sequential|random] [--seed N] [--cpu N]
 *           [--pause US] [--file read|late] [--out FILE]
 *
 * It restores as peer.h says, with the handler that listens on SOCKET. Then it reads one 8-byte word in each of FAULTS
 * distinct pages, and afterwards every word is compared with the file.
 *
 *   --mapping    instead of SOCKET: no handler. The guest's memory is a private mapping of MEMORY_FILE, which is what a
 *                VMM does without one (Firecracker's File backend). The kernel maps up to 16 cached pages around each
 *                one that is read, so most touches after the first do not fault at all: reported as it is
 *   --threads N  so many threads fault at once (default 1), each in a share of the pages of its own, from one barrier
 *   --order O    sequential: pages 0, 1, 2 ... (default); random: a seeded permutation of all pages
 *   --seed N     for --order random (default 1)
 *   --cpu N      pin the touching threads to this CPU
 *   --pause US   each thread sleeps for so long between two faults (default 0)
 *   --file F     read: all of MEMORY_FILE is read beforehand (default); late: only what is compared, in the end, which
 *                is for files larger than memory
 *   --out FILE   every latency in nanoseconds, in order of touching, thread after thread, one a line
 *
 * Prints one line of JSON:
 *   {"faults":N,"threads":N,"first_us":F,"p50_us":F,"p90_us":F,"p99_us":F,"max_us":F,"mean_us":F,"total_ms":F,
 *    "pages_per_s":F,"mismatches":N}
 *   first_us       from just before the handshake was sent until the first word was there: accept and parse included
 *   p50/p90/p99    of all threads, without the first 64 faults of each (warm-up) unless it has not more than these
 *   max, mean      of all faults, the first ones included
 *   total_ms       from before the first touch of any thread until after the last
 *   pages_per_s    FAULTS over that
 *
 * Exit codes: 0 every word was right; 1 some were not; 2 wrong usage or a setup step failed (said on stderr).
 * There is no timeout: with a handler that does not answer, a guest hangs, and so does this. Whoever runs it, times it.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o faulter faulter.c
 */
#define _GNU_SOURCE
#define PROGRAM_NAME "faulter"
#include "peer.h"
#include <pthread.h>
#include <sched.h>
#include <stdbool.h>

#define WARM_UP_FAULTS 64
#define MAX_THREADS 256

struct options {
  const char *socket_path; /* NULL: no handler, a mapping */
  const char *memory_path;
  uint64_t faults;
  uint64_t threads;
  int cpu; /* -1: not pinned */
  bool random_order;
  uint64_t seed;
  uint64_t pause_us;
  bool reads_late;
  const char *out_path;
};

/* ---- options -------------------------------------------------------------------------------------------------- */

static struct options parse_options(int argc, char **argv) {
  if (argc < 4)
    die("usage: faulter SOCKET|--mapping MEMORY_FILE FAULTS [--threads N] [--order sequential|random] [--seed N] "
        "[--cpu N] [--pause US] [--file read|late] [--out FILE]");
  struct options o = {.socket_path = argv[1], .memory_path = argv[2], .threads = 1, .cpu = -1, .seed = 1};
  if (strcmp(argv[1], "--mapping") == 0) o.socket_path = NULL;
  o.faults = parse_number("FAULTS", argv[3]);
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
    } else if (strcmp(name, "--threads") == 0) {
      o.threads = parse_number(name, value);
    } else if (strcmp(name, "--seed") == 0) {
      o.seed = parse_number(name, value);
    } else if (strcmp(name, "--pause") == 0) {
      o.pause_us = parse_number(name, value);
    } else if (strcmp(name, "--file") == 0) {
      if (strcmp(value, "read") != 0 && strcmp(value, "late") != 0) die("--file: '%s' is neither read nor late", value);
      o.reads_late = strcmp(value, "late") == 0;
    } else if (strcmp(name, "--out") == 0) {
      o.out_path = value;
    } else {
      die("unknown option %s", name);
    }
  }
  if (o.threads < 1 || o.threads > MAX_THREADS) die("--threads: 1 to %d", MAX_THREADS);
  if (o.faults < o.threads) die("FAULTS must be at least 1 for each thread");
  return o;
}

/* ---- setup ---------------------------------------------------------------------------------------------------- */

static void *allocate(size_t bytes) {
  void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (address == MAP_FAILED) die("mmap of %zu bytes: %m", bytes);
  return address;
}

static void pin_to_cpu(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof set, &set) < 0) die("sched_setaffinity to CPU %d: %m", cpu);
}

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

/* ---- touching ------------------------------------------------------------------------------------------------- */

/* Part of the pages, and the thread that touches it. */
struct share {
  pthread_t thread;
  uint64_t first, count; /* in `order`, `latencies` and `words` */
  uint64_t start, first_at, end;
};

static const char *guest;
static const uint64_t *order;
static uint64_t *latencies, *words;
static uint64_t pause_us;
static pthread_barrier_t barrier;

static void touch(struct share *s) {
  uint64_t after = 0;
  for (uint64_t i = s->first; i < s->first + s->count; i++) {
    const char *word = guest + word_offset(order[i]);
    if (pause_us > 0 && i > s->first) usleep((useconds_t)pause_us);
    uint64_t before = now_ns();
    words[i] = *(volatile const uint64_t *)word;
    after = now_ns();
    latencies[i] = after - before;
    if (i == s->first) {
      s->start = before;
      s->first_at = after;
    }
  }
  s->end = after;
}

static void *run_share(void *share) {
  pthread_barrier_wait(&barrier);
  touch(share);
  return NULL;
}

/* Returns when the handshake was about to be sent, or touching to begin. The caller's thread takes the first share. */
static uint64_t touch_all(const struct options *o, struct share *shares, size_t size) {
  if ((errno = pthread_barrier_init(&barrier, NULL, (unsigned)o->threads))) die("pthread_barrier_init: %m");
  for (uint64_t t = 0; t < o->threads; t++) {
    shares[t].first = o->faults * t / o->threads;
    shares[t].count = o->faults * (t + 1) / o->threads - shares[t].first;
    if (t > 0 && (errno = pthread_create(&shares[t].thread, NULL, run_share, &shares[t]))) die("pthread_create: %m");
  }
  uint64_t sent_at = o->socket_path ? attach(o->socket_path, guest, size) : now_ns();
  pthread_barrier_wait(&barrier);
  touch(&shares[0]);
  for (uint64_t t = 1; t < o->threads; t++) pthread_join(shares[t].thread, NULL);
  return sent_at;
}

/* ---- report --------------------------------------------------------------------------------------------------- */

static int compare_numbers(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static double percentile_us(const uint64_t *sorted, uint64_t count, unsigned percent) {
  uint64_t rank = (count * percent + 99) / 100; /* nearest rank, counted from 1 */
  return (double)sorted[rank - 1] / 1e3;
}

static void write_latencies(const char *path, uint64_t count) {
  FILE *file = fopen(path, "w");
  if (!file) die("open %s: %m", path);
  for (uint64_t i = 0; i < count; i++) fprintf(file, "%" PRIu64 "\n", latencies[i]);
  if (ferror(file) || fclose(file) != 0) die("write %s: %m", path);
}

/* Moves the latencies that count to the front, in order of size; returns how many. */
static uint64_t sort_latencies(const struct options *o, const struct share *shares) {
  uint64_t count = 0;
  for (uint64_t t = 0; t < o->threads; t++) {
    uint64_t skipped = shares[t].count > WARM_UP_FAULTS ? WARM_UP_FAULTS : 0;
    memmove(latencies + count, latencies + shares[t].first + skipped, (shares[t].count - skipped) * sizeof *latencies);
    count += shares[t].count - skipped;
  }
  qsort(latencies, count, sizeof *latencies, compare_numbers);
  return count;
}

int main(int argc, char **argv) {
  struct options o = parse_options(argc, argv);
  if (o.cpu >= 0) pin_to_cpu(o.cpu);
  size_t size;
  const char *expected = map_memory_file(o.memory_path, PROT_READ, o.reads_late ? 0 : MAP_POPULATE, &size);
  uint64_t pages = size / PAGE_SIZE;
  if (o.faults > pages)
    die("FAULTS: %" PRIu64 " wanted, but %s has only %" PRIu64 " pages", o.faults, o.memory_path, pages);

  /* All that the threads write to is present beforehand: no fault but the guest's shall be measured. */
  order = make_order(&o, pages);
  pause_us = o.pause_us;
  latencies = allocate(o.faults * sizeof *latencies);
  words = allocate(o.faults * sizeof *words);
  struct share *shares = allocate(o.threads * sizeof *shares);
  guest = o.socket_path ? map_guest_memory(size) : map_memory_file(o.memory_path, PROT_READ | PROT_WRITE, 0, &size);
  uint64_t sent_at = touch_all(&o, shares, size);

  uint64_t mismatches = 0, sum = 0, max = 0;
  for (uint64_t i = 0; i < o.faults; i++) {
    uint64_t wanted;
    memcpy(&wanted, expected + word_offset(order[i]), sizeof wanted);
    mismatches += words[i] != wanted;
    sum += latencies[i];
    if (latencies[i] > max) max = latencies[i];
  }
  uint64_t start = shares[0].start, first_at = shares[0].first_at, end = shares[0].end;
  for (uint64_t t = 1; t < o.threads; t++) {
    if (shares[t].start < start) start = shares[t].start;
    if (shares[t].first_at < first_at) first_at = shares[t].first_at;
    if (shares[t].end > end) end = shares[t].end;
  }
  if (o.out_path) write_latencies(o.out_path, o.faults);
  uint64_t count = sort_latencies(&o, shares);
  printf("{\"faults\":%" PRIu64 ",\"threads\":%" PRIu64 ",\"first_us\":%.1f,\"p50_us\":%.3f,\"p90_us\":%.3f,"
         "\"p99_us\":%.3f,\"max_us\":%.1f,\"mean_us\":%.3f,\"total_ms\":%.3f,\"pages_per_s\":%.0f,"
         "\"mismatches\":%" PRIu64 "}\n",
         o.faults, o.threads, (double)(first_at - sent_at) / 1e3, percentile_us(latencies, count, 50),
         percentile_us(latencies, count, 90), percentile_us(latencies, count, 99), (double)max / 1e3,
         (double)sum / (double)o.faults / 1e3, (double)(end - start) / 1e6,
         (double)o.faults * 1e9 / (double)(end - start), mismatches);
  return mismatches ? 1 : 0;
}
