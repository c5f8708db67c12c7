/*
 * storm: handshakes that no page-fault handler may take, as many and as fast as they can be sent.
 *
 *   storm SOCKET MEMORY_FILE COUNT SEED [options]
 *
 *   --first N       number of the first handshake (default 0): handshake N of a seed is the same in every run, so that
 *                   `--first N` with COUNT 1 repeats a single one
 *   --rate N        at most so many a second (default 0: no pause)
 *   --threads N     connections at the same time (default 8)
 *   --slow-every N  one in N sends a part and then nothing until the handler gives up (default 0: none)
 *   --cpu N         run on this CPU only
 *
 * Each handshake has at least one flaw that makes it wrong for certain, whatever else is random about it: a field that
 * is missing, of another type, huge, negative, fractional, misaligned or overlapping; JSON that is cut, nested, doubled
 * or no JSON; too long a text; no descriptor, a wrong one, several. It comes whole, in two pieces or byte by byte, the
 * descriptor with any of them; and the peer waits for the answer, says that it is done (shutdown), or hangs up at once,
 * in the middle, or before it said anything. The userfaultfd that goes along is a real one with registered memory.
 *
 * A handler refuses by closing the connection. Prints
 *   {"sent":N,"refused":N,"left":N,"unanswered":N,"seconds":F}
 *   sent         connections made: refused + left + unanswered
 *   refused      closed by the handler, as seen from here
 *   left         closed from here without waiting
 *   unanswered   still open after 20 s; the first few are named on stderr with their number
 *
 * Exit codes: 0 none was unanswered; 1 some were; 2 wrong usage, or a call failed. Shares no code with Faultline.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o storm storm.c
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#ifndef USERFAULTFD_IOC_NEW /* Linux 6.1 */
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

#define PAGE ((uint64_t)4096)
#define MAX_THREADS 256
#define MAX_FDS 8
#define MAX_TEXT ((size_t)320 * 1024)
#define ANSWER_SECONDS 20

static struct options {
  const char *socket_path;
  const char *memory_path;
  uint64_t count, seed, first, rate, slow_every;
  long threads, cpu;
} options = {.threads = 8, .cpu = -1};

static uint64_t memory_size, guest_base;
static atomic_uint_fast64_t next_number, refused, left, unanswered;
static uint64_t started_at;

/* Formats may use %m, the text of errno. */
__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  int error = errno;
  va_list args;
  va_start(args, format);
  fputs("storm: ", stderr);
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

static uint64_t below(uint64_t *state, uint64_t limit) {
  return next_random(state) % limit;
}

/* ---- descriptors, made once and sent again and again ---------------------------------------------------------- */

enum fd_kind { GUEST, BLOCKING, RAW, FORKING, PIPE, REGULAR, SOCKET, MEMFD, EVENTFD, FD_KINDS };
static int kinds[FD_KINDS];

static int create_uffd(int flags) {
  int uffd = -1, device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
  if (device >= 0) {
    uffd = ioctl(device, USERFAULTFD_IOC_NEW, flags | O_CLOEXEC);
    close(device);
  }
  if (uffd < 0) uffd = (int)syscall(SYS_userfaultfd, flags | O_CLOEXEC);
  if (uffd < 0) die("userfaultfd: %m");
  return uffd;
}

static int set_up(int uffd, uint64_t features) {
  struct uffdio_api api = {.api = UFFD_API, .features = features};
  if (ioctl(uffd, UFFDIO_API, &api) < 0) die("UFFDIO_API: %m");
  return uffd;
}

static uint64_t register_guest(int uffd) {
  void *memory = mmap(NULL, memory_size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) die("mmap of the guest: %m");
  struct uffdio_register request = {.range = {.start = (uintptr_t)memory, .len = memory_size},
                                    .mode = UFFDIO_REGISTER_MODE_MISSING};
  if (ioctl(uffd, UFFDIO_REGISTER, &request) < 0) die("UFFDIO_REGISTER: %m");
  return (uintptr_t)memory;
}

static void make_descriptors(void) {
  int ends[2];
  kinds[GUEST] = set_up(create_uffd(O_NONBLOCK), UFFD_FEATURE_EVENT_REMOVE);
  guest_base = register_guest(kinds[GUEST]);
  kinds[BLOCKING] = set_up(create_uffd(0), UFFD_FEATURE_EVENT_REMOVE);
  register_guest(kinds[BLOCKING]);
  kinds[RAW] = create_uffd(O_NONBLOCK);
  kinds[FORKING] = set_up(create_uffd(O_NONBLOCK), UFFD_FEATURE_EVENT_FORK);
  if (pipe2(ends, O_CLOEXEC) < 0) die("pipe2: %m");
  kinds[PIPE] = ends[0];
  kinds[REGULAR] = open(options.memory_path, O_RDONLY | O_CLOEXEC);
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0) die("socketpair: %m");
  kinds[SOCKET] = ends[0];
  kinds[MEMFD] = memfd_create("storm", MFD_CLOEXEC);
  kinds[EVENTFD] = eventfd(0, EFD_CLOEXEC);
}

/* ---- texts ---------------------------------------------------------------------------------------------------- */

/* What will be said. `is_whole`: a handler can tell without the end of the stream that it is wrong. */
struct handshake {
  char *text;
  size_t length;
  int fds[MAX_FDS];
  int fd_count;
  bool is_whole;
};

__attribute__((format(printf, 2, 3))) static void say(struct handshake *h, const char *format, ...) {
  va_list args;
  va_start(args, format);
  int length = vsnprintf(h->text + h->length, MAX_TEXT - h->length, format, args);
  va_end(args);
  if (length < 0 || (size_t)length >= MAX_TEXT - h->length) die("a text became too long");
  h->length += (size_t)length;
}

enum field { BASE, SIZE, OFFSET, PAGE_SIZE, FIELDS };
static const char *const names[FIELDS] = {"base_host_virt_addr", "size", "offset", "page_size"};

/* Values that no field may have, whatever its meaning. */
static const char *const nonsense[] = {
    "null", "true", "\"4096\"", "[]", "{}", "[4096]", "{\"size\":4096}", "-1", "-4096", "0.5", "4096.5", "1e-3",
    "1e308", "1e999", "-1e999", "9007199254740992", "18446744073709551615", "340282366920938463463374607431768211456",
    "99999999999999999999999999999999999999999999999999999999999999999999999999999999", "\"\\u0000\"", "\"\xc3\x28\""};
/* Values of page_size that no handler of 4 KiB and 2 MiB pages may take. */
static const uint64_t bad_page_sizes[] = {0, 1, 4, 4095, 4097, 8192, 65536, 4194304, 1u << 30, 1ull << 52};

#define LENGTH_OF(array) (sizeof array / sizeof array[0])

static void say_field(struct handshake *h, const uint64_t *values, int field, const char *instead) {
  if (instead) say(h, "\"%s\":%s", names[field], instead);
  else say(h, "\"%s\":%" PRIu64, names[field], values[field]);
}

/* A flaw is in one field of one region, or (field == FIELDS) in none. `replaced`: what stands there, NULL: nothing. */
struct flaw {
  uint64_t region;
  int field;
  const char *replaced;
  bool is_doubled; /* the right value first: the last one counts */
};

static void say_regions(struct handshake *h, uint64_t *state, uint64_t count, struct flaw flaw, bool with_kib) {
  uint64_t pages = memory_size / PAGE, done = 0;
  for (uint64_t region = 0; region < count; region++) {
    uint64_t share = region == count - 1 ? pages - done : 1 + below(state, (pages - done) / (count - region));
    uint64_t values[FIELDS] = {guest_base + done * PAGE, share * PAGE, done * PAGE, PAGE};
    const char *separator = region == 0 ? "[{" : ",{";
    for (int field = 0; field < FIELDS; field++) {
      bool is_flawed = region == flaw.region && field == flaw.field;
      if (is_flawed && !flaw.replaced) continue;
      say(h, "%s", separator);
      separator = ",";
      if (is_flawed && flaw.is_doubled) {
        say_field(h, values, field, NULL);
        say(h, ",");
      }
      say_field(h, values, field, is_flawed ? flaw.replaced : NULL);
    }
    if (with_kib) say(h, ",\"page_size_kib\":%" PRIu64, values[PAGE_SIZE]);
    say(h, "}");
    done += share;
  }
  say(h, "]");
}

static void say_right(struct handshake *h, uint64_t *state) {
  say_regions(h, state, 1 + below(state, 4), (struct flaw){.field = FIELDS}, below(state, 2) == 0);
}

/* One field of one region is wrong. */
static void say_flawed_field(struct handshake *h, uint64_t *state) {
  uint64_t count = 1 + below(state, 4);
  struct flaw flaw = {.region = below(state, count), .field = (int)below(state, FIELDS)};
  char number[32];
  flaw.is_doubled = below(state, 4) == 0;
  switch (below(state, 3)) {
    case 0: /* missing; page_size may be, so that the others are */
      flaw.field = (int)below(state, PAGE_SIZE);
      flaw.is_doubled = false;
      break;
    case 1:
      flaw.replaced = nonsense[below(state, LENGTH_OF(nonsense))];
      break;
    default: { /* a number, but not the right one */
      uint64_t odd = 1 + below(state, PAGE - 1), value;
      if (flaw.field == PAGE_SIZE) value = bad_page_sizes[below(state, LENGTH_OF(bad_page_sizes))];
      else if (flaw.field == BASE) value = guest_base + odd;
      else if (flaw.field == SIZE) value = below(state, 2) ? odd : memory_size + PAGE * (1 + below(state, 1 << 20));
      else value = below(state, 2) ? odd : memory_size + PAGE * below(state, 1 << 20);
      snprintf(number, sizeof number, "%" PRIu64, value);
      flaw.replaced = number;
    }
  }
  say_regions(h, state, count, flaw, below(state, 2) == 0);
  h->is_whole = true;
}

/* Each region right by itself, all together wrong. */
static void say_flawed_list(struct handshake *h, uint64_t *state) {
  h->is_whole = true;
  uint64_t half = memory_size / 2 / PAGE * PAGE;
  const char *two = "[{\"base_host_virt_addr\":%" PRIu64 ",\"size\":%" PRIu64 ",\"offset\":%" PRIu64
                    "},{\"base_host_virt_addr\":%" PRIu64 ",\"size\":%" PRIu64 ",\"offset\":%" PRIu64 "}]";
  switch (below(state, 6)) {
    case 0: say(h, "[]"); return;
    case 1: /* the same addresses twice */
      say(h, two, guest_base, half, (uint64_t)0, guest_base + half - PAGE, memory_size - half, half);
      return;
    case 2: /* the same offsets twice */
      say(h, two, guest_base, half, (uint64_t)0, guest_base + half, memory_size - half, half - PAGE);
      return;
    case 3: /* too many */
      say(h, "[");
      for (uint64_t i = 0; i < 257 + below(state, 64); i++)
        say(h, "%s{\"base_host_virt_addr\":%" PRIu64 ",\"size\":4096,\"offset\":%" PRIu64 "}", i ? "," : "",
            guest_base + i * PAGE, i * PAGE);
      say(h, "]");
      return;
    case 4: /* not all of the image */
      say(h, two, guest_base, half, (uint64_t)0, guest_base + half, half - PAGE, half);
      return;
    default: /* no list of objects */
      say(h, "[%s]", (const char *[]){"1", "null", "\"x\"", "[]", "[[[[[]]]]]", "{}", "true"}[below(state, 7)]);
  }
}

/* JSON as deep as a stack. */
static void say_deep(struct handshake *h, uint64_t *state) {
  size_t depth = 1 + below(state, 20000);
  bool is_object = below(state, 2) == 0;
  for (size_t i = 0; i < depth && h->length < 60000; i++) say(h, "%s", is_object ? "[{\"size\":" : "[");
  if (is_object) say(h, "1");
  h->is_whole = below(state, 2) == 0;
  size_t opened = is_object ? h->length / 9 : h->length;
  for (size_t i = 0; h->is_whole && i < opened && h->length < 65000; i++) say(h, "%s", is_object ? "}]" : "]");
  h->is_whole = false; /* some are too long to be closed */
}

/* A right one that is cut, or has other bytes in it. Most often its end can no longer be told, so never wait for it. */
static void say_damaged(struct handshake *h, uint64_t *state) {
  say_right(h, state);
  if (below(state, 2)) {
    h->length = 1 + below(state, h->length - 1);
    return;
  }
  /* The first bracket is gone for certain, so that no damage makes it right again. */
  h->text[0] = " {}(\"x\xff\0"[below(state, 8)];
  for (uint64_t times = below(state, 20); times > 0; times--)
    h->text[1 + below(state, h->length - 1)] = (char)next_random(state);
}

static void say_noise(struct handshake *h, uint64_t *state) {
  h->length = 1 + below(state, below(state, 50) ? 300 : 65536);
  for (size_t i = 0; i < h->length; i++) h->text[i] = (char)next_random(state);
  if (h->text[0] == '[') h->text[0] = ']';
}

/* More than 64 KiB, which no list of 256 regions needs. */
static void say_endless(struct handshake *h, uint64_t *state) {
  size_t length = 65537 + below(state, MAX_TEXT - 70000);
  char filler = "[ 1]\xc3{"[below(state, 6)];
  say(h, "[{\"size\":");
  memset(h->text + h->length, filler, length - h->length);
  h->length = length;
  h->is_whole = true;
}

/* ---- descriptors of a handshake ------------------------------------------------------------------------------- */

static void take_right_fd(struct handshake *h, uint64_t *state) {
  h->fds[0] = kinds[below(state, 4) ? GUEST : BLOCKING];
  h->fd_count = 1;
}

/* With these even the right text is wrong. */
static void take_wrong_fds(struct handshake *h, uint64_t *state) {
  if (below(state, 3)) {
    h->fds[0] = kinds[RAW + below(state, FD_KINDS - RAW)];
    h->fd_count = 1;
    return;
  }
  h->fd_count = 2 + (int)below(state, MAX_FDS - 1);
  for (int i = 0; i < h->fd_count; i++) h->fds[i] = kinds[below(state, FD_KINDS)];
}

static void compose(struct handshake *h, uint64_t *state) {
  uint64_t kind = below(state, 100);
  if (kind < 35) say_flawed_field(h, state);
  else if (kind < 45) say_flawed_list(h, state);
  else if (kind < 48) say_deep(h, state);
  else if (kind < 60) say_damaged(h, state);
  else if (kind < 68) say_noise(h, state);
  else if (kind < 70) say_endless(h, state);
  else if (kind < 80) { /* nothing but a descriptor is missing */
    say_right(h, state);
    return;
  } else { /* only the descriptors are wrong */
    say_right(h, state);
    take_wrong_fds(h, state);
    h->is_whole = true;
    return;
  }
  take_right_fd(h, state);
  if (below(state, 8) == 0) take_wrong_fds(h, state);
  if (below(state, 16) == 0) h->fd_count = 0;
  if (h->fd_count == 0) h->is_whole = false;
}

/* ---- saying it ------------------------------------------------------------------------------------------------ */

static int connect_to_handler(void) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  if (strlen(options.socket_path) >= sizeof address.sun_path) die("%s: too long", options.socket_path);
  strcpy(address.sun_path, options.socket_path);
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) die("socket: %m");
  if (connect(fd, (struct sockaddr *)&address, sizeof address) < 0) die("connect %s: %m", options.socket_path);
  struct timeval patience = {.tv_sec = ANSWER_SECONDS};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
  return fd;
}

/* False if the handler has hung up. */
static bool send_piece(int socket, const char *bytes, size_t length, const int *fds, int fd_count) {
  union {
    char bytes[CMSG_SPACE(MAX_FDS * sizeof(int))];
    struct cmsghdr align;
  } control;
  while (length > 0) {
    struct iovec body = {(void *)bytes, length};
    struct msghdr message = {.msg_iov = &body, .msg_iovlen = 1};
    if (fd_count > 0) {
      message.msg_control = control.bytes;
      message.msg_controllen = CMSG_SPACE((size_t)fd_count * sizeof(int));
      struct cmsghdr *header = CMSG_FIRSTHDR(&message);
      *header = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS};
      header->cmsg_len = CMSG_LEN((size_t)fd_count * sizeof(int));
      memcpy(CMSG_DATA(header), fds, (size_t)fd_count * sizeof(int));
    }
    ssize_t sent = sendmsg(socket, &message, MSG_NOSIGNAL);
    if (sent < 0 && (errno == EPIPE || errno == ECONNRESET)) return false;
    if (sent < 0) die("sendmsg: %m");
    bytes += sent;
    length -= (size_t)sent;
    fd_count = 0;
  }
  return true;
}

/* Whole, in two pieces, or byte by byte if it is short; the descriptors with any piece. */
static void send_in_pieces(int socket, const struct handshake *h, size_t length, uint64_t *state) {
  size_t pieces = 1;
  if (length > 1 && below(state, 4) == 0) pieces = 2;
  if (length > 1 && length <= 400 && below(state, 50) == 0) pieces = length;
  size_t with_fds = below(state, pieces), at = 0;
  for (size_t piece = 0; piece < pieces; piece++) {
    size_t end = piece == pieces - 1 ? length : pieces == 2 ? 1 + below(state, length - 1) : piece + 1;
    bool has_fds = piece == with_fds;
    if (!send_piece(socket, h->text + at, end - at, h->fds, has_fds ? h->fd_count : 0)) return;
    at = end;
  }
}

static void await_refusal(int socket, uint64_t number) {
  char answer;
  ssize_t got = recv(socket, &answer, 1, 0);
  if (got == 0 || (got < 0 && errno == ECONNRESET)) {
    atomic_fetch_add(&refused, 1);
  } else if (atomic_fetch_add(&unanswered, 1) < 5) {
    fprintf(stderr, "storm: number %" PRIu64 " of seed %" PRIu64 " was not refused: %s\n", number, options.seed,
            got > 0 ? "the handler said something" : strerror(errno));
  }
}

static void play(uint64_t number, char *text) {
  uint64_t state = options.seed * 0x2545f4914f6cdd1du + number;
  next_random(&state);
  struct handshake h = {.text = text};
  compose(&h, &state);
  bool is_slow = options.slow_every > 0 && number % options.slow_every == options.slow_every - 1;
  uint64_t manner = below(&state, 100);
  int socket = connect_to_handler();
  if (is_slow) {
    size_t length = below(&state, 2) ? 0 : h.length / 2; /* half of it, or nothing */
    if (length > 0) send_piece(socket, h.text, length, h.fds, h.fd_count);
    await_refusal(socket, number);
  } else if (manner < 4) { /* before it said anything */
    atomic_fetch_add(&left, 1);
  } else if (manner < 10) { /* in the middle */
    send_in_pieces(socket, &h, 1 + below(&state, h.length), &state);
    atomic_fetch_add(&left, 1);
  } else {
    send_in_pieces(socket, &h, h.length, &state);
    if (manner < 20) {
      atomic_fetch_add(&left, 1); /* right after */
    } else {
      if (!h.is_whole || manner < 25) shutdown(socket, SHUT_WR);
      await_refusal(socket, number);
    }
  }
  close(socket);
}

static void await_turn(uint64_t index) {
  if (options.rate == 0) return;
  uint64_t due = started_at + index * 1000000000u / options.rate;
  struct timespec at = {.tv_sec = (time_t)(due / 1000000000u), .tv_nsec = (long)(due % 1000000000u)};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL) == EINTR) continue;
}

static void *keep_sending(void *unused) {
  (void)unused;
  char *text = malloc(MAX_TEXT);
  if (!text) die("out of memory");
  for (;;) {
    uint64_t index = atomic_fetch_add(&next_number, 1);
    if (index >= options.count) break;
    await_turn(index);
    play(options.first + index, text);
  }
  free(text);
  return NULL;
}

/* ---- main ----------------------------------------------------------------------------------------------------- */

static uint64_t parse_number(const char *name, const char *text) {
  char *end;
  errno = 0;
  unsigned long long value = strtoull(text, &end, 10);
  if (errno || end == text || *end || *text == '-') die("%s: '%s' is not an unsigned integer", name, text);
  return value;
}

static void parse_options(int argc, char **argv) {
  if (argc < 5) die("usage: storm SOCKET MEMORY_FILE COUNT SEED [options]; they are explained at the top of storm.c");
  options.socket_path = argv[1];
  options.memory_path = argv[2];
  options.count = parse_number("COUNT", argv[3]);
  options.seed = parse_number("SEED", argv[4]);
  for (int i = 5; i < argc; i += 2) {
    if (!argv[i + 1]) die("%s: value missing", argv[i]);
    uint64_t value = parse_number(argv[i], argv[i + 1]);
    if (strcmp(argv[i], "--first") == 0) options.first = value;
    else if (strcmp(argv[i], "--rate") == 0) options.rate = value;
    else if (strcmp(argv[i], "--threads") == 0) options.threads = (long)value;
    else if (strcmp(argv[i], "--slow-every") == 0) options.slow_every = value;
    else if (strcmp(argv[i], "--cpu") == 0) options.cpu = (long)value;
    else die("unknown option %s", argv[i]);
  }
  if (options.threads < 1 || options.threads > MAX_THREADS) die("--threads: 1 to %d", MAX_THREADS);
}

int main(int argc, char **argv) {
  parse_options(argc, argv);
  struct stat info;
  if (stat(options.memory_path, &info) < 0) die("%s: %m", options.memory_path);
  memory_size = (uint64_t)info.st_size;
  if (memory_size < 16 * PAGE || memory_size % PAGE) die("%s: not at least 16 whole pages", options.memory_path);
  if (options.cpu >= 0) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((size_t)options.cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) < 0) die("sched_setaffinity to CPU %ld: %m", options.cpu);
  }
  make_descriptors();
  started_at = now_ns();
  pthread_t threads[MAX_THREADS];
  for (long i = 0; i < options.threads; i++)
    if (pthread_create(&threads[i], NULL, keep_sending, NULL)) die("pthread_create");
  for (long i = 0; i < options.threads; i++) pthread_join(threads[i], NULL);
  uint64_t refused_count = atomic_load(&refused), left_count = atomic_load(&left), rest = atomic_load(&unanswered);
  printf("{\"sent\":%" PRIu64 ",\"refused\":%" PRIu64 ",\"left\":%" PRIu64 ",\"unanswered\":%" PRIu64
         ",\"seconds\":%.3f}\n",
         refused_count + left_count + rest, refused_count, left_count, rest, (double)(now_ns() - started_at) / 1e9);
  return rest > 0;
}
