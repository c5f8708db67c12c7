/*
 * restorer: a stand-in for a guest whose pages are known beforehand, to measure what it gains when they are installed
 * ahead of it.
 *
 *   restorer SOCKET|--copy MEMORY_FILE RUNS_FILE [--until FIFO WORD] [--beside] [--huge] [--seed N]
 *
 * RUNS_FILE has a line `FIRST COUNT` for each run of pages. The guest restores as peer.h says, with the handler that
 * listens on SOCKET, reads one 8-byte word in each page of each run, in an order that is a seeded permutation of all,
 * and compares every word with the file.
 *
 *   --copy             instead of SOCKET: no handler. It installs the runs itself, in the order of the file, with
 *                      nothing but one UFFDIO_COPY per run from a populated mapping: what the kernel needs for it
 *   --until FIFO WORD  waits for a line on FIFO that has WORD and our pid in it before it touches: the handler has
 *                      installed all
 *   --beside           with --until: touches at once, and counts only the touches before that line
 *   --huge             the guest's memory and the runs are in pages of 2 MiB
 *   --seed N           of the order (default 1)
 *
 * Prints one line of JSON:
 *   {"pages":N,"installed_ms":F,"total_ms":F,"counted":N,"p50_us":F,"p99_us":F,"mismatches":N}
 *   installed_ms  from just before the handshake was sent until the line came; of --copy, what the copies took
 *   total_ms      from there until the last word was there
 *   counted       touches that p50 and p99 are of
 *
 * Exit codes: 0 every word was right; 1 some were not; 2 wrong usage or a setup step failed (said on stderr).
 * There is no timeout: with a handler that does not answer, a guest hangs, and so does this. Whoever runs it, times it.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o restorer restorer.c
 */
#define _GNU_SOURCE
#define PROGRAM_NAME "restorer"
#include "peer.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>

#define MAX_COPY ((size_t)2 << 20)
#define MAX_LINE 4096

struct options {
  const char *socket_path; /* NULL: we copy ourselves */
  const char *memory_path;
  const char *runs_path;
  const char *fifo_path; /* NULL: touches at once */
  const char *word;
  bool beside;
  uint64_t seed;
};

struct run {
  uint64_t first, count;
};

static struct run *runs;
static size_t run_count;
static uint64_t page_count;
static const char *expected;
static char *guest;
static size_t memory_size;

/* ---- options and runs ----------------------------------------------------------------------------------------- */

static struct options parse_options(int argc, char **argv) {
  if (argc < 4)
    die("usage: restorer SOCKET|--copy MEMORY_FILE RUNS_FILE [--until FIFO WORD] [--beside] [--huge] [--seed N]");
  struct options o = {.socket_path = argv[1], .memory_path = argv[2], .runs_path = argv[3], .seed = 1};
  if (strcmp(argv[1], "--copy") == 0) o.socket_path = NULL;
  for (int i = 4; i < argc; i++) {
    if (strcmp(argv[i], "--beside") == 0) {
      o.beside = true;
    } else if (strcmp(argv[i], "--huge") == 0) {
      guest_page_size = HUGE_PAGE_SIZE;
    } else if (strcmp(argv[i], "--until") == 0 && i + 2 < argc) {
      o.fifo_path = argv[++i];
      o.word = argv[++i];
    } else if (strcmp(argv[i], "--seed") == 0 && i + 1 < argc) {
      o.seed = parse_number("--seed", argv[++i]);
    } else {
      die("%s: unknown option, or its value is missing", argv[i]);
    }
  }
  return o;
}

static void read_runs(const char *path) {
  FILE *file = fopen(path, "r");
  if (!file) die("open %s: %m", path);
  struct run r;
  size_t capacity = 0;
  while (fscanf(file, "%" SCNu64 " %" SCNu64, &r.first, &r.count) == 2) {
    if (r.count == 0 || r.first + r.count > memory_size / guest_page_size)
      die("%s: a run of %" PRIu64 " pages at %" PRIu64 " is not in the memory", path, r.count, r.first);
    if (run_count == capacity) {
      capacity = capacity ? 2 * capacity : 1024;
      runs = realloc(runs, capacity * sizeof *runs);
      if (!runs) die("out of memory for %zu runs", capacity);
    }
    runs[run_count++] = r;
    page_count += r.count;
  }
  if (!feof(file)) die("%s: no number where one should be", path);
  fclose(file);
  if (page_count == 0) die("%s: no runs", path);
}

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

static uint64_t *make_order(uint64_t seed) {
  uint64_t *order = allocate(page_count * sizeof *order), count = 0;
  for (size_t i = 0; i < run_count; i++)
    for (uint64_t page = 0; page < runs[i].count; page++) order[count++] = runs[i].first + page;
  for (uint64_t i = page_count - 1; i > 0; i--) { /* Fisher-Yates */
    uint64_t j = next_random(&seed) % (i + 1), page = order[i];
    order[i] = order[j];
    order[j] = page;
  }
  return order;
}

/* ---- the handler's line --------------------------------------------------------------------------------------- */

static int fifo = -1;
static const char *awaited_word;
static _Atomic uint64_t line_at;

static void open_fifo(const struct options *o) {
  fifo = open(o->fifo_path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
  if (fifo < 0) die("open %s: %m", o->fifo_path);
  char old[MAX_LINE]; /* what the handler said of earlier guests */
  while (read(fifo, old, sizeof old) > 0) continue;
  if (fcntl(fifo, F_SETFL, 0) < 0) die("fcntl %s: %m", o->fifo_path);
  awaited_word = o->word;
}

static bool is_awaited(const char *line) {
  char pid[32];
  snprintf(pid, sizeof pid, "%d", (int)getpid());
  return strstr(line, awaited_word) && strstr(line, pid);
}

static void *await_line(void *nothing) {
  static char line[MAX_LINE];
  size_t length = 0;
  for (;;) {
    ssize_t n = read(fifo, line + length, sizeof line - 1 - length);
    if (n <= 0) die("read from the handler: %m");
    uint64_t at = now_ns();
    length += (size_t)n;
    line[length] = '\0';
    for (char *end; (end = strchr(line, '\n'));) {
      *end = '\0';
      if (is_awaited(line)) {
        atomic_store(&line_at, at);
        return nothing;
      }
      length -= (size_t)(end + 1 - line);
      memmove(line, end + 1, length + 1);
    }
    if (length == sizeof line - 1) length = 0; /* longer than any line that we wait for */
  }
}

/* ---- installing and touching ---------------------------------------------------------------------------------- */

/* Returns when it began. */
static uint64_t copy_runs(void) {
  int uffd = create_uffd();
  struct uffdio_register request = {
      .range = {.start = (uint64_t)(uintptr_t)guest, .len = memory_size}, .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("UFFDIO_REGISTER: %m");
  uint64_t start = now_ns();
  for (size_t i = 0; i < run_count; i++) {
    size_t end = (runs[i].first + runs[i].count) * guest_page_size;
    for (size_t at = runs[i].first * guest_page_size; at < end;) {
      size_t length = end - at < MAX_COPY ? end - at : MAX_COPY;
      struct uffdio_copy copy = {
          .dst = (uintptr_t)guest + at, .src = (uintptr_t)expected + at, .len = length};
      if (ioctl(uffd, UFFDIO_COPY, &copy) < 0) die("UFFDIO_COPY of %zu bytes: %m", length);
      at += length;
    }
  }
  return start;
}

/* Another word in each page, so that a handler which copies only part of a page is found out. */
static uint64_t word_offset(uint64_t page) {
  return page * guest_page_size + (page * 8) % PAGE_SIZE;
}

static int compare_numbers(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static double percentile_us(const uint64_t *sorted, uint64_t count, unsigned percent) {
  if (count == 0) return 0;
  uint64_t rank = (count * percent + 99) / 100; /* nearest rank, counted from 1 */
  return (double)sorted[rank - 1] / 1e3;
}

int main(int argc, char **argv) {
  struct options o = parse_options(argc, argv);
  expected = map_memory_file(o.memory_path, PROT_READ, MAP_POPULATE, &memory_size);
  read_runs(o.runs_path);
  uint64_t *order = make_order(o.seed);
  uint64_t *latencies = allocate(page_count * sizeof *latencies);
  uint64_t *words = allocate(page_count * sizeof *words);
  guest = map_guest_memory(memory_size);
  if (o.fifo_path) open_fifo(&o);
  pthread_t listener;
  if (o.beside && (errno = pthread_create(&listener, NULL, await_line, NULL))) die("pthread_create: %m");

  uint64_t start = o.socket_path ? attach(o.socket_path, guest, memory_size) : copy_runs();
  if (o.fifo_path && !o.beside) await_line(NULL);
  uint64_t installed_at = o.socket_path ? atomic_load(&line_at) : now_ns();

  uint64_t counted = 0, before = 0, after = 0;
  for (uint64_t i = 0; i < page_count; i++) {
    const char *word = guest + word_offset(order[i]);
    before = now_ns();
    words[i] = *(volatile const uint64_t *)word;
    after = now_ns();
    if (!o.beside || !atomic_load(&line_at)) latencies[counted++] = after - before;
  }
  if (o.beside) {
    pthread_join(listener, NULL);
    installed_at = atomic_load(&line_at);
  }

  uint64_t mismatches = 0;
  for (uint64_t i = 0; i < page_count; i++) {
    uint64_t wanted;
    memcpy(&wanted, expected + word_offset(order[i]), sizeof wanted);
    mismatches += words[i] != wanted;
  }
  qsort(latencies, counted, sizeof *latencies, compare_numbers);
  printf("{\"pages\":%" PRIu64 ",\"installed_ms\":%.3f,\"total_ms\":%.3f,\"counted\":%" PRIu64
         ",\"p50_us\":%.3f,\"p99_us\":%.3f,\"mismatches\":%" PRIu64 "}\n",
         page_count, installed_at ? (double)(installed_at - start) / 1e6 : 0, (double)(after - start) / 1e6, counted,
         percentile_us(latencies, counted, 50), percentile_us(latencies, counted, 99), mismatches);
  return mismatches ? 1 : 0;
}
