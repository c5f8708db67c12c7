/*
 * litmus: one of two parties that use the same words of memory at the same time. The other is a JavaScript program
 * (test/support/litmus-program.ts), which has the part of the handler; this one has the kernel's, in C's atomics.
 *
 *   litmus owners|dekker ROUNDS      descriptor 3 is the memory; prints how often it was contradicted, or 0
 *
 * owners: each party sets and clears bits of its own in one word. Without atomic operations on both sides, one writes
 *         back what the other has changed, and an owner finds its bits as it has not left them.
 * dekker: each party writes its own word and then reads the other's. At least one has to see what the other wrote.
 *         That is how a handler goes to sleep: flag up, then a last look at the ring; and KVM: fault in the ring,
 *         then a look at the flag. The other party judges, as it sees both results.
 */
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* Words, each in a cache line of its own; those with two take turns, so that one is cleared while one is in use. */
enum { OWNED = 0, FLAG = 16, HEAD = 48, JS_READY = 64, C_READY = 80, RESULT = 96, STOP = 128 };
#define LINE 16
#define OUR_BITS 0xffff0000u
#define ARMED 1u

static _Atomic uint32_t *words;

/* Time for the other party to do its worst. */
static void pause_for(uint32_t steps) {
  for (volatile uint32_t left = steps; left > 0; left--) continue;
}

static void wait_for(uint32_t round) {
  for (uint32_t spins = 1; atomic_load(&words[JS_READY]) < round; spins++) {
    if (atomic_load(&words[STOP])) exit(0);
    if (spins % 2048 == 0) sched_yield();
  }
}

/* A few operations after each meeting: on a busy machine two programs hardly ever run at the same time by chance. */
static uint32_t owners(uint32_t rounds) {
  uint32_t contradicted = 0;
  for (uint32_t round = 1; round <= rounds; round++) {
    atomic_store(&words[C_READY], round);
    wait_for(round);
    for (int turn = 0; turn < 4; turn++) {
      atomic_fetch_or(&words[OWNED], OUR_BITS);
      pause_for(8);
      if ((atomic_load(&words[OWNED]) & OUR_BITS) != OUR_BITS) contradicted++;
      atomic_fetch_and(&words[OWNED], ~OUR_BITS);
      pause_for(8);
      if (atomic_load(&words[OWNED]) & OUR_BITS) contradicted++;
    }
  }
  return contradicted;
}

static void dekker(uint32_t rounds) {
  for (uint32_t round = 1; round <= rounds; round++) {
    atomic_store(&words[C_READY], round);
    wait_for(round);
    pause_for(round * 2654435761u >> 26); /* 0 to 63: the two must not always meet in the same way */
    atomic_store_explicit(&words[HEAD], round, memory_order_release);
    atomic_thread_fence(memory_order_seq_cst);
    uint32_t flag = atomic_load_explicit(&words[FLAG + round % 2 * LINE], memory_order_relaxed);
    atomic_store(&words[RESULT + round % 2 * LINE], flag & ARMED);
  }
  atomic_store(&words[C_READY], rounds + 1);
}

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  words = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, 3, 0);
  if (words == MAP_FAILED) return 2;
  uint32_t rounds = (uint32_t)strtoul(argv[2], NULL, 10);
  uint32_t contradicted = 0;
  if (strcmp(argv[1], "owners") == 0) contradicted = owners(rounds);
  else dekker(rounds);
  printf("%u\n", contradicted);
  return 0;
}
