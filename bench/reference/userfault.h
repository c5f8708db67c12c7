/*
 * userfault.h: what both ends of Firecracker's protocol for KVM Userfault have in common: frames, the rings of a vCPU,
 * the bits of the bitmap. Written down once more, so that nothing here shares a mistake with Faultline.
 *
 * The program defines PROGRAM_NAME (a string) before it includes this.
 */
#ifndef USERFAULT_H
#define USERFAULT_H

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define PAGE 4096ul
#define MAX_VCPUS 32
#define MAX_FRAME 4096
#define FLAG_USERFAULT 0x10u
#define FLAG_APF 0x20u

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *format, ...) {
  va_list args;
  int error = errno;
  va_start(args, format);
  fputs(PROGRAM_NAME ": ", stderr);
  errno = error;
  vfprintf(stderr, format, args);
  fputc('\n', stderr);
  _exit(2);
}

/* ---- a vCPU's rings ------------------------------------------------------------------------------------------- */

#define RING_OFFSET (3 * PAGE)
#define RING_ENTRIES 64u
#define NOTIFY_ARMED 1u

struct ring_entry {
  uint64_t gpa, flags;
};

struct ring {
  uint32_t head;
  char pad0[60];
  uint32_t tail;
  char pad1[60];
  struct ring_entry entries[RING_ENTRIES];
};

struct ring_page {
  uint32_t version, ring_size, entry_size, flags;
  char reserved[48];
  struct ring notify;   /* head is KVM's, tail the handler's */
  struct ring complete; /* the other way round */
};
_Static_assert(sizeof(struct ring_page) == 2368, "the layout of KVM's page");

/* ---- bitcode, as the frames use it ---------------------------------------------------------------------------- */

struct request {
  uint32_t vcpu;
  uint64_t offset, flags, gpa;
  bool has_gpa;
};

struct reply {
  bool has_vcpu, has_gpa, zero;
  uint32_t vcpu;
  uint64_t offset, size, flags, gpa;
};

struct coder {
  uint8_t *at, *end;
  bool bad;
};

static inline void put_integer(struct coder *c, uint64_t value, int full) {
  int width = value <= 0xff ? 1 : value <= 0xffff ? 2 : value <= 0xffffffff ? 4 : 8;
  int header = 0;
  for (int w = full; w > width; w /= 2) header += 2;
  *c->at++ = (uint8_t)header;
  memcpy(c->at, &value, (size_t)width);
  c->at += width;
}

static inline void put_flag(struct coder *c, bool value) { *c->at++ = value; }

static inline uint64_t get_bytes(struct coder *c, int width) {
  uint64_t value = 0;
  if (c->end - c->at < width) c->bad = true;
  if (c->bad) return 0;
  memcpy(&value, c->at, (size_t)width);
  c->at += width;
  return value;
}

static inline uint64_t get_integer(struct coder *c, int full) {
  uint64_t header = get_bytes(c, 1);
  int width = header <= 6 ? full >> ((header + 1) / 2) : 0;
  if (width == 0) c->bad = true;
  uint64_t minimum = header % 2 && !c->bad ? get_bytes(c, full) : 0;
  return c->bad ? 0 : minimum + get_bytes(c, width);
}

static inline bool get_flag(struct coder *c) { return get_bytes(c, 1) & 1; }

static inline size_t end_frame(uint8_t *frame, struct coder *c) {
  uint32_t length = (uint32_t)(c->at - frame - 4);
  memcpy(frame, &length, 4);
  return length + 4;
}

static inline size_t encode_request(uint8_t *frame, const struct request *r) {
  struct coder c = {.at = frame + 4};
  put_integer(&c, r->vcpu, 4);
  put_integer(&c, r->offset, 8);
  put_integer(&c, r->flags, 8);
  put_flag(&c, r->has_gpa);
  if (r->has_gpa) put_integer(&c, r->gpa, 8);
  return end_frame(frame, &c);
}

static inline bool decode_request(uint8_t *payload, size_t size, struct request *r) {
  struct coder c = {.at = payload, .end = payload + size};
  r->vcpu = (uint32_t)get_integer(&c, 4);
  r->offset = get_integer(&c, 8);
  r->flags = get_integer(&c, 8);
  r->has_gpa = get_flag(&c);
  r->gpa = r->has_gpa ? get_integer(&c, 8) : 0;
  return !c.bad && c.at == c.end;
}

static inline size_t encode_reply(uint8_t *frame, const struct reply *r) {
  struct coder c = {.at = frame + 4};
  put_flag(&c, r->has_vcpu);
  if (r->has_vcpu) put_integer(&c, r->vcpu, 4);
  put_integer(&c, r->offset, 8);
  put_integer(&c, r->size, 8);
  put_integer(&c, r->flags, 8);
  put_flag(&c, r->has_gpa);
  if (r->has_gpa) put_integer(&c, r->gpa, 8);
  put_flag(&c, r->zero);
  return end_frame(frame, &c);
}

static inline bool decode_reply(uint8_t *payload, size_t size, struct reply *r) {
  struct coder c = {.at = payload, .end = payload + size};
  r->has_vcpu = get_flag(&c);
  r->vcpu = r->has_vcpu ? (uint32_t)get_integer(&c, 4) : 0;
  r->offset = get_integer(&c, 8);
  r->size = get_integer(&c, 8);
  r->flags = get_integer(&c, 8);
  r->has_gpa = get_flag(&c);
  r->gpa = r->has_gpa ? get_integer(&c, 8) : 0;
  r->zero = get_flag(&c);
  return !c.bad && c.at == c.end;
}

/* ---- streams -------------------------------------------------------------------------------------------------- */

/* Bytes of a stream that are no whole frame yet. */
struct stream {
  int fd;
  size_t held;
  uint8_t bytes[MAX_FRAME];
};

/* The next whole frame's payload, to be dropped with drop_frame; NULL if there is none yet. */
static inline uint8_t *next_frame(struct stream *s, uint32_t *size) {
  if (s->held < 4) return NULL;
  memcpy(size, s->bytes, 4);
  if (*size > MAX_FRAME - 4) die("a frame of %u bytes", *size);
  return s->held < *size + 4 ? NULL : s->bytes + 4;
}

static inline void drop_frame(struct stream *s, uint32_t size) {
  s->held -= size + 4;
  memmove(s->bytes, s->bytes + size + 4, s->held);
}

/* False at the end of the stream. */
static inline bool fill_stream(struct stream *s) {
  ssize_t count = read(s->fd, s->bytes + s->held, sizeof s->bytes - s->held);
  if (count < 0 && (errno == EINTR || errno == EAGAIN)) return true;
  if (count <= 0) return false;
  s->held += (size_t)count;
  return true;
}

static inline void write_all(int fd, const void *bytes, size_t size) {
  while (size > 0) {
    ssize_t count = send(fd, bytes, size, MSG_NOSIGNAL);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) die("write to the peer: %m");
    bytes = (const char *)bytes + count;
    size -= (size_t)count;
  }
}

/* The fallback's socket lies beside the first one, under a name of its own. */
static inline struct sockaddr_un socket_address(const char *path, bool is_apf) {
  struct sockaddr_un address = {.sun_family = AF_UNIX};
  const char *slash = strrchr(path, '/');
  int folder = slash ? (int)(slash - path + 1) : 0;
  int length = is_apf ? snprintf(address.sun_path, sizeof address.sun_path, "%.*sapf.socket", folder, path)
                      : snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  if (length >= (int)sizeof address.sun_path) die("%s: the path is too long", path);
  return address;
}

/* ---- the bitmap ----------------------------------------------------------------------------------------------- */

static inline bool is_set(const uint64_t *bitmap, uint64_t page) {
  return __atomic_load_n(&bitmap[page / 64], __ATOMIC_ACQUIRE) >> page % 64 & 1;
}

static inline void clear_bit(uint64_t *bitmap, uint64_t page) {
  __atomic_fetch_and(&bitmap[page / 64], ~(1ull << page % 64), __ATOMIC_RELEASE);
}
#endif
