/*
 * userfault-fast-handler: a well-made handler for VMs with KVM Userfault, which others are measured against. One thread,
 * which sleeps in epoll_wait whenever nothing is to be done.
 *
 *   userfault-fast-handler SOCKET MEMORY_FILE [--prefault]
 *
 * It listens on SOCKET and on apf.socket beside it, takes one VM, and ends with it.
 *
 *   --prefault   from the second message on, installs all memory in steps of 2 MiB, and answers faults in between
 *
 * Each page is one pwrite(2) from a mapping of the file that is present in whole. Of a ring it takes all entries at
 * once, so that KVM may put the next ones in; signals what is done when that is half a ring, so that the vCPU goes on
 * meanwhile; and raises the flag only when the ring is empty. Requests that came together are answered together.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o userfault-fast-handler userfault-fast-handler.c
 */
#define _GNU_SOURCE
#define PROGRAM_NAME "userfault-fast-handler"
#include "userfault.h"
#include "userfault-attach.h"

#include <linux/userfaultfd.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>

#define STEP (2ul << 20)
#define MAX_REPLY 48
#define KICK_EVERY 32u

enum source { SYNC, UFFD, APF_LISTENER, APF, FIRST_RING };

static char *memory;
static size_t memory_size;
static int epoll;
static bool is_awake[MAX_VCPUS]; /* the ring's flag is down: it is looked at in each turn */

/* ---- pages ---------------------------------------------------------------------------------------------------- */

/* EEXIST: a guest_memfd without a direct map has the first page already, by another way. */
static void write_pages(uint64_t offset, uint64_t length) {
  for (uint64_t end = offset + length; offset < end;) {
    ssize_t count = pwrite(guest_fd, memory + offset, end - offset, (off_t)offset);
    if (count < 0 && errno != EEXIST) die("pwrite: %m");
    offset += count < 0 ? PAGE : (uint64_t)count;
  }
}

static void populate(uint64_t offset) {
  if (!is_set(bitmap, offset / PAGE)) return;
  write_pages(offset, PAGE);
  clear_bit(bitmap, offset / PAGE);
}

static void populate_gpa(uint64_t gpa) {
  struct region region;
  uint64_t offset;
  if (!find(gpa, true, &region, &offset)) die("a guest address outside of all regions");
  populate(offset);
}

/* What is there already, the guest may have written to: only a step of which nothing is there is written at once. */
static void prefault_step(uint64_t offset) {
  uint64_t end = offset + STEP < memory_size ? offset + STEP : memory_size;
  uint64_t first = offset / PAGE / 64, words = (end - offset) / PAGE / 64;
  for (uint64_t i = first; i < first + words; i++) {
    if (__atomic_load_n(&bitmap[i], __ATOMIC_RELAXED) == ~0ull) continue;
    for (; offset < end; offset += PAGE) populate(offset);
    return;
  }
  write_pages(offset, end - offset);
  for (uint64_t i = first; i < first + words; i++) __atomic_fetch_and(&bitmap[i], 0, __ATOMIC_RELEASE);
}

/* ---- the userfaultfd ------------------------------------------------------------------------------------------ */

static void on_event(void) {
  struct uffd_msg event;
  if (read(uffd, &event, sizeof event) != sizeof event || event.event != UFFD_EVENT_PAGEFAULT) return;
  struct region region;
  uint64_t offset, address = event.arg.pagefault.address & ~(PAGE - 1);
  if (!find(address, false, &region, &offset)) die("a fault outside of all regions");
  if (!(event.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR)) {
    struct uffdio_copy copy = {.dst = address, .src = (uintptr_t)memory + offset, .len = PAGE};
    if (ioctl(uffd, UFFDIO_COPY, &copy) == 0) {
      clear_bit(bitmap, offset / PAGE);
      return;
    }
    /* A vCPU's fault of the same page was served between this event and now. Nobody was woken. */
    if (errno != EEXIST) die("UFFDIO_COPY: %m");
  }
  struct uffdio_continue map = {.range = {address, PAGE}};
  struct uffdio_range wake = {address, PAGE};
  if (ioctl(uffd, UFFDIO_CONTINUE, &map) == 0) return;
  if (errno != EEXIST) die("UFFDIO_CONTINUE: %m");
  ioctl(uffd, UFFDIO_WAKE, &wake);
}

/* ---- frames --------------------------------------------------------------------------------------------------- */

static void serve_frames(struct stream *s) {
  static uint8_t replies[MAX_FRAME / 8 * MAX_REPLY]; /* no request is shorter than eight bytes */
  size_t length = 0;
  uint32_t size;
  for (uint8_t *payload; (payload = next_frame(s, &size)) != NULL; drop_frame(s, size)) {
    struct request r;
    if (!decode_request(payload, size, &r)) die("a frame that is no request");
    if (r.has_gpa) populate_gpa(r.gpa);
    else populate(r.offset);
    struct reply reply = {.has_vcpu = true, .vcpu = r.vcpu, .size = PAGE, .flags = r.flags, .has_gpa = r.has_gpa,
                          .gpa = r.gpa};
    length += encode_reply(replies + length, &reply);
  }
  if (length > 0) write_all(s->fd, replies, length);
}

/* ---- rings ---------------------------------------------------------------------------------------------------- */

static void kick(int index) {
  uint64_t one = 1;
  if (write(vcpus[index].complete, &one, sizeof one) < 0) die("write to an eventfd: %m");
}

static void complete(int index, uint64_t gpa) {
  struct ring *ring = &vcpus[index].page->complete;
  uint32_t head = ring->head;
  while (head - __atomic_load_n(&ring->tail, __ATOMIC_ACQUIRE) >= RING_ENTRIES) {
    kick(index);
    sched_yield();
  }
  ring->entries[head % RING_ENTRIES] = (struct ring_entry){gpa, 0};
  __atomic_store_n(&ring->head, head + 1, __ATOMIC_RELEASE);
}

/* Serves what is there. True: KVM signals the next fault. */
static bool serve_ring(int index) {
  struct ring_page *page = vcpus[index].page;
  uint32_t head = __atomic_load_n(&page->notify.head, __ATOMIC_ACQUIRE), count = head - page->notify.tail;
  uint64_t gpas[RING_ENTRIES];
  if (count > RING_ENTRIES) die("a ring's head is %u entries ahead", count);
  for (uint32_t i = 0; i < count; i++) gpas[i] = page->notify.entries[(page->notify.tail + i) % RING_ENTRIES].gpa;
  __atomic_store_n(&page->notify.tail, head, __ATOMIC_RELEASE);
  for (uint32_t i = 0; i < count; i++) {
    populate_gpa(gpas[i]);
    complete(index, gpas[i]);
    if (i % KICK_EVERY == KICK_EVERY - 1 || i == count - 1) kick(index);
  }
  if (__atomic_load_n(&page->notify.head, __ATOMIC_ACQUIRE) != head) return false;
  __atomic_fetch_or(&page->flags, NOTIFY_ARMED, __ATOMIC_SEQ_CST);
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
  if (__atomic_load_n(&page->notify.head, __ATOMIC_ACQUIRE) == head) return true;
  __atomic_fetch_and(&page->flags, ~NOTIFY_ARMED, __ATOMIC_SEQ_CST);
  return false;
}

/* ---- one VM --------------------------------------------------------------------------------------------------- */

static void watch(int fd, uint32_t source) {
  struct epoll_event event = {.events = EPOLLIN, .data.u32 = source};
  if (epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event) < 0) die("epoll_ctl: %m");
}

static void on_notified(int index) {
  uint64_t count;
  if (read(vcpus[index].notify, &count, sizeof count) < 0 && errno != EAGAIN) die("read of an eventfd: %m");
  is_awake[index] = true;
}

/* True: one of them may have more. Each has its turn before any has another. */
static bool serve_rings(void) {
  bool is_busy = false;
  for (int i = 0; i < ring_count; i++) {
    if (is_awake[i]) is_awake[i] = !serve_ring(i);
    is_busy |= is_awake[i];
  }
  return is_busy;
}

int main(int argc, char **argv) {
  bool is_prefaulting = argc == 4 && strcmp(argv[3], "--prefault") == 0;
  if (argc != 3 + is_prefaulting) die("usage: userfault-fast-handler SOCKET MEMORY_FILE [--prefault]");
  memory = map_memory_file(argv[2], &memory_size);
  if (memory_size % (64 * PAGE)) die("%s: %zu bytes are not whole words of the bitmap", argv[2], memory_size);
  epoll = epoll_create1(EPOLL_CLOEXEC);
  int apf_listener = listen_at(argv[1], true), listener = listen_at(argv[1], false);
  struct stream sync = {.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)}, apf = {.fd = -1};
  if (epoll < 0 || sync.fd < 0) die("epoll_create1, accept: %m");
  take_handshake(sync.fd);
  take_rings(&sync);
  serve_frames(&sync);
  watch(sync.fd, SYNC);
  watch(uffd, UFFD);
  watch(apf_listener, APF_LISTENER);
  for (int i = 0; i < ring_count; i++) {
    watch(vcpus[i].notify, FIRST_RING + (uint32_t)i);
    is_awake[i] = true; /* KVM signals nothing before it is asked to */
  }

  uint64_t prefaulted = is_prefaulting ? 0 : memory_size;
  for (;;) {
    bool is_busy = serve_rings();
    struct epoll_event events[FIRST_RING + MAX_VCPUS];
    int timeout = is_busy || prefaulted < memory_size ? 0 : -1;
    int count = epoll_wait(epoll, events, FIRST_RING + MAX_VCPUS, timeout);
    if (count < 0 && errno != EINTR) die("epoll_wait: %m");
    for (int i = 0; i < count; i++) {
      switch (events[i].data.u32) {
        case SYNC:
          if (!fill_stream(&sync)) return 0;
          serve_frames(&sync);
          break;
        case UFFD: on_event(); break;
        case APF_LISTENER:
          apf.fd = accept4(apf_listener, NULL, NULL, SOCK_CLOEXEC);
          if (apf.fd < 0 || epoll_ctl(epoll, EPOLL_CTL_DEL, apf_listener, NULL) < 0) die("accept: %m");
          watch(apf.fd, APF);
          break;
        case APF:
          if (fill_stream(&apf)) serve_frames(&apf);
          else epoll_ctl(epoll, EPOLL_CTL_DEL, apf.fd, NULL);
          break;
        default: on_notified((int)(events[i].data.u32 - FIRST_RING));
      }
    }
    if (count > 0 || is_busy || prefaulted >= memory_size) continue;
    prefault_step(prefaulted);
    prefaulted += STEP;
  }
}
