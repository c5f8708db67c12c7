/*
 * naive: a page-fault handler as one writes it on the first day.
 *
 *   naive SOCKET MEMORY_FILE
 *
 * Its handshake is the reference's (handler.c, which it includes). Its loop reads one message at a time, answers a fault
 * with one page, takes whatever UFFDIO_COPY says for success, and ignores every event that is no fault. With a guest
 * that only reads, it works. The conformance kit shows what else there is: docs/TESTING.md.
 *
 * Build: gcc -O2 -Wall -Wextra -pthread -o naive naive.c
 */
#define main reference_main
#include "handler.c"
#undef main

static void copy_one_page(int uffd, uint64_t address) {
  const struct region *r = find_region(address);
  uint64_t page = address & ~(r->page_size - 1);
  struct uffdio_copy copy = {
      .dst = page, .src = (uint64_t)(uintptr_t)(memory + r->offset + (page - r->base)), .len = r->page_size};
  ioctl(uffd, UFFDIO_COPY, &copy);
}

int main(int argc, char **argv) {
  if (argc != 3) {
    fprintf(stderr, "usage: naive SOCKET MEMORY_FILE\n");
    return 2;
  }
  map_memory_file(argv[2]);
  int listener = listen_on(argv[1]);
  int socket = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
  if (socket < 0) die("accept on %s: %m", argv[1]);
  int uffd = receive_handshake(socket);
  struct pollfd waiting = {.fd = uffd, .events = POLLIN};
  for (;;) {
    if (poll(&waiting, 1, -1) < 0) die("poll: %m");
    struct uffd_msg message;
    if (read(uffd, &message, sizeof message) != sizeof message) continue;
    if (message.event == UFFD_EVENT_PAGEFAULT) copy_one_page(uffd, message.arg.pagefault.address);
  }
}
