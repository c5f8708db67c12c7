/**
 * What we know of every page of one VM, in two bits a page.
 *
 * ```
 *   missing ──fault──► pending ──installed──► installed
 *      ▲                  │                      │
 *      └─given up─────────┘      REMOVE          ▼
 *      any state ──────────────────────────► removed
 * ```
 *
 * - `missing`: never asked for, or asked for and given up.
 * - `pending`: a fault is queued.
 * - `installed`: we gave the page its content. If it faults again after that, it has lost it, and
 *   snapshot bytes would be stale: it gets zeroes.
 * - `removed`: the VMM took the page back (balloon, hotplug). Final: whatever happens, it reads as
 *   zeroes from now on. The VMM drops the page only some time after we read the REMOVE, so a page
 *   can be filled with zeroes and then dropped; were the state to move on, the next fault would
 *   bring back snapshot content.
 *
 * So snapshot bytes are installed at most once per page, and never after a REMOVE.
 *
 * PURE. The memory may be shared with the main thread, which reads it to draw pictures.
 */
import { assert } from "../base/assert.ts";

export const PageState = { missing: 0, pending: 1, installed: 2, removed: 3 } as const;
export type PageState = (typeof PageState)[keyof typeof PageState];

const PAGES_PER_BYTE = 4;
/** A state times this is a byte with four of them. */
const FOUR_PLACES = 0b01010101;

export class PageTable {
  readonly pageCount: number;
  #states: Uint8Array;

  /** `states`: zeroed memory of `PageTable.sizeBytes(pageCount)`; all pages are missing then. */
  constructor(pageCount: number, states: Uint8Array) {
    assert(states.length >= PageTable.sizeBytes(pageCount), "page table memory too small");
    this.pageCount = pageCount;
    this.#states = states;
  }

  static sizeBytes(pageCount: number): number {
    return Math.ceil(pageCount / PAGES_PER_BYTE);
  }

  get(page: number): PageState {
    assert(page >= 0 && page < this.pageCount, "page outside of the table");
    const shift = (page & 3) << 1;
    return ((this.#states[Math.floor(page / PAGES_PER_BYTE)]! >>> shift) & 3) as PageState;
  }

  set(page: number, state: PageState): void {
    assert(page >= 0 && page < this.pageCount, "page outside of the table");
    const index = Math.floor(page / PAGES_PER_BYTE);
    const shift = (page & 3) << 1;
    this.#states[index] = (this.#states[index]! & ~(3 << shift)) | (state << shift);
  }

  /** All states, four pages a byte, for who looks at many. Not to be kept: they may move. */
  get bytes(): Uint8Array {
    return this.#states.subarray(0, PageTable.sizeBytes(this.pageCount));
  }

  /** Goes on in other memory, with what it knows: the old may be unmapped then. */
  moveTo(states: Uint8Array): void {
    assert(states.length >= PageTable.sizeBytes(this.pageCount), "page table memory too small");
    states.set(this.#states.subarray(0, PageTable.sizeBytes(this.pageCount)));
    this.#states = states;
  }

  /**
   * Nobody remembers the faults of `pending` pages: they are missing again. Returns how many.
   * A handler does this with the table of one that has died; its threads will fault again.
   */
  forgetPending(): number {
    const states = this.#states;
    let forgotten = 0;
    for (let index = 0; index < states.length; index++) {
      const four = states[index]!;
      // The low bit of each place whose high bit is not set: 01, and nothing else.
      const pending = four & ~(four >>> 1) & FOUR_PLACES;
      if (pending === 0) continue;
      states[index] = four & ~pending;
      for (let bits = pending; bits !== 0; bits &= bits - 1) forgotten += 1;
    }
    return forgotten;
  }

  /** Marks pages `first` to `end` (exclusive): whole bytes at a time, as floods come. */
  removeRange(first: number, end: number): void {
    this.#setRange(first, end, PageState.removed);
  }

  /** Marks pages `first` to `end` (exclusive), none of which is removed. */
  installRange(first: number, end: number): void {
    this.#setRange(first, end, PageState.installed);
  }

  /** How many pages are in each state, by its number. */
  counts(): readonly [number, number, number, number] {
    const states = this.#states;
    const found = new Uint32Array(256);
    const bytes = Math.floor(this.pageCount / PAGES_PER_BYTE);
    // Neighbours are alike, and adding to the same counter again and again is what takes time:
    // a daemon is asked for this of all of its VMs.
    let same = 0;
    let last = 0;
    for (let index = 0; index < bytes; index++) {
      const byte = states[index]!;
      if (byte === last) {
        same += 1;
        continue;
      }
      found[last]! += same;
      last = byte;
      same = 1;
    }
    found[last]! += same;
    const counts: [number, number, number, number] = [0, 0, 0, 0];
    for (let page = bytes * PAGES_PER_BYTE; page < this.pageCount; page++) {
      counts[this.get(page)] += 1;
    }
    for (let byte = 0; byte < found.length; byte++) {
      for (let place = 0; place < PAGES_PER_BYTE; place++) {
        counts[((byte >>> (place * 2)) & 3) as PageState] += found[byte]!;
      }
    }
    return counts;
  }

  #setRange(first: number, end: number, state: PageState): void {
    assert(first >= 0 && first <= end && end <= this.pageCount, "range outside of the table");
    let page = first;
    while (page < end && page % PAGES_PER_BYTE !== 0) this.set(page++, state);
    const lastWhole = end - (end % PAGES_PER_BYTE);
    if (page < lastWhole) {
      const inAllPlaces = state * FOUR_PLACES;
      this.#states.fill(inAllPlaces, page / PAGES_PER_BYTE, lastWhole / PAGES_PER_BYTE);
      page = lastWhole;
    }
    while (page < end) this.set(page++, state);
  }
}
