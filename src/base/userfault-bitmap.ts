/**
 * The bitmap that says which pages of a guest a vCPU may not touch yet (KVM Userfault). Bit n is
 * page n of the memory; 1 asks the handler, 0 lets the vCPU map the page. The VMM sets all of them
 * once; from then on the handler clears bits, and nobody sets one.
 *
 * A bit is cleared after the page's bytes are in place, and before anybody is told. KVM looks at it
 * at any time, without asking: a bit too early gives the guest zeroes for good. Other threads of
 * the handler clear bits of the same words, so nothing but an atomic AND will do:
 * docs/decisions/0021-atomics-on-mapped-memory.md.
 */
import { assert } from "./assert.ts";

const WORD_BITS = 32;

export class UserfaultBitmap {
  // KVM's words have 64 bits. On little-endian machines, and there are no others here, two of
  // ours are one of them, and JavaScript has 32-bit numbers without allocating.
  readonly #words: Uint32Array<ArrayBuffer>;

  /** `memory` may be longer than the bitmap: whole pages are mapped. */
  constructor(memory: ArrayBuffer) {
    this.#words = new Uint32Array(memory);
  }

  /** How many pages it has bits for. */
  get pageLimit(): number {
    return this.#words.length * WORD_BITS;
  }

  /** Whether a vCPU that touches the page asks for it. */
  isSet(page: number): boolean {
    return (Atomics.load(this.#words, page >>> 5) & bitOf(page)) !== 0;
  }

  /** The first page from `first` on whose bit is clear; `end` (exclusive) if there is none. */
  nextClear(first: number, end: number): number {
    const words = this.#words;
    for (let page = first; page < end; ) {
      const ones = Atomics.load(words, page >>> 5) >>> (page % WORD_BITS);
      // With the bits that were shifted in set: those before `page` are of no interest.
      const clear = ~(ones | ~(0xffff_ffff >>> (page % WORD_BITS)));
      if (clear !== 0) return Math.min(end, page + (31 - Math.clz32(clear & -clear)));
      page = (Math.floor(page / WORD_BITS) + 1) * WORD_BITS;
    }
    return end;
  }

  /** Clears the bits from `first` to `end` (exclusive); returns how many were set. */
  clear(first: number, end: number): number {
    assert(first >= 0 && end <= this.pageLimit, `pages ${first} to ${end} are not in the bitmap`);
    let count = 0;
    for (let page = first; page < end; ) {
      const next = Math.min(end, (Math.floor(page / WORD_BITS) + 1) * WORD_BITS);
      count += this.#clearInWord(page, next);
      page = next;
    }
    return count;
  }

  #clearInWord(first: number, end: number): number {
    const index = first / WORD_BITS;
    if (end - first === WORD_BITS) return bitCount(Atomics.exchange(this.#words, index, 0));
    const mask = ((2 ** (end - first) - 1) << (first % WORD_BITS)) >>> 0;
    const before = Atomics.and(this.#words, Math.floor(index), ~mask);
    return bitCount(before & mask);
  }
}

function bitOf(page: number): number {
  return 1 << (page % WORD_BITS);
}

/** Ones in a 32-bit number. */
function bitCount(value: number): number {
  const pairs = value - ((value >>> 1) & 0x5555_5555);
  const quads = (pairs & 0x3333_3333) + ((pairs >>> 2) & 0x3333_3333);
  return Math.imul((quads + (quads >>> 4)) & 0x0f0f_0f0f, 0x0101_0101) >>> 24;
}
