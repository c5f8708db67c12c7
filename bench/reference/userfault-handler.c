/*
 * userfault-handler: a plain handler for VMs with KVM Userfault, in one thread and without cleverness. The model of the
 * VMM's half (userfault-vm.c) is proven against it, and against the mistakes that it can be told to make.
 *
 *   userfault-handler SOCKET MEMORY_FILE [MISTAKE]
 *
 * It listens on SOCKET and on apf.socket beside it, takes one VM, one page at a time, and ends with it.
 *
 *   clear-first    clears the bit before the page's bytes are there
 *   keep-bit       does not clear it at all
 *   no-duplicate   gives no reply for a page that is there already
 *   no-wake        forgets that UFFDIO_COPY wakes nobody when it says EEXIST
 *   no-recheck     goes to sleep without a last look at the ring
 *   no-kick        puts completions in the ring and does not signal them
 *   wrong-vcpu     replies to vCPU 0, whoever has asked
 *   drop-glued     forgets what came glued to the second message
 *   skip-apf       does not look at the second socket
 *   no-minor       takes no event for a page that is there and only not mapped
 *   whole-frames   believes that what one read gives are whole frames
 *   await-apf      reads nothing before the second socket is connected
 *   ignore-end     does not look for the end of its VM
 *   wide           replies in a wider form than the canonical one
 * What depends on a moment holds that moment open, so that it is seen each time.
 */
#define _GNU_SOURCE
#define PROGRAM_NAME "userfault-handler"
#include "userfault.h"
#include "userfault-attach.h"

#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>

#define WINDOW_US 2000

static char *memory;
static const char *mistake = "";

static bool makes(const char *name) { return strcmp(mistake, name) == 0; }

/* ---- pages ---------------------------------------------------------------------------------------------------- */

static void clear_page(uint64_t offset) {
  if (!makes("keep-bit")) clear_bit(bitmap, offset / PAGE);
}

/* EEXIST: a guest_memfd without a direct map has the page already, by another way. It is answered all the same. */
static void populate(uint64_t offset) {
  if (!is_set(bitmap, offset / PAGE)) return;
  if (makes("clear-first")) {
    clear_page(offset);
    usleep(WINDOW_US);
  }
  if (pwrite(guest_fd, memory + offset, PAGE, (off_t)offset) < 0 && errno != EEXIST) die("pwrite: %m");
  clear_page(offset);
}

/* ---- the userfaultfd ------------------------------------------------------------------------------------------ */

static void on_event(void) {
  struct uffd_msg event;
  if (read(uffd, &event, sizeof event) != sizeof event) return;
  if (event.event != UFFD_EVENT_PAGEFAULT) return;
  struct region region;
  uint64_t offset, address = event.arg.pagefault.address & ~(PAGE - 1);
  if (!find(address, false, &region, &offset)) die("a fault outside of all regions");
  struct uffdio_copy copy = {.dst = address, .src = (uintptr_t)memory + offset, .len = PAGE};
  struct uffdio_continue map = {.range = {address, PAGE}};
  struct uffdio_range wake = {address, PAGE};
  bool is_minor = event.arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_MINOR;
  if (is_minor && makes("no-minor")) return;
  if (!is_minor) {
    if (ioctl(uffd, UFFDIO_COPY, &copy) == 0) {
      clear_page(offset);
      return;
    }
    /* The vCPU's fault of the same page was served between this event and now. Nobody was woken. */
    if (errno != EEXIST) die("UFFDIO_COPY: %m");
    if (makes("no-wake")) return;
  }
  if (ioctl(uffd, UFFDIO_CONTINUE, &map) < 0 && errno != EEXIST) die("UFFDIO_CONTINUE: %m");
  ioctl(uffd, UFFDIO_WAKE, &wake);
}

/* ---- frames --------------------------------------------------------------------------------------------------- */

static void send_reply(int fd, const struct request *r) {
  struct reply reply = {.has_vcpu = true, .vcpu = makes("wrong-vcpu") ? 0 : r->vcpu, .size = PAGE, .flags = r->flags,
                        .has_gpa = r->has_gpa, .gpa = r->gpa};
  uint8_t frame[64];
  size_t size = encode_reply(frame, &reply);
  if (makes("wide")) {
    /* vcpu (one byte) in two bytes */
    memmove(frame + 8, frame + 7, size - 7);
    frame[5] = 2;
    frame[7] = 0;
    frame[0]++;
    size++;
  }
  write_all(fd, frame, size);
}

static void serve_frames(struct stream *s) {
  uint32_t size;
  for (uint8_t *payload; (payload = next_frame(s, &size)) != NULL; drop_frame(s, size)) {
    struct request request;
    struct region region;
    uint64_t offset = 0;
    if (!decode_request(payload, size, &request)) die("a frame that is no request");
    if (!request.has_gpa) offset = request.offset;
    else if (!find(request.gpa, true, &region, &offset)) die("a guest address outside of all regions");
    bool was_there = !is_set(bitmap, offset / PAGE);
    populate(offset);
    if (!(was_there && makes("no-duplicate"))) send_reply(s->fd, &request);
  }
  if (makes("whole-frames")) s->held = 0;
}

/* ---- rings ---------------------------------------------------------------------------------------------------- */

static void serve_ring(int index) {
  struct ring_page *page = vcpus[index].page;
  uint64_t count;
  bool is_armed = false;
  if (read(vcpus[index].notify, &count, sizeof count) < 0 && errno != EAGAIN) die("read of an eventfd: %m");
  while (!is_armed) {
    uint32_t head = __atomic_load_n(&page->notify.head, __ATOMIC_ACQUIRE), tail = page->notify.tail;
    for (; tail != head; tail++) {
      struct region region;
      uint64_t offset, gpa = page->notify.entries[tail % RING_ENTRIES].gpa;
      if (find(gpa, true, &region, &offset)) populate(offset);
      uint32_t mine = page->complete.head;
      while (mine - __atomic_load_n(&page->complete.tail, __ATOMIC_ACQUIRE) >= RING_ENTRIES) usleep(50);
      page->complete.entries[mine % RING_ENTRIES] = (struct ring_entry){gpa, 0};
      __atomic_store_n(&page->complete.head, mine + 1, __ATOMIC_RELEASE);
      uint64_t one = 1;
      if (!makes("no-kick") && write(vcpus[index].complete, &one, sizeof one) < 0) die("write to an eventfd: %m");
    }
    __atomic_store_n(&page->notify.tail, tail, __ATOMIC_RELEASE);
    if (makes("no-recheck")) usleep(WINDOW_US);
    __atomic_fetch_or(&page->flags, NOTIFY_ARMED, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    is_armed = makes("no-recheck") || __atomic_load_n(&page->notify.head, __ATOMIC_ACQUIRE) == tail;
    if (!is_armed) __atomic_fetch_and(&page->flags, ~NOTIFY_ARMED, __ATOMIC_SEQ_CST);
  }
}

int main(int argc, char **argv) {
  if (argc < 3) die("usage: userfault-handler SOCKET MEMORY_FILE [MISTAKE]");
  if (argc > 3) mistake = argv[3];
  size_t size;
  memory = map_memory_file(argv[2], &size);

  int apf_listener = listen_at(argv[1], true), listener = listen_at(argv[1], false);
  struct stream sync = {.fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)}, apf = {.fd = -1};
  if (sync.fd < 0) die("accept: %m");
  if (makes("await-apf")) apf.fd = accept4(apf_listener, NULL, NULL, SOCK_CLOEXEC);
  take_handshake(sync.fd);
  take_rings(&sync);
  if (makes("drop-glued")) sync.held = 0;
  serve_frames(&sync);
  for (int i = 0; i < ring_count; i++) serve_ring(i);

  for (;;) {
    struct pollfd polled[3 + MAX_VCPUS] = {{.fd = sync.fd, .events = POLLIN}, {.fd = uffd, .events = POLLIN},
                                           {.fd = apf.fd < 0 ? apf_listener : apf.fd, .events = POLLIN}};
    if (makes("skip-apf")) polled[2].fd = -1;
    for (int i = 0; i < ring_count; i++) polled[3 + i] = (struct pollfd){.fd = vcpus[i].notify, .events = POLLIN};
    if (poll(polled, 3u + (unsigned)ring_count, -1) < 0 && errno != EINTR) die("poll: %m");
    if (makes("no-wake")) usleep(WINDOW_US); /* so that faults of one page meet */
    if (polled[0].revents) {
      if (!fill_stream(&sync) && !makes("ignore-end")) return 0;
      serve_frames(&sync);
    }
    if (polled[1].revents) on_event();
    if (polled[2].revents && apf.fd < 0) apf.fd = accept4(apf_listener, NULL, NULL, SOCK_CLOEXEC);
    else if (polled[2].revents && fill_stream(&apf)) serve_frames(&apf);
    for (int i = 0; i < ring_count; i++) {
      if (polled[3 + i].revents) serve_ring(i);
    }
  }
}
