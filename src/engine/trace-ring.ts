/**
 * What a fault worker did for one VM, step by step, in a ring of shared memory: it writes a record
 * with four plain stores and never waits for a reader. The oldest are overwritten; a reader that
 * was too slow learns how many it has missed.
 *
 * ```
 *   0         16
 *   ├ written ┼ record 0 │ record 1 │ …            a record: four words of 32 bits
 *                │
 *                └─ time │ page │ cost │ kind, cause, pages
 * ```
 *
 * Time is microseconds since the VM was attached, modulo 2^32 (71 minutes); cost tenths of
 * microseconds, at most 429 s; `pages` 65,535 at most.
 */
import { assert } from "../base/assert.ts";

/** What a record is about. In files too: new ones at the end. */
export const traceKinds = [
  /** A page was asked for, for the first time. No cost. */
  "demand",
  /** Pages of the image were installed that somebody waited for: cost is how long. */
  "copy",
  /** The same, of zeroes. */
  "zero",
  /** Pages began to wait for bytes that are not in memory. No cost. */
  "park",
  /** Pages were installed ahead of any demand: cost is what that took. */
  "ahead",
  /** The VMM took pages back. No cost. */
  "removed",
  /** The kernel put an installation off (EAGAIN). No cost. */
  "deferred",
  /** Pages cannot be had; policy decides. */
  "lost",
] as const;
export type TraceKind = (typeof traceKinds)[number];
export const Trace = Object.fromEntries(traceKinds.map((name, index) => [name, index])) as Readonly<
  Record<TraceKind, number>
>;

export const RECORD_WORDS = 4;
const HEADER_BYTES = 16;
const MAX_PAGES = 0xffff;
const MAX_COST = 0xffff_ffff;

/** Records read, the number of the next one, and how many were overwritten before. */
export interface TraceReading {
  readonly count: number;
  readonly end: number;
  readonly lost: number;
}

export class TraceRing {
  readonly buffer: SharedArrayBuffer;
  readonly capacity: number;
  readonly #written: Float64Array;
  readonly #words: Uint32Array;

  constructor(buffer: SharedArrayBuffer) {
    this.buffer = buffer;
    this.capacity = (buffer.byteLength - HEADER_BYTES) / (RECORD_WORDS * 4);
    this.#written = new Float64Array(buffer, 0, 1);
    this.#words = new Uint32Array(buffer, HEADER_BYTES);
  }

  /** `records`: a power of two. 16 bytes each. */
  static allocate(records: number): SharedArrayBuffer {
    assert(Number.isInteger(Math.log2(records)), "a power of two");
    return new SharedArrayBuffer(HEADER_BYTES + records * RECORD_WORDS * 4);
  }

  /** The worker's. `cause`: by its place in `base/restore-causes.ts`. */
  add(
    kind: number,
    cause: number,
    afterUs: number,
    page: number,
    pages: number,
    costUs: number,
  ): void {
    const written = this.#written[0]!;
    const first = (written & (this.capacity - 1)) * RECORD_WORDS;
    const words = this.#words;
    // Stored modulo 2^32.
    words[first] = afterUs;
    words[first + 1] = page;
    words[first + 2] = Math.min(MAX_COST, costUs * 10);
    words[first + 3] = kind | (cause << 8) | (Math.min(pages, MAX_PAGES) << 16);
    this.#written[0] = written + 1;
  }

  /** Records ever written. */
  get written(): number {
    return this.#written[0]!;
  }

  /**
   * Copies what was written since `from` (a number of records) into `into`, as much as fits.
   * `lost`: records that were overwritten before they could be read. The next call begins at `end`.
   */
  read(from: number, into: Uint32Array): TraceReading {
    const oldest = (): number => Math.max(from, this.written - this.capacity);
    let first = oldest();
    const end = Math.min(this.written, first + Math.floor(into.length / RECORD_WORDS));
    for (let record = first; record < end; record++) {
      const source = (record & (this.capacity - 1)) * RECORD_WORDS;
      into.set(
        this.#words.subarray(source, source + RECORD_WORDS),
        (record - first) * RECORD_WORDS,
      );
    }
    // The writer may have come round meanwhile: what it has overwritten is of no use. One more, as
    // it may be in the middle of it.
    const torn = Math.min(end, this.written + 1 - this.capacity);
    if (torn > first) {
      into.copyWithin(0, (torn - first) * RECORD_WORDS, (end - first) * RECORD_WORDS);
      first = torn;
    }
    return { count: end - first, end, lost: first - from };
  }
}
