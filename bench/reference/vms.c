/*
 * vms: many small stand-ins for guests, to see what a page-fault handler costs per VM and keeps after each.
 *
 *   vms SOCKET MEMORY_FILE PAGES
 *
 * Each VM is a process of its own (handlers watch pids) and restores as peer.h says, with the handler at SOCKET. Then it
 * reads one word in each of PAGES pages, spread evenly over the memory, and compares it with the file.
 *
 * Commands come on stdin, one a line; each is answered with one line of JSON on stdout when it is done:
 *   hold N         N more VMs, which sleep after their last page until this program ends or they are released
 *   cycle N        N VMs, one after the other, each of which exits after its last page
 *   release        the VMs that sleep are killed, and have ended when the answer comes
 *   socket PATH    the next VMs connect to this path instead
 *   {"held":N,"cycled":N,"mismatches":N,"ms":F,"first_us":F}
 *       VMs that sleep now; all that came and went; wrong words so far; the time this command took; and for the last VM
 *       the time from just before it sent the handshake until its first word was there
 * At the end of stdin all VMs are killed. They also die with this program.
 *
 * Exit codes: 0 every word was right; 1 some were not; 2 wrong usage or a setup step failed (said on stderr).
 * There is no timeout: with a handler that does not answer, a guest hangs, and so does this. Whoever runs it, times it.
 *
 * Build: gcc -O2 -Wall -Wextra -o vms vms.c
 */
#define _GNU_SOURCE
#define PROGRAM_NAME "vms"
#include "peer.h"
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#define MAX_HELD 4096
#define MAX_LINE 256

static char socket_path[MAX_LINE];
static const char *expected;
static size_t memory_size;
static uint64_t touched_pages;
static pid_t held[MAX_HELD];
static size_t held_count;
static uint64_t cycled, mismatches;
static double last_first_us;

/* What a VM tells the parent. */
struct report {
  uint64_t wrong;
  double first_us;
};

/* ---- one VM --------------------------------------------------------------------------------------------------- */

static struct report restore(void) {
  char *guest = map_guest_memory(memory_size);
  uint64_t sent_at = attach(socket_path, guest, memory_size);
  struct report report = {0};
  uint64_t step = memory_size / PAGE_SIZE / touched_pages;
  for (uint64_t i = 0; i < touched_pages; i++) {
    uint64_t word, wanted;
    memcpy(&word, guest + i * step * PAGE_SIZE, sizeof word);
    if (i == 0) report.first_us = (double)(now_ns() - sent_at) / 1e3;
    memcpy(&wanted, expected + i * step * PAGE_SIZE, sizeof wanted);
    report.wrong += word != wanted;
  }
  return report;
}

/* The VM writes its report to `parent_fd`, then sleeps or exits. */
static pid_t start_vm(int parent_fd, int stays) {
  pid_t parent = getpid(), pid = fork();
  if (pid < 0) die("fork: %m");
  if (pid > 0) return pid;
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(2); /* it died before the line above */
  struct report report = restore();
  if (write(parent_fd, &report, sizeof report) != (ssize_t)sizeof report) die("write to the parent: %m");
  while (stays) pause();
  _exit(0);
}

/* ---- commands ------------------------------------------------------------------------------------------------- */

static void read_report(int fd) {
  struct report report;
  ssize_t n = read(fd, &report, sizeof report);
  if (n != (ssize_t)sizeof report) die("a VM ended before its last page");
  mismatches += report.wrong;
  last_first_us = report.first_us;
}

static pid_t start_and_hear(int stays) {
  int ends[2];
  if (pipe2(ends, O_CLOEXEC) < 0) die("pipe2: %m");
  pid_t pid = start_vm(ends[1], stays);
  close(ends[1]); /* or the death of the VM would leave us waiting */
  read_report(ends[0]);
  close(ends[0]);
  return pid;
}

static void hold(uint64_t count) {
  if (count > MAX_HELD - held_count) die("hold: at most %d VMs", MAX_HELD);
  for (uint64_t i = 0; i < count; i++) held[held_count++] = start_and_hear(1);
}

static void cycle(uint64_t count) {
  for (uint64_t i = 0; i < count; i++) {
    pid_t pid = start_and_hear(0);
    if (waitpid(pid, NULL, 0) < 0) die("waitpid %d: %m", (int)pid);
    cycled++;
  }
}

static void release(void) {
  for (size_t i = 0; i < held_count; i++) kill(held[i], SIGKILL);
  while (wait(NULL) > 0) continue;
  held_count = 0;
}

static void set_socket(const char *path) {
  size_t length = strcspn(path, "\n");
  if (length >= sizeof socket_path) die("%s: socket path longer than 107 bytes", path);
  memcpy(socket_path, path, length);
  socket_path[length] = 0;
}

static void obey(const char *line) {
  if (strncmp(line, "hold ", 5) == 0) hold(parse_number("hold", line + 5));
  else if (strncmp(line, "cycle ", 6) == 0) cycle(parse_number("cycle", line + 6));
  else if (strncmp(line, "socket ", 7) == 0) set_socket(line + 7);
  else if (strcmp(line, "release\n") == 0) release();
  else die("unknown command %s", line);
}

int main(int argc, char **argv) {
  if (argc != 4) die("usage: vms SOCKET MEMORY_FILE PAGES");
  set_socket(argv[1]);
  expected = map_memory_file(argv[2], PROT_READ, 0, &memory_size);
  touched_pages = parse_number("PAGES", argv[3]);
  if (touched_pages == 0 || touched_pages > memory_size / PAGE_SIZE)
    die("PAGES: 1 to %zu, not %s", memory_size / PAGE_SIZE, argv[3]);

  char line[MAX_LINE];
  while (fgets(line, sizeof line, stdin)) {
    uint64_t start = now_ns();
    obey(line);
    printf("{\"held\":%zu,\"cycled\":%" PRIu64 ",\"mismatches\":%" PRIu64 ",\"ms\":%.3f,\"first_us\":%.1f}\n",
           held_count, cycled, mismatches, (double)(now_ns() - start) / 1e6, last_first_us);
    fflush(stdout);
  }
  release();
  return mismatches ? 1 : 0;
}
