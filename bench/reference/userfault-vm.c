/*
 * userfault-vm: the VMM's and the kernel's half of KVM Userfault, on a kernel that has none of it. Guest memory is a
 * sealed memfd in the place of a guest_memfd, vCPUs are threads that look at the bitmap as KVM does, and their rings
 * are pages of memfds. The userfaultfd is a real one, on the VMM's own mapping of the same memory.
 *
 *   userfault-vm SOCKET MEMORY_FILE SCENARIO [SEED [DEADLINE_S]]
 *
 *   sync        vCPUs ask on the first socket, one page at a time
 *   apf         they ask on the second socket, eight pages at a time
 *   ring        they ask through their rings
 *   burst       64 entries appear at once, what is more comes over the second socket
 *   duplicate   each request comes twice, and each is answered
 *   host        the VMM itself touches its memory, no vCPU does
 *   race        the VMM and a vCPU touch the same pages at the same time
 *   mixed       four vCPUs and the VMM, in all ways
 *   glued       no rings; the first request is in one piece with the message that says so
 *   split       no rings; every byte is sent by itself
 *   no-apf      no rings, no second socket
 *   killed      as mixed, and dies in the middle of it, by SIGKILL
 *   siege       as mixed, with eight vCPUs that take some seconds: handlers die meanwhile, and others go on. Only here
 *               an answer may come twice, as a handler may die between an answer and its note that it was given
 *
 * Checked is what a guest would notice: with every answer, or as soon as the bit is clear, the bytes are right; the
 * bit is clear before the answer; the answer is for a page and a vCPU that asked; its frame is in the one canonical
 * form; and there is an answer. Not to be had on a memfd: EEXIST from pwrite(2), which a guest_memfd can say.
 *
 * Exit codes: 0 and a line of counts; 1 and a line that begins with FAIL; 2 it could not play
 */
#define _GNU_SOURCE
#define PROGRAM_NAME "userfault-vm"
#include "userfault.h"
#include "userfault-vmm.h"

#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <time.h>

#define MAX_OUTSTANDING 96
#define SIEGE_VCPUS 8

enum way { BY_SYNC, BY_APF, BY_RING, WAYS };
static const char *way_names[] = {"sync", "apf", "ring"};

struct fault {
  uint64_t page;
  enum way way;
  int answers_due;
};

static struct vcpu {
  int index, notify, complete, fd;
  struct ring_page *page;
  uint32_t produced, consumed; /* private, as KVM's are */
  struct fault faults[MAX_OUTSTANDING];
  int outstanding;
  uint8_t *asked; /* of each page: in which ways, as bits */
} vcpus[MAX_VCPUS];

static const char *scenario;
static int vcpu_count;
static bool has_rings, has_apf;
static size_t size, pages;
static int guest_fd;
static char *file, *host; /* the memory file; the VMM's mapping, which is registered */
static uint64_t *bitmap;
static struct stream sync_stream, apf_stream;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static unsigned long counts[WAYS], host_count, repeated_count, progress;
static const char *host_state = "anybody";

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *format, ...) {
  static int has_failed;
  if (__atomic_exchange_n(&has_failed, 1, __ATOMIC_SEQ_CST)) pause();
  va_list args;
  va_start(args, format);
  printf("FAIL ");
  vprintf(format, args);
  printf("\n");
  fflush(stdout);
  _exit(1);
}

static bool is(const char *name) { return strcmp(scenario, name) == 0; }

static bool is_mixed(void) { return is("mixed") || is("killed") || is("siege"); }

static uint64_t gpa_of(uint64_t page) { return gpa_of_page(page, pages); }

static uint64_t page_of_gpa(uint64_t gpa) {
  return gpa < SECOND_GPA ? gpa / PAGE : (gpa - SECOND_GPA) / PAGE + pages / 2;
}

static uint32_t random_below(uint64_t *state, uint32_t end) {
  *state = *state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((*state >> 33) % end);
}

/* What a vCPU would read. Through the file, as a look through a mapping would put zeroes where nothing is. */
static void check_bytes(uint64_t page, const char *when) {
  char bytes[PAGE];
  if (pread(guest_fd, bytes, PAGE, (off_t)(page * PAGE)) != PAGE) die("pread: %m");
  if (memcmp(bytes, file + page * PAGE, PAGE) != 0) fail("page %" PRIu64 " has wrong bytes %s", page, when);
}

/* With faults under way in all ways. */
static void die_now(void) {
  printf("ok dying\n");
  fflush(stdout);
  kill(getpid(), SIGKILL);
}

/* ---- answers -------------------------------------------------------------------------------------------------- */

/* Said once more by a handler that does not know what the last one has said. */
static bool is_repeated(const struct vcpu *v, bool has_gpa, uint64_t gpa, enum way way) {
  if (!is("siege") || !has_gpa || page_of_gpa(gpa) >= pages) return false;
  return v->asked[page_of_gpa(gpa)] & 1 << way && !is_set(bitmap, page_of_gpa(gpa));
}

static void answer(uint32_t index, bool has_gpa, uint64_t gpa, enum way way) {
  if (index >= (uint32_t)vcpu_count) fail("a reply names vCPU %u of %d", index, vcpu_count);
  struct vcpu *v = &vcpus[index];
  pthread_mutex_lock(&lock);
  int at = 0;
  while (at < v->outstanding && (v->faults[at].way != way || (has_gpa && gpa_of(v->faults[at].page) != gpa))) at++;
  if (at == v->outstanding && is_repeated(v, has_gpa, gpa, way)) {
    repeated_count++;
    pthread_mutex_unlock(&lock);
    return;
  }
  if (at == v->outstanding)
    fail("an answer by %s for vCPU %u and gpa %#" PRIx64 ", which has not asked for it", way_names[way], index, gpa);
  uint64_t page = v->faults[at].page;
  if (is_set(bitmap, page))
    fail("the bit of page %" PRIu64 " is still set with the answer by %s", page, way_names[way]);
  check_bytes(page, "with its answer");
  if (--v->faults[at].answers_due == 0) v->faults[at] = v->faults[--v->outstanding];
  if (++progress == pages / 4 && is("killed")) die_now();
  pthread_cond_broadcast(&changed);
  pthread_mutex_unlock(&lock);
}

static void *read_replies(void *argument) {
  struct stream *s = argument;
  enum way way = s == &apf_stream ? BY_APF : BY_SYNC;
  for (;;) {
    if (!fill_stream(s)) fail("the handler has closed the stream of %s faults", way_names[way]);
    uint32_t length;
    for (uint8_t *payload; (payload = next_frame(s, &length)) != NULL; drop_frame(s, length)) {
      struct reply r;
      uint8_t canonical[64];
      if (!decode_reply(payload, length, &r)) fail("a frame that is no reply");
      if (encode_reply(canonical, &r) != length + 4 || memcmp(canonical, s->bytes, length + 4) != 0)
        fail("a reply that is not in the canonical form");
      if (!r.has_vcpu) fail("a reply without a vCPU");
      if (way == BY_APF && !r.has_gpa) fail("a reply without a gpa on the second socket");
      answer(r.vcpu, r.has_gpa, r.gpa, way);
    }
  }
}

/* KVM looks at the completions when the eventfd is signalled, and at no other time. */
static void *take_completions(void *argument) {
  struct vcpu *v = argument;
  for (;;) {
    struct pollfd polled = {.fd = v->complete, .events = POLLIN};
    uint64_t count;
    if (poll(&polled, 1, -1) < 0 || read(v->complete, &count, sizeof count) < 0) continue;
    uint32_t head = __atomic_load_n(&v->page->complete.head, __ATOMIC_ACQUIRE);
    if (head - v->consumed > RING_ENTRIES) fail("the completion ring's head is %u entries ahead", head - v->consumed);
    for (; v->consumed != head; v->consumed++) {
      struct ring_entry entry = v->page->complete.entries[v->consumed % RING_ENTRIES];
      if (entry.gpa % PAGE || entry.flags)
        fail("a completion of gpa %#" PRIx64 ", flags %#" PRIx64, entry.gpa, entry.flags);
      answer((uint32_t)v->index, true, entry.gpa, BY_RING);
    }
    __atomic_store_n(&v->page->complete.tail, v->consumed, __ATOMIC_RELEASE);
  }
}

/* ---- vCPUs ---------------------------------------------------------------------------------------------------- */

static void send_bytes(struct stream *s, const void *bytes, size_t length) {
  static pthread_mutex_t sending = PTHREAD_MUTEX_INITIALIZER;
  pthread_mutex_lock(&sending);
  if (!is("split")) write_all(s->fd, bytes, length);
  for (size_t i = 0; is("split") && i < length; i++) write_all(s->fd, (const char *)bytes + i, 1);
  pthread_mutex_unlock(&sending);
}

static size_t request_frame(uint8_t *frame, int vcpu, uint64_t page, enum way way) {
  uint64_t flags = FLAG_USERFAULT | (way == BY_SYNC ? 0 : FLAG_APF);
  struct request r = {.vcpu = (uint32_t)vcpu, .flags = flags, .has_gpa = true, .gpa = gpa_of(page)};
  return encode_request(frame, &r);
}

static void remember(struct vcpu *v, uint64_t page, enum way way, int answers) {
  pthread_mutex_lock(&lock);
  v->faults[v->outstanding++] = (struct fault){page, way, answers};
  v->asked[page] |= (uint8_t)(1 << way);
  counts[way]++;
  pthread_mutex_unlock(&lock);
}

static void put_entry(struct vcpu *v, uint64_t page) {
  put_notify(v->page, v->produced++, gpa_of(page));
}

static void publish(struct vcpu *v) { publish_notify(v->page, v->produced, v->notify); }

static void raise_fault(struct vcpu *v, uint64_t page, enum way way) {
  if (way == BY_RING && is_notify_full(v->page, v->produced)) way = BY_APF;
  int times = is("duplicate") ? 2 : 1;
  remember(v, page, way, times);
  if (way == BY_RING) {
    put_entry(v, page);
    if (!is("burst")) publish(v);
    return;
  }
  uint8_t frame[64];
  size_t length = request_frame(frame, v->index, page, way);
  for (int i = 0; i < times; i++) send_bytes(way == BY_APF ? &apf_stream : &sync_stream, frame, length);
}

/* The vCPU is out, or runs something else; another one may come to the page at any moment, and map it. */
static void await(struct vcpu *v, const uint64_t *asked, int count) {
  for (;;) {
    for (int i = 0; i < count; i++) {
      if (!is_set(bitmap, asked[i])) check_bytes(asked[i], "as soon as its bit is clear");
    }
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 100000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    pthread_mutex_lock(&lock);
    if (v->outstanding > 0) pthread_cond_timedwait(&changed, &lock, &until);
    int left = v->outstanding;
    pthread_mutex_unlock(&lock);
    if (left == 0) return;
  }
}

static uint64_t *shuffled(uint64_t seed) {
  uint64_t *order = malloc(pages * sizeof *order);
  if (order == NULL) die("malloc: %m");
  for (size_t i = 0; i < pages; i++) order[i] = i;
  for (size_t i = pages - 1; i > 0; i--) {
    size_t other = random_below(&seed, (uint32_t)i + 1);
    uint64_t page = order[i];
    order[i] = order[other];
    order[other] = page;
  }
  return order;
}

static uint64_t seed;

/* Guests that have time: their handlers have not. */
static void rest(uint64_t *random, uint32_t longest_us) {
  if (is("siege")) usleep(random_below(random, longest_us));
}

static enum way way_of(uint64_t *random) {
  if (is_mixed()) return random_below(random, WAYS);
  if (is("apf")) return BY_APF;
  return is("ring") || is("burst") ? BY_RING : BY_SYNC;
}

static void *run_vcpu(void *argument) {
  struct vcpu *v = argument;
  uint64_t random = seed + (uint64_t)v->index * 77;
  /* In a race all go the same way. */
  uint64_t *order = shuffled(is("race") ? seed : random);
  uint64_t asked[MAX_OUTSTANDING];
  int batch = is("burst") ? 80 : is("apf") || is_mixed() ? 8 : is("ring") ? 1 + v->index * 4 : 1;
  for (size_t at = 0; at < pages;) {
    int count = 0;
    for (; count < batch && at < pages; at++) {
      uint64_t page = order[at];
      if (!is_set(bitmap, page)) {
        check_bytes(page, "with its bit clear");
        continue;
      }
      enum way way = way_of(&random);
      asked[count++] = page;
      raise_fault(v, page, way);
      if (way == BY_SYNC) break; /* it is stopped */
    }
    if (is("burst")) publish(v);
    await(v, asked, count);
    rest(&random, 20000);
  }
  free(order);
  return NULL;
}

/* The VMM's own accesses: devices, and what KVM reads by host addresses. */
static void *touch_host(void *argument) {
  (void)argument;
  uint64_t *order = shuffled(is("race") ? seed : seed + 1000), random = seed;
  for (size_t i = 0; i < pages; i++) {
    uint64_t page = order[i];
    host_state = "the VMM, for a page of its own mapping";
    if (memcmp(host + page * PAGE, file + page * PAGE, PAGE) != 0)
      fail("page %" PRIu64 " has wrong bytes for the VMM", page);
    host_count++;
    rest(&random, 1000);
    __atomic_fetch_add(&progress, 1, __ATOMIC_RELAXED);
    /* The next look at it is a fault of the other kind: the page is there, and not mapped. */
    if (page % 4 == 0 && is("host")) {
      madvise(host + page * PAGE, PAGE, MADV_DONTNEED);
      if (*(volatile char *)(host + page * PAGE) != file[page * PAGE])
        fail("page %" PRIu64 " differs when mapped again", page);
    }
    host_state = "anybody";
  }
  free(order);
  return NULL;
}

static void *watch(void *argument) {
  const int deadline_s = *(int *)argument;
  for (unsigned long seen = ~0ul; seen != __atomic_load_n(&progress, __ATOMIC_RELAXED);) {
    seen = __atomic_load_n(&progress, __ATOMIC_RELAXED);
    sleep((unsigned)deadline_s);
  }
  int waiting[WAYS] = {0};
  for (int i = 0; i < vcpu_count; i++)
    for (int at = 0; at < vcpus[i].outstanding; at++) waiting[vcpus[i].faults[at].way]++;
  for (int i = 0; i < vcpu_count; i++) {
    struct fault f = vcpus[i].faults[0];
    if (vcpus[i].outstanding > 0)
      fail("no answer within %d s: vCPU %d waits for page %" PRIu64 ", asked for by %s (in all %d by sync, %d by apf, "
           "%d by ring wait, and %s)", deadline_s, i, f.page, way_names[f.way], waiting[BY_SYNC], waiting[BY_APF],
           waiting[BY_RING], host_state);
  }
  fail("no answer within %d s for %s", deadline_s, host_state);
}

/* ---- setting up ----------------------------------------------------------------------------------------------- */

static void make_rings(void) {
  for (int i = 0; i < vcpu_count; i++) {
    struct vcpu *v = &vcpus[i];
    v->index = i;
    v->page = create_ring_page(&v->fd);
    v->notify = create_eventfd(EFD_NONBLOCK);
    v->complete = create_eventfd(EFD_NONBLOCK);
    v->produced = v->consumed = FIRST_INDEX;
  }
}

static void tell_rings(void) {
  int fds[3 * MAX_VCPUS];
  char text[128];
  for (int i = 0; i < vcpu_count; i++) {
    fds[3 * i] = vcpus[i].notify;
    fds[3 * i + 1] = vcpus[i].complete;
    fds[3 * i + 2] = vcpus[i].fd;
  }
  int length = snprintf(text, sizeof text, has_rings ? "exitless_apf:%d" : "no_exitless_apf", vcpu_count);
  if (is("glued")) {
    remember(&vcpus[0], 0, BY_SYNC, 1);
    length += (int)request_frame((uint8_t *)text + length, 0, 0, BY_SYNC);
  }
  if (is("split")) send_bytes(&sync_stream, text, (size_t)length);
  else send_fds(sync_stream.fd, text, (size_t)length, fds, has_rings ? 3 * vcpu_count : 0);
}

static pthread_t start(void *(*run)(void *), void *argument) {
  pthread_t thread;
  if (pthread_create(&thread, NULL, run, argument) != 0) die("pthread_create");
  return thread;
}

int main(int argc, char **argv) {
  if (argc < 4) die("usage: userfault-vm SOCKET MEMORY_FILE SCENARIO [SEED [DEADLINE_S]]");
  scenario = argv[3];
  seed = argc > 4 ? strtoull(argv[4], NULL, 10) : 1;
  int deadline_s = argc > 5 ? atoi(argv[5]) : 5;
  has_apf = !is("no-apf");
  has_rings = has_apf && !is("glued") && !is("split");
  vcpu_count = is("siege") ? SIEGE_VCPUS : is_mixed() || is("ring") ? 4 : is("host") || is("glued") || is("split") ? 1 : 2;

  int fd = open(argv[2], O_RDONLY | O_CLOEXEC);
  struct stat info;
  if (fd < 0 || fstat(fd, &info) < 0) die("%s: %m", argv[2]);
  size = (size_t)info.st_size;
  pages = size / PAGE;
  file = mmap(NULL, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (file == MAP_FAILED || size % (64 * PAGE)) die("%s: %zu bytes", argv[2], size);

  if (has_apf) apf_stream.fd = connect_to(argv[1], true);
  guest_fd = sealed_memfd("guest_memfd", size);
  host = map(guest_fd, size, 0);
  int bitmap_fd = sealed_memfd("guest_mem", pages / 8);
  sync_stream.fd = connect_to(argv[1], false);
  introduce(sync_stream.fd, host, size, guest_fd, bitmap_fd);
  /* As in Firecracker, only now: a handler that has cleared a bit already finds it set again. */
  bitmap = map(bitmap_fd, pages / 8, 0);
  memset(bitmap, 0xff, pages / 8);
  for (int i = 0; i < vcpu_count; i++) {
    vcpus[i].asked = calloc(pages, 1);
    if (vcpus[i].asked == NULL) die("calloc: %m");
  }
  make_rings();
  start(watch, &deadline_s);
  start(read_replies, &sync_stream);
  if (has_apf) start(read_replies, &apf_stream);
  for (int i = 0; has_rings && i < vcpu_count; i++) start(take_completions, &vcpus[i]);
  tell_rings();
  if (is("glued")) await(&vcpus[0], (uint64_t[]){0}, 1);

  pthread_t threads[MAX_VCPUS + 1];
  int count = 0;
  if (is("host") || is("race") || is_mixed()) threads[count++] = start(touch_host, NULL);
  for (int i = 0; !is("host") && i < vcpu_count; i++) threads[count++] = start(run_vcpu, &vcpus[i]);
  for (int i = 0; i < count; i++) pthread_join(threads[i], NULL);
  for (size_t page = 0; page < pages; page++) {
    if (!is("host") && is_set(bitmap, page)) fail("the bit of page %zu is set at the end", page);
    check_bytes(page, "at the end");
  }
  printf("ok %zu pages: %lu sync, %lu apf, %lu ring, %lu host, %lu repeated\n", pages, counts[BY_SYNC], counts[BY_APF],
         counts[BY_RING], host_count, repeated_count);
  fflush(stdout);
  _exit(0);
}
