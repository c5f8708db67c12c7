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
  /** One block of 64 KiB in so many, 1 to 2^32. */
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
/** A run grows over what is needed within twice its time and this: some ten faults' time. */
const SLACK_US = 500;
/**
 * Pages are held back by blocks: each cuts a run in two, so a sample of single pages would cost
 * sixteen times as many calls.
 */
const HOLD_OUT_BLOCK_BYTES = 64 * 1024;

export function prefaultRuns(set: WorkingSet, options: PrefaultOptions): PrefaultRuns {
  const { kept, heldOut } = choosePages(guestPages(set, options.pageSizeBytes), options);
  const maxCount = Math.max(1, Math.floor(MAX_RUN_BYTES / options.pageSizeBytes));
  const { pages } = kept;
  const starts = new Uint32Array(pages.length);
  const counts = new Uint32Array(pages.length);
  const isTaken = new Uint8Array(pages.length);
  let runs = 0;
  for (const seed of byTime(kept)) {
    if (isTaken[seed] === 1) continue;
    const isLikely = kept.needs[seed]! >= LIKELY_NEED;
    const untilUs = kept.timesUs[seed]! * 2 + SLACK_US;
    const joins = (index: number): boolean =>
      isTaken[index] === 0 &&
      kept.timesUs[index]! <= untilUs &&
      kept.needs[index]! >= LIKELY_NEED === isLikely;
    // Guests read upwards more often than downwards.
    let end = seed + 1;
    while (end - seed < maxCount && pages[end] === pages[end - 1]! + 1 && joins(end)) end++;
    let first = seed;
    while (end - first < maxCount && pages[first - 1] === pages[first]! - 1 && joins(first - 1)) {
      first--;
    }
    isTaken.fill(1, first, end);
    starts[runs] = pages[first]!;
    counts[runs++] = end - first;
  }
  return { starts: starts.slice(0, runs), counts: counts.slice(0, runs), heldOut };
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
  assert(holdOut === null || (holdOut.every >= 1 && holdOut.every <= 2 ** 32), "one of so many");
  const perBlock = Math.max(1, HOLD_OUT_BLOCK_BYTES / pageSizeBytes);
  const kept = new Uint32Array(all.pages.length);
  const heldOut = new Uint32Array(all.pages.length);
  let keptCount = 0;
  let heldOutCount = 0;
  for (let index = 0; index < all.pages.length; index++) {
    if (all.needs[index]! < leastNeed) continue;
    const block = Math.floor(all.pages[index]! / perBlock);
    const isHeldOut = holdOut !== null && hash(block, holdOut.salt) % holdOut.every === 0;
    if (isHeldOut) heldOut[heldOutCount++] = all.pages[index]!;
    else kept[keptCount++] = index;
  }
  const indexes = kept.subarray(0, keptCount);
  return {
    kept: {
      pages: Uint32Array.from(indexes, (index) => all.pages[index]!),
      needs: Uint8Array.from(indexes, (index) => all.needs[index]!),
      timesUs: Uint32Array.from(indexes, (index) => all.timesUs[index]!),
    },
    heldOut: heldOut.slice(0, heldOutCount),
  };
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

/**
 * Places of the pages: likely ones first, then by time, then by address. Counted, not compared:
 * a VM waits for this, and it is ten times as fast.
 */
function byTime({ needs, timesUs }: Columns): Uint32Array {
  const classOf = (index: number): number =>
    timeClass(timesUs[index]!) + (needs[index]! >= LIKELY_NEED ? 0 : TIME_CLASSES);
  const places = new Uint32Array(2 * TIME_CLASSES + 1);
  for (let index = 0; index < needs.length; index++) places[classOf(index) + 1]!++;
  for (let at = 1; at < places.length; at++) places[at]! += places[at - 1]!;
  const order = new Uint32Array(needs.length);
  for (let index = 0; index < needs.length; index++) order[places[classOf(index)]!++] = index;
  return order;
}
