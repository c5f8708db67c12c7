/**
 * What to install ahead of a restored VM, and in which order, from the working set of its image.
 *
 * Pages that are usually needed come first, by the time at which they are; then the others. Each
 * run starts with the earliest page that is not yet in any, and grows over its neighbours while
 * they are needed before about twice that time. One call to the kernel for a long run is far
 * cheaper than many for short ones; but a neighbour that is needed much later would hold up pages
 * that the guest touches before. So a run counts by its earliest page: nothing in it comes too
 * late, and nothing in it is far too early. PURE.
 */
import { assert } from "../base/assert.ts";
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../base/units.ts";
import type { WorkingSet } from "../base/working-set.ts";

export interface PrefaultOptions {
  /** The guest's. */
  readonly pageSizeBytes: number;
  /** Pages of less need are left out: 0 to 255. */
  readonly leastNeed: number;
  /** A sample that is not installed, to see whether it is still needed; null: none. */
  readonly holdOut: HoldOut | null;
}

export interface HoldOut {
  /** One block of 64 KiB in so many, of larger pages one page; from 1 on. */
  readonly every: number;
  /** Another one for each VM: 32 bits that choose other blocks. */
  readonly salt: number;
}

/** Guest pages: `counts[i]` from `starts[i]` on, the run to install first in front. */
export interface PrefaultRuns {
  readonly starts: Uint32Array;
  readonly counts: Uint32Array;
  /** What would be in the runs, but is held back; ascending. */
  readonly heldOut: Uint32Array;
}

/** The most that one installation takes. */
const MAX_RUN_BYTES = HUGE_PAGE_BYTES;
/** Needed in less than half of the restores: after all that is needed more often than not. */
const LIKELY_NEED = 128;
/** A run grows over what is needed within twice its time and this: some tens of faults. */
const SLACK_US = 500;
/**
 * Pages are held back by blocks: each cuts a run in two, so a sample of single pages would cost
 * sixteen times as many calls.
 */
const HOLD_OUT_BLOCK_BYTES = 64 * 1024;

export function prefaultRuns(set: WorkingSet, options: PrefaultOptions): PrefaultRuns {
  const { kept, heldOut } = choosePages(guestPages(set, options.pageSizeBytes), options);
  const maxCount = Math.max(1, Math.floor(MAX_RUN_BYTES / options.pageSizeBytes));
  const order = byTime(kept);
  const growth = new Growth(kept, maxCount);
  const starts = new Uint32Array(order.length);
  const counts = new Uint32Array(order.length);
  let runs = 0;
  for (let place = 0; place < order.length; place++) {
    if (!growth.grow(order[place]!)) continue;
    starts[runs] = kept.pages[growth.first]!;
    counts[runs++] = growth.end - growth.first;
  }
  return { starts: starts.slice(0, runs), counts: counts.slice(0, runs), heldOut };
}

/** Grows runs out of single pages, each page into one run. Places are those in the columns. */
class Growth {
  first = 0;
  end = 0;
  readonly #columns: Columns;
  readonly #maxCount: number;
  readonly #isTaken: Uint8Array;
  #untilUs = 0;
  #isLikely = false;

  constructor(columns: Columns, maxCount: number) {
    this.#columns = columns;
    this.#maxCount = maxCount;
    this.#isTaken = new Uint8Array(columns.pages.length);
  }

  /** A run from `first` to `end` that holds `seed`; false if that is in a run already. */
  grow(seed: number): boolean {
    if (this.#isTaken[seed] === 1) return false;
    const { pages, needs, timesUs } = this.#columns;
    this.#untilUs = timesUs[seed]! * 2 + SLACK_US;
    this.#isLikely = needs[seed]! >= LIKELY_NEED;
    let first = seed;
    let end = seed + 1;
    const limit = Math.min(pages.length, seed + this.#maxCount);
    // Upwards first: that is how guests read more often.
    while (end < limit && pages[end] === pages[end - 1]! + 1 && this.#joins(end)) end++;
    const least = Math.max(0, end - this.#maxCount);
    while (first > least && pages[first - 1] === pages[first]! - 1 && this.#joins(first - 1)) {
      first--;
    }
    this.#isTaken.fill(1, first, end);
    this.first = first;
    this.end = end;
    return true;
  }

  #joins(place: number): boolean {
    const { needs, timesUs } = this.#columns;
    const isLikely = needs[place]! >= LIKELY_NEED;
    return (
      this.#isTaken[place] === 0 && timesUs[place]! <= this.#untilUs && isLikely === this.#isLikely
    );
  }
}

type Columns = Pick<WorkingSet, "pages" | "needs" | "timesUs">;

/** A guest page is needed as often and as early as the page of 4 KiB in it that is needed most. */
function guestPages(set: WorkingSet, pageSizeBytes: number): Columns {
  const perPage = pageSizeBytes / SMALL_PAGE_BYTES;
  assert(Number.isInteger(perPage) && perPage >= 1, `pages of ${pageSizeBytes} bytes`);
  if (perPage === 1) return set;
  const pages = new Uint32Array(set.pages.length);
  const needs = new Uint8Array(set.pages.length);
  const timesUs = new Uint32Array(set.pages.length);
  let count = 0;
  for (let index = 0; index < set.pages.length; index++) {
    const page = Math.floor(set.pages[index]! / perPage);
    if (count === 0 || pages[count - 1] !== page) {
      pages[count] = page;
      needs[count] = set.needs[index]!;
      timesUs[count++] = set.timesUs[index]!;
      continue;
    }
    needs[count - 1] = Math.max(needs[count - 1]!, set.needs[index]!);
    timesUs[count - 1] = Math.min(timesUs[count - 1]!, set.timesUs[index]!);
  }
  return {
    pages: pages.subarray(0, count),
    needs: needs.subarray(0, count),
    timesUs: timesUs.subarray(0, count),
  };
}

interface Chosen {
  readonly kept: Columns;
  readonly heldOut: Uint32Array;
}

function choosePages(all: Columns, { pageSizeBytes, leastNeed, holdOut }: PrefaultOptions): Chosen {
  const sample = new Sample(holdOut);
  const perBlock = Math.max(1, HOLD_OUT_BLOCK_BYTES / pageSizeBytes);
  const pages = new Uint32Array(all.pages.length);
  const needs = new Uint8Array(all.pages.length);
  const timesUs = new Uint32Array(all.pages.length);
  const heldOut = new Uint32Array(all.pages.length);
  let count = 0;
  let heldOutCount = 0;
  for (let place = 0; place < all.pages.length; place++) {
    const page = all.pages[place]!;
    if (all.needs[place]! < leastNeed) continue;
    if (sample.has(Math.floor(page / perBlock))) {
      heldOut[heldOutCount++] = page;
      continue;
    }
    pages[count] = page;
    needs[count] = all.needs[place]!;
    timesUs[count++] = all.timesUs[place]!;
  }
  return {
    kept: {
      pages: pages.subarray(0, count),
      needs: needs.subarray(0, count),
      timesUs: timesUs.subarray(0, count),
    },
    heldOut: heldOut.slice(0, heldOutCount),
  };
}

/** Which blocks are held back; asked for in ascending order, many pages of one block in a row. */
class Sample {
  readonly #limit: number;
  readonly #salt: number;
  #block = -1;
  #isIn = false;

  constructor(holdOut: HoldOut | null) {
    const { every, salt } = holdOut ?? { every: Number.POSITIVE_INFINITY, salt: 0 };
    assert(every >= 1, "one block in so many");
    this.#limit = 2 ** 32 / every;
    this.#salt = salt;
  }

  has(block: number): boolean {
    if (block !== this.#block) {
      this.#block = block;
      this.#isIn = hash(block, this.#salt) < this.#limit;
    }
    return this.#isIn;
  }
}

/** 32 bits that depend on every bit of both (the last steps of splitmix32). */
function hash(value: number, salt: number): number {
  let bits = Math.imul(value, 0x9e3779b9) ^ salt;
  bits = Math.imul(bits ^ (bits >>> 16), 0x21f0aaad);
  bits = Math.imul(bits ^ (bits >>> 15), 0x735a2d97);
  return (bits ^ (bits >>> 15)) >>> 0;
}

/** Times are told apart by a thousandth: 1024 steps per power of two, as of a histogram. */
const STEP_BITS = 10;
const STEPS = 1 << STEP_BITS;
const TIME_CLASSES = (32 - STEP_BITS + 1) * STEPS;

function timeClass(timeUs: number): number {
  if (timeUs < STEPS) return timeUs;
  const shift = 31 - Math.clz32(timeUs) - STEP_BITS;
  return (shift + 1) * STEPS + ((timeUs >>> shift) & (STEPS - 1));
}

/** Likely pages come before all others. */
function classOf(timeUs: number, need: number): number {
  return timeClass(timeUs) + (need >= LIKELY_NEED ? 0 : TIME_CLASSES);
}

/**
 * Places of the pages: likely ones first, then by time, then by address. Counted, not compared: a
 * VM waits for this, and it is several times as fast.
 */
function byTime({ needs, timesUs }: Columns): Uint32Array {
  const next = new Uint32Array(2 * TIME_CLASSES + 1);
  for (let place = 0; place < needs.length; place++) {
    next[classOf(timesUs[place]!, needs[place]!) + 1]!++;
  }
  for (let at = 1; at < next.length; at++) next[at]! += next[at - 1]!;
  const order = new Uint32Array(needs.length);
  for (let place = 0; place < needs.length; place++) {
    order[next[classOf(timesUs[place]!, needs[place]!)]!++] = place;
  }
  return order;
}
