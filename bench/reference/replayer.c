/*
 * replayer: stand-ins for guests that touch the pages which a restored guest touched, in its order, and time it.
 *
 *   replayer TOUCHES MEMORY_FILE VMS [--page-size BYTES] [--held] [--write] SOCKET...|--mapping
 *
 * TOUCHES has for each touch two numbers of 32 bits as this machine has them: the ordinal of a page of 4 KiB, and how
 * many microseconds the guest computes before it touches it. Each of VMS VMs is a process of its own (handlers watch
 * pids) and restores as peer.h says, all at the same moment, with the handler at SOCKET: all at the one that is given,
 * or each at its own. It reads one word of each page; when all are done, words are compared with the file.
 *
 *   --page-size BYTES  of the guests' memory, 4096 (default) or 2097152 (hugetlb)
 *   --held             a VM does not run before a line "resume PID" comes on stdin
 *   --write            each word is written back when it was read, within the time of the touch
 *   --mapping          no handler: the memory is a private mapping of MEMORY_FILE (Firecracker's File backend)
 *
 * What a guest computes is slept through from 100 us on, so that it costs other VMs nothing, and spun below.
 *
 * Prints one line of JSON:
 *   {"vms":N,"touches":N,"working_set_ms":[F...],"stall_ms":[F...],"quantiles_us":[F...],"mismatches":N}
 *   working_set_ms  of each VM: from just before it sent its handshake until the last word was there
 *   stall_ms        of each VM: the sum of all its touches
 *   quantiles_us    of all touches of all VMs: 0 %, 1 %, 2 % ... 99 %, 99.1 %, 99.2 % ... 100 %
 *
 * Exit codes: 0 every word was right; 1 some were not; 2 wrong usage or a setup step failed (said on stderr).
 * There is no timeout: with a handler that does not answer, a guest hangs, and so does this. Whoever runs it, times it.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o replayer replayer.c
 */
#define _GNU_SOURCE
#define PROGRAM_NAME "replayer"
#include "peer.h"
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define MAX_VMS 1000
#define SPUN_US 100 /* a sleep takes longer than what is wanted, by as much as this on a virtual machine */

struct touch {
  uint32_t page, think_us;
};

static struct options {
  uint64_t vms;
  bool is_held, is_writing;
  const char **sockets; /* NULL: a mapping */
  size_t socket_count;
  const char *memory_path;
} options;

static const struct touch *touches;
static size_t touch_count, memory_size;
static const char *expected;

/* What all VMs and the parent see. */
static struct shared {
  pthread_barrier_t barrier;
  struct vm {
    uint64_t total_ns, stall_ns, mismatches;
  } vms[MAX_VMS];
} *shared;
static uint64_t *latencies; /* touch_count of each VM */
static struct {
  pid_t pid;
  int resume_fd;
} children[MAX_VMS];

/* ---- one VM --------------------------------------------------------------------------------------------------- */

static void *map_shared(size_t bytes, int visibility) {
  void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, visibility | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
  if (address == MAP_FAILED) die("mmap of %zu bytes: %m", bytes);
  return address;
}

static char *map_memory(void) {
  if (!options.sockets) return map_memory_file(options.memory_path, PROT_READ | PROT_WRITE, 0, &memory_size);
  return map_guest_memory(memory_size);
}

static void think(uint32_t us) {
  if (us >= SPUN_US) {
    struct timespec pause = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};
    clock_nanosleep(CLOCK_MONOTONIC, 0, &pause, NULL);
  } else if (us > 0) {
    for (uint64_t end = now_ns() + us * 1000u; now_ns() < end;) continue;
  }
}

/* Another word in each page, so that a handler which copies only part of a page is found out. */
static size_t word_offset(uint32_t page) {
  return (size_t)page * PAGE_SIZE + (size_t)page * 8 % PAGE_SIZE;
}

static void replay(char *guest, uint64_t start, uint64_t *own, uint64_t *words, struct vm *vm) {
  uint64_t after = start;
  for (size_t i = 0; i < touch_count; i++) {
    think(touches[i].think_us);
    char *word = guest + word_offset(touches[i].page);
    uint64_t before = now_ns();
    words[i] = *(volatile const uint64_t *)word;
    if (options.is_writing) *(volatile uint64_t *)word = words[i];
    after = now_ns();
    own[i] = after - before;
    vm->stall_ns += own[i];
  }
  vm->total_ns = after - start;
}

static void run_vm(size_t index, int resume_fd) {
  prctl(PR_SET_TIMERSLACK, 1);
  struct vm *vm = &shared->vms[index];
  uint64_t *words = map_shared(touch_count * sizeof *words, MAP_PRIVATE);
  pthread_barrier_wait(&shared->barrier); /* all begin together */
  uint64_t start = now_ns();
  char *guest = map_memory();
  if (options.sockets) {
    const char *socket = options.sockets[options.socket_count == 1 ? 0 : index];
    start = attach(socket, guest, memory_size);
  }
  char byte;
  if (options.is_held && read(resume_fd, &byte, 1) != 1) die("nobody resumes it");
  replay(guest, start, latencies + index * touch_count, words, vm);
  pthread_barrier_wait(&shared->barrier); /* nobody ends while another is timed */
  for (size_t i = 0; i < touch_count; i++)
    vm->mismatches += memcmp(&words[i], expected + word_offset(touches[i].page), sizeof *words) != 0;
}

static void start_vm(size_t index) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) die("pipe2: %m");
  pid_t parent = getpid(), pid = fork();
  if (pid < 0) die("fork: %m");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(2); /* it died before the line above */
    close(ends[1]);
    run_vm(index, ends[0]);
    _exit(0);
  }
  close(ends[0]);
  children[index].pid = pid;
  children[index].resume_fd = ends[1];
}

/* ---- all of them ---------------------------------------------------------------------------------------------- */

static void on_child_end(int signal) {
  (void)signal; /* it interrupts a read, and that is all it is for */
}

/* Lines about other processes are not for us. A VM that ends while others are held was killed by its handler. */
static void resume_all(void) {
  struct sigaction action = {.sa_handler = on_child_end}; /* without SA_RESTART */
  sigaction(SIGCHLD, &action, NULL);
  char line[64];
  for (uint64_t resumed = 0; resumed < options.vms;) {
    if (!fgets(line, sizeof line, stdin)) die("a VM or stdin ended before all VMs were resumed");
    if (strncmp(line, "resume ", 7) != 0) die("unknown command %s", line);
    pid_t pid = (pid_t)parse_number("resume", line + 7);
    for (size_t i = 0; i < options.vms; i++) {
      if (children[i].pid != pid) continue;
      if (write(children[i].resume_fd, "", 1) != 1) die("write to a VM: %m");
      resumed++;
    }
  }
  signal(SIGCHLD, SIG_DFL);
}

static void wait_for_all(void) {
  for (size_t i = 0; i < options.vms; i++) {
    int status;
    while (wait(&status) < 0)
      if (errno != EINTR) die("wait: %m");
    if (status != 0) die("a VM ended before its last page");
  }
}

static int compare_numbers(const void *a, const void *b) {
  uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
  return x < y ? -1 : x > y;
}

static void print_results(void) {
  uint64_t mismatches = 0, count = options.vms * touch_count;
  printf("{\"vms\":%" PRIu64 ",\"touches\":%zu,\"working_set_ms\":[", options.vms, touch_count);
  for (size_t i = 0; i < options.vms; i++) printf("%s%.3f", i ? "," : "", (double)shared->vms[i].total_ns / 1e6);
  printf("],\"stall_ms\":[");
  for (size_t i = 0; i < options.vms; i++) printf("%s%.3f", i ? "," : "", (double)shared->vms[i].stall_ns / 1e6);
  printf("],\"quantiles_us\":[");
  qsort(latencies, count, sizeof *latencies, compare_numbers);
  for (uint64_t permille = 0; permille <= 1000; permille += permille < 990 ? 10 : 1)
    printf("%s%.3f", permille ? "," : "", (double)latencies[(count - 1) * permille / 1000] / 1e3);
  for (size_t i = 0; i < options.vms; i++) mismatches += shared->vms[i].mismatches;
  printf("],\"mismatches\":%" PRIu64 "}\n", mismatches);
  fflush(stdout);
}

/* ---- options -------------------------------------------------------------------------------------------------- */

static void usage(void) {
  die("usage: replayer TOUCHES MEMORY_FILE VMS [--page-size BYTES] [--held] [--write] SOCKET...|--mapping");
}

static void parse_options(int argc, char **argv) {
  if (argc < 5) usage();
  options.memory_path = argv[2];
  options.vms = parse_number("VMS", argv[3]);
  if (options.vms < 1 || options.vms > MAX_VMS) die("VMS: 1 to %d", MAX_VMS);
  int i = 4;
  for (; i < argc && strncmp(argv[i], "--", 2) == 0 && strcmp(argv[i], "--mapping") != 0; i++) {
    if (strcmp(argv[i], "--held") == 0) options.is_held = true;
    else if (strcmp(argv[i], "--write") == 0) options.is_writing = true;
    else if (strcmp(argv[i], "--page-size") == 0 && i + 1 < argc)
      guest_page_size = parse_number("--page-size", argv[++i]);
    else die("unknown option %s", argv[i]);
  }
  if (guest_page_size != PAGE_SIZE && guest_page_size != HUGE_PAGE_SIZE)
    die("--page-size: %d or %zu", PAGE_SIZE, HUGE_PAGE_SIZE);
  if (i == argc) usage();
  if (strcmp(argv[i], "--mapping") == 0) return;
  options.sockets = (const char **)argv + i;
  options.socket_count = (size_t)(argc - i);
  if (options.socket_count != 1 && options.socket_count != options.vms) die("give one socket, or one for each VM");
}

static void *read_touches(const char *path, size_t *bytes) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) < 0) die("open %s: %m", path);
  *bytes = (size_t)info.st_size;
  if (*bytes == 0 || *bytes % sizeof *touches) die("%s: %zu bytes are not whole touches", path, *bytes);
  char *content = map_shared(*bytes, MAP_SHARED); /* so that no VM faults on it */
  if (read(fd, content, *bytes) != (ssize_t)*bytes) die("read %s: %m", path);
  close(fd);
  return content;
}

static void check_touches(const char *path, size_t bytes) {
  touch_count = bytes / sizeof *touches;
  for (size_t i = 0; i < touch_count; i++)
    if (touches[i].page >= memory_size / PAGE_SIZE) die("%s: page %u is outside of the memory", path, touches[i].page);
  if (memory_size % guest_page_size) die("%s: not whole pages of the guests", options.memory_path);
}

int main(int argc, char **argv) {
  parse_options(argc, argv);
  expected = map_memory_file(options.memory_path, PROT_READ, 0, &memory_size);
  size_t bytes;
  touches = read_touches(argv[1], &bytes);
  check_touches(argv[1], bytes);
  shared = map_shared(sizeof *shared, MAP_SHARED);
  latencies = map_shared(options.vms * touch_count * sizeof *latencies, MAP_SHARED);
  pthread_barrierattr_t attributes;
  pthread_barrierattr_init(&attributes);
  pthread_barrierattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  pthread_barrier_init(&shared->barrier, &attributes, (unsigned)options.vms);
  for (size_t i = 0; i < options.vms; i++) start_vm(i);
  if (options.is_held) resume_all();
  wait_for_all();
  print_results();
  for (size_t i = 0; i < options.vms; i++)
    if (shared->vms[i].mismatches) return 1;
  return 0;
}
