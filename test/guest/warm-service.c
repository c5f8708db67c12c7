/*
 * warm-service: the process of the Linux guest that is worth a snapshot. At boot it builds large structures in memory
 * from a seed; then it answers questions about them on a serial port, a line for a line. The host computes every
 * answer from the same seed (test/support/linux-guest-oracle.ts), so only intact memory answers right.
 *
 *   warm-service TTY SEED
 *
 * It prints "warm" when it is ready. Each answer begins with the number of questions answered so far, by this very
 * process: after a restore it must go on, not begin again.
 *
 *   get KEY             the table's value of a key, or "none"
 *   set KEY VALUE       changes or adds one; answers the value that was there, or "none"
 *   chase NODE STEPS    follows the ring of pointers; answers the last node and the sum of the weights passed
 *   sum FIRST END       the sum of the words of an array, END exclusive
 *   store FILE SEED     writes a file of the tmpfs anew
 *   hash PATH           what `busybox sha256sum` says: a new process, and the page cache
 *   fill MIB            takes so much memory, writes it, reads it, gives it back; answers the number of wrong words
 *   boot-id, uptime     of the kernel; uptime in hundredths of a second
 *
 * All numbers are decimal and of 32 bits.
 *
 * Build: gcc -O2 -Wall -static
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

/* The same numbers stand in test/support/linux-guest-oracle.ts. */
#define GOLDEN 0x9e3779b9u
#define TABLE_BITS 22 /* slots of 8 bytes: 32 MiB, half of them taken */
#define ENTRY_COUNT (1u << 21)
#define NODE_COUNT (1u << 19) /* of 64 bytes: 32 MiB */
#define WORD_COUNT (1u << 22) /* 16 MiB */
#define FILE_COUNT 16
#define FILE_WORDS (1u << 14) /* 64 KiB */

struct slot {
  uint32_t key; /* 0: free */
  uint32_t value;
};

struct node {
  struct node *next;
  uint32_t id;
  uint32_t weight;
  char filler[48]; /* a cache line each, as in a structure that was not built for speed */
};

static uint32_t seed;
static struct slot *table;
static struct node *ring;
static uint32_t *words;
static FILE *output;

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs("warm-service: ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  va_end(args);
  exit(2);
}

/* ---- what is in memory ---------------------------------------------------------------------------------------- */

/* One to one on 32 bits; no zero but of zero. */
static uint32_t scramble(uint32_t value) {
  value = (value ^ (value >> 16)) * 0x21f0aaadu;
  value = (value ^ (value >> 15)) * 0x735a2d97u;
  return value ^ (value >> 15);
}

static uint32_t word_of(uint32_t from, uint32_t index) {
  return scramble(from + index * GOLDEN);
}

static void *allocate(size_t size) {
  void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) die("mmap of %zu bytes: %m", size);
  return memory;
}

/* The slot that holds the key, or the free one where it belongs. */
static struct slot *find(uint32_t key) {
  uint32_t index = key * GOLDEN >> (32 - TABLE_BITS);
  while (table[index].key != 0 && table[index].key != key) index = (index + 1) & ((1u << TABLE_BITS) - 1);
  return &table[index];
}

static void build_table(void) {
  table = allocate(sizeof *table << TABLE_BITS);
  for (uint32_t i = 1; i <= ENTRY_COUNT; i++) {
    uint32_t key = scramble(i);
    *find(key) = (struct slot){.key = key, .value = scramble(key ^ seed)};
  }
}

/* Sattolo's shuffle: one ring through all nodes, in random order. */
static void build_ring(void) {
  ring = allocate(sizeof *ring * NODE_COUNT);
  for (uint32_t i = 0; i < NODE_COUNT; i++)
    ring[i] = (struct node){.next = &ring[i], .id = i, .weight = word_of(~seed, i)};
  for (uint32_t i = NODE_COUNT - 1; i >= 1; i--) {
    uint32_t other = word_of(seed, i) % i;
    struct node *next = ring[i].next;
    ring[i].next = ring[other].next;
    ring[other].next = next;
  }
}

static void build_words(void) {
  words = allocate(sizeof *words * WORD_COUNT);
  for (uint32_t i = 0; i < WORD_COUNT; i++) words[i] = word_of(seed, i);
}

static void store_file(uint32_t number, uint32_t from) {
  char path[32];
  snprintf(path, sizeof path, "/data/file-%u", number);
  FILE *file = fopen(path, "w");
  if (!file) die("fopen %s: %m", path);
  for (uint32_t i = 0; i < FILE_WORDS; i++) {
    uint32_t word = word_of(from, i);
    if (fwrite(&word, sizeof word, 1, file) != 1) die("write %s: %m", path);
  }
  if (fclose(file) != 0) die("close %s: %m", path);
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

static void answer_slot(const struct slot *slot) {
  if (slot->key == 0) fputs("none", output);
  else fprintf(output, "%u", slot->value);
}

static void answer_set(uint32_t key, uint32_t value) {
  struct slot *slot = find(key);
  answer_slot(slot);
  *slot = (struct slot){.key = key, .value = value};
}

static void answer_chase(uint32_t start, uint32_t steps) {
  const struct node *node = &ring[start % NODE_COUNT];
  uint32_t sum = 0;
  for (uint32_t i = 0; i < steps; i++) {
    sum += node->weight;
    node = node->next;
  }
  fprintf(output, "%u %u", node->id, sum);
}

static void answer_sum(uint32_t first, uint32_t end) {
  uint32_t sum = 0;
  for (uint32_t i = first; i < end && i < WORD_COUNT; i++) sum += words[i];
  fprintf(output, "%u", sum);
}

static void answer_hash(const char *path) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) die("pipe: %m");
  pid_t child = fork();
  if (child < 0) die("fork: %m");
  if (child == 0) {
    dup2(ends[1], STDOUT_FILENO);
    execl("/bin/busybox", "sha256sum", path, (char *)NULL);
    _exit(127);
  }
  close(ends[1]);
  char text[65] = "";
  size_t length = 0;
  for (ssize_t got; length < 64 && (got = read(ends[0], text + length, 64 - length)) > 0;) length += (size_t)got;
  close(ends[0]);
  int status;
  if (waitpid(child, &status, 0) != child) die("waitpid: %m");
  if (status != 0) fprintf(output, "status %d", status);
  else fputs(text, output);
}

static void answer_fill(uint32_t mebibytes) {
  size_t count = ((size_t)mebibytes << 20) / sizeof(uint32_t);
  uint32_t *memory = allocate(count * sizeof *memory);
  for (size_t i = 0; i < count; i++) memory[i] = (uint32_t)i * GOLDEN;
  uint32_t wrong = 0;
  for (size_t i = 0; i < count; i++) wrong += memory[i] != (uint32_t)i * GOLDEN;
  munmap(memory, count * sizeof *memory);
  fprintf(output, "%u", wrong);
}

/* The first line of a file. */
static void read_line(const char *path, char *line, int size) {
  FILE *file = fopen(path, "r");
  if (!file || !fgets(line, size, file)) die("cannot read %s: %m", path);
  line[strcspn(line, "\n")] = '\0';
  fclose(file);
}

static void answer_uptime(void) {
  char line[64];
  read_line("/proc/uptime", line, sizeof line);
  unsigned seconds, hundredths;
  if (sscanf(line, "%u.%u", &seconds, &hundredths) != 2) die("/proc/uptime: %s", line);
  fprintf(output, "%u", seconds * 100 + hundredths);
}

static void answer(const char *question) {
  uint32_t first, second;
  char text[128];
  if (sscanf(question, "get %u", &first) == 1) {
    answer_slot(find(first));
  } else if (sscanf(question, "set %u %u", &first, &second) == 2) {
    answer_set(first, second);
  } else if (sscanf(question, "chase %u %u", &first, &second) == 2) {
    answer_chase(first, second);
  } else if (sscanf(question, "sum %u %u", &first, &second) == 2) {
    answer_sum(first, second);
  } else if (sscanf(question, "store %u %u", &first, &second) == 2) {
    store_file(first, second);
    fputs("stored", output);
  } else if (sscanf(question, "hash %127s", text) == 1) {
    answer_hash(text);
  } else if (sscanf(question, "fill %u", &first) == 1) {
    answer_fill(first);
  } else if (strcmp(question, "boot-id") == 0) {
    read_line("/proc/sys/kernel/random/boot_id", text, sizeof text);
    fputs(text, output);
  } else if (strcmp(question, "uptime") == 0) {
    answer_uptime();
  } else {
    fputs("not a question", output);
  }
}

/* ---- the serial port ------------------------------------------------------------------------------------------ */

static int open_port(const char *path) {
  int port = open(path, O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (port < 0) die("open %s: %m", path);
  struct termios settings;
  if (tcgetattr(port, &settings) < 0) die("tcgetattr %s: %m", path);
  cfmakeraw(&settings);
  if (tcsetattr(port, TCSANOW, &settings) < 0) die("tcsetattr %s: %m", path);
  return port;
}

int main(int argc, char **argv) {
  if (argc != 3) die("usage: warm-service TTY SEED");
  seed = (uint32_t)strtoul(argv[2], NULL, 10);
  build_table();
  build_ring();
  build_words();
  for (uint32_t i = 0; i < FILE_COUNT; i++) store_file(i, seed + i);

  int port = open_port(argv[1]);
  FILE *input = fdopen(port, "r");
  output = fdopen(dup(port), "w");
  if (!input || !output) die("fdopen: %m");
  fputs("warm\n", output);
  fflush(output);

  char line[256];
  for (uint32_t answered = 1; fgets(line, sizeof line, input); answered++) {
    line[strcspn(line, "\n")] = '\0';
    fprintf(output, "%u ", answered);
    answer(line);
    fputc('\n', output);
    if (fflush(output) != 0) die("write %s: %m", argv[1]);
  }
  die("%s ended", argv[1]);
}
