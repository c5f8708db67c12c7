/**
 * Which of many cached things to give up: SIEVE, a queue with a hand. What was used since the hand
 * last passed stays; what was not goes. A scan that touches everything once pushes out other
 * once-touched things, not those in use, and a hit costs one plain store in shared memory, which is
 * why fault workers can do it without a lock.
 *
 * (Zhang, Yang, Yue, Vigfusson, Rashmi: SIEVE is simpler than LRU, NSDI 2024.)
 *
 * Members are small numbers below `capacity`. PURE.
 */
import { assert } from "../base/assert.ts";

const NONE = -1;

export class Sieve {
  /** Towards the newest; NONE for the newest itself. */
  readonly #newer: Int32Array;
  readonly #older: Int32Array;
  readonly #isMember: Uint8Array;
  #newest = NONE;
  #oldest = NONE;
  /** Where the search goes on. NONE: at the oldest. */
  #hand = NONE;
  #size = 0;

  constructor(capacity: number) {
    this.#newer = new Int32Array(capacity).fill(NONE);
    this.#older = new Int32Array(capacity).fill(NONE);
    this.#isMember = new Uint8Array(capacity);
  }

  get size(): number {
    return this.#size;
  }

  /** Adds the newest member. */
  insert(member: number): void {
    assert(this.#isMember[member] === 0, "already in the queue");
    this.#isMember[member] = 1;
    this.#older[member] = this.#newest;
    this.#newer[member] = NONE;
    if (this.#newest !== NONE) this.#newer[this.#newest] = member;
    else this.#oldest = member;
    this.#newest = member;
    this.#size += 1;
  }

  remove(member: number): void {
    assert(this.#isMember[member] === 1, "not in the queue");
    const newer = this.#newer[member]!;
    const older = this.#older[member]!;
    if (this.#hand === member) this.#hand = newer;
    if (newer !== NONE) this.#older[newer] = older;
    else this.#newest = older;
    if (older !== NONE) this.#newer[older] = newer;
    else this.#oldest = newer;
    this.#isMember[member] = 0;
    this.#size -= 1;
  }

  /**
   * The next member to go, which stays in the queue; -1 if there is none. `spare` tells whether one
   * has to stay this time, and forgets that it was used. Ends after two rounds at most.
   */
  nextVictim(spare: (member: number) => boolean): number {
    for (let steps = 2 * this.#size; steps > 0; steps--) {
      const member = this.#hand === NONE ? this.#oldest : this.#hand;
      this.#hand = this.#newer[member]!;
      if (!spare(member)) return member;
    }
    return NONE;
  }
}
