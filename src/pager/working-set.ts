/**
 * Learns what a restore needs from earlier restores.
 *
 * A page's need is an average over restores, in which the newest counts for an eighth: a page that
 * was demanded comes closer to full need, one that was not fades, and leaves the set when it was
 * needed in less than a sixteenth of the latest restores. While there were few restores the newest
 * counts for more, so that the first ones together make a plain mean:
 *
 * ```
 *   restore                     1    2    3    4  …  9   10   11   12   13   14
 *   needed in every one       255  255  255  255    255  255  255  255  255  255
 *   needed in the first one   255  127   84   63     26   22   19   16 gone
 *   needed in the ninth one                          32   28   24   21   18 gone
 * ```
 *
 * A page that was installed ahead was seen by nobody: whether the guest needed it is not known, so
 * it keeps what it has. Prefault therefore holds a sample of the set back (prefault-runs.ts), and a
 * set that nobody needs any more fades by what the samples show. PURE.
 */
import { assert } from "../base/assert.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import {
  FULL_NEED,
  MAX_RESTORES,
  MAX_TIME_US,
  MAX_WORKING_SET_PAGES,
  smallPagesOf,
  type WorkingSet,
} from "../base/working-set.ts";

/** What was seen of one restored VM. Pages are the guest's, of `pageSizeBytes`. */
export interface RestoreRecording {
  /** Of the memory image. */
  readonly sizeBytes: number;
  readonly pageSizeBytes: number;
  /** In the order in which they were demanded; of a page that stands twice the first counts. */
  readonly pages: Uint32Array;
  /** When, for each of them, since the handler met the VM. */
  readonly timesUs: Float64Array | Uint32Array;
  /** Runs of pages that were installed before anybody asked. */
  readonly aheadStarts: Uint32Array;
  readonly aheadCounts: Uint32Array;
}

/**
 * The weight of the newest restore once there were many. Larger, and a page that every other
 * restore needs would come and go by chance; smaller, and a new version of the guest's work would
 * take hundreds of restores to be learnt.
 */
const NEWEST_WEIGHT = 1 / 8;
/** Half of what one restore gives: a page that is not needed again leaves five restores later. */
const LEAST_NEED = 16;
/** A number of a page and its place in the recording fit into one exact number up to here. */
const PLACES = 2 ** 21;

/** The set with one more restore in it. Of one in which nothing happened nothing is learnt. */
export function mergeRecording(set: WorkingSet | null, recording: RestoreRecording): WorkingSet {
  const { sizeBytes } = recording;
  assert(set === null || set.sizeBytes === sizeBytes, "a recording of another image");
  const before = set ?? emptySet(sizeBytes);
  if (recording.pages.length === 0 && recording.aheadStarts.length === 0) return before;
  const demand = demandedPages(recording);
  const weight = Math.max(NEWEST_WEIGHT, 1 / (before.restores + 1));
  const merged = new MergedPages(before.pages.length + demand.pages.length, weight);
  const ahead = new AheadRuns(recording);
  let next = 0;
  for (let index = 0; index < before.pages.length; index++) {
    const page = before.pages[index]!;
    const need = before.needs[index]!;
    const timeUs = before.timesUs[index]!;
    for (; demand.pages[next]! < page; next++) {
      merged.addNew(demand.pages[next]!, demand.timesUs[next]!);
    }
    if (demand.pages[next] === page) merged.addNeeded(page, need, timeUs, demand.timesUs[next++]!);
    else if (ahead.has(page)) merged.add(page, need, timeUs);
    else merged.addUnneeded(page, need, timeUs);
  }
  for (; next < demand.pages.length; next++) {
    merged.addNew(demand.pages[next]!, demand.timesUs[next]!);
  }
  const restores = Math.min(before.restores + 1, MAX_RESTORES);
  return mostNeeded({ sizeBytes, restores, ...merged.columns() });
}

function emptySet(sizeBytes: number): WorkingSet {
  return {
    sizeBytes,
    restores: 0,
    pages: new Uint32Array(0),
    needs: new Uint8Array(0),
    timesUs: new Uint32Array(0),
  };
}

type PageTimes = Pick<WorkingSet, "pages" | "timesUs">;

/**
 * Pages of 4 KiB that were demanded, ascending, each once. Of a recording that is longer than a set
 * may be, the earliest: the rest would not stay.
 */
function demandedPages(recording: RestoreRecording): PageTimes {
  const { sizeBytes, pageSizeBytes } = recording;
  const pageCount = smallPagesOf(sizeBytes);
  const perPage = smallPagesPer(pageSizeBytes);
  const length = Math.min(recording.pages.length, MAX_WORKING_SET_PAGES / perPage);
  const keys = new Float64Array(length);
  for (let place = 0; place < length; place++) {
    const page = recording.pages[place]!;
    assert(page * perPage < pageCount, `page ${page} lies outside of the image`);
    keys[place] = page * PLACES + place;
  }
  keys.sort();
  const pages = new Uint32Array(length * perPage);
  const timesUs = new Uint32Array(length * perPage);
  let count = 0;
  let last = -1;
  for (const key of keys) {
    const page = Math.floor(key / PLACES);
    if (page === last) continue;
    last = page;
    const timeUs = clampTime(recording.timesUs[key % PLACES]!);
    const end = Math.min((page + 1) * perPage, pageCount);
    for (let small = page * perPage; small < end; small++) {
      pages[count] = small;
      timesUs[count++] = timeUs;
    }
  }
  return { pages: pages.subarray(0, count), timesUs: timesUs.subarray(0, count) };
}

function smallPagesPer(pageSizeBytes: number): number {
  const count = pageSizeBytes / SMALL_PAGE_BYTES;
  assert(Number.isInteger(count) && count >= 1, `pages of ${pageSizeBytes} bytes`);
  return count;
}

/** Clocks are not ours to trust: what is no time counts as the earliest. */
function clampTime(timeUs: number): number {
  return timeUs > 0 ? Math.min(Math.round(timeUs), MAX_TIME_US) : 0;
}

/** The pages that were installed ahead, asked for in ascending order. */
class AheadRuns {
  readonly #keys: Float64Array;
  readonly #counts: Uint32Array;
  readonly #perPage: number;
  #next = 0;
  /** The end of all runs that begin at or before the page asked for last. */
  #end = 0;

  constructor({ aheadStarts, aheadCounts, pageSizeBytes }: RestoreRecording) {
    assert(aheadStarts.length === aheadCounts.length && aheadStarts.length <= PLACES, "ahead runs");
    this.#counts = aheadCounts;
    this.#perPage = smallPagesPer(pageSizeBytes);
    this.#keys = new Float64Array(aheadStarts.length);
    for (let place = 0; place < aheadStarts.length; place++) {
      this.#keys[place] = aheadStarts[place]! * PLACES + place;
    }
    this.#keys.sort();
  }

  has(page: number): boolean {
    for (; this.#next < this.#keys.length; this.#next++) {
      const key = this.#keys[this.#next]!;
      const start = Math.floor(key / PLACES);
      if (start * this.#perPage > page) break;
      const end = (start + this.#counts[key % PLACES]!) * this.#perPage;
      this.#end = Math.max(this.#end, end);
    }
    return page < this.#end;
  }
}

class MergedPages {
  readonly #weight: number;
  readonly #pages: Uint32Array;
  readonly #needs: Uint8Array;
  readonly #timesUs: Uint32Array;
  #count = 0;

  constructor(capacity: number, weight: number) {
    this.#weight = weight;
    this.#pages = new Uint32Array(capacity);
    this.#needs = new Uint8Array(capacity);
    this.#timesUs = new Uint32Array(capacity);
  }

  addNew(page: number, timeUs: number): void {
    this.add(page, Math.ceil(FULL_NEED * this.#weight), timeUs);
  }

  addNeeded(page: number, need: number, meanUs: number, timeUs: number): void {
    // Rounded away from where it was: a page of every restore arrives at full need.
    const stronger = need + Math.ceil((FULL_NEED - need) * this.#weight);
    this.add(page, stronger, Math.round(meanUs + (timeUs - meanUs) * this.#weight));
  }

  addUnneeded(page: number, need: number, meanUs: number): void {
    const weaker = need - Math.ceil(need * this.#weight);
    if (weaker >= LEAST_NEED) this.add(page, weaker, meanUs);
  }

  add(page: number, need: number, timeUs: number): void {
    this.#pages[this.#count] = page;
    this.#needs[this.#count] = need;
    this.#timesUs[this.#count++] = timeUs;
  }

  columns(): Pick<WorkingSet, "pages" | "needs" | "timesUs"> {
    return {
      pages: this.#pages.slice(0, this.#count),
      needs: this.#needs.slice(0, this.#count),
      timesUs: this.#timesUs.slice(0, this.#count),
    };
  }
}

/** Within the bound: those needed most often stay; of equals the earliest, then the lowest. */
function mostNeeded(set: WorkingSet): WorkingSet {
  const { pages, needs, timesUs } = set;
  if (pages.length <= MAX_WORKING_SET_PAGES) return set;
  const rank = (index: number): number => (FULL_NEED - needs[index]!) * 2 ** 32 + timesUs[index]!;
  const ranks = Float64Array.from(pages, (_, index) => rank(index)).sort();
  const limit = ranks[MAX_WORKING_SET_PAGES - 1]!;
  let equals = 0;
  for (let place = MAX_WORKING_SET_PAGES - 1; place >= 0 && ranks[place] === limit; place--) {
    equals++;
  }
  const stays = (_: number, index: number): boolean => {
    const own = rank(index);
    return own < limit || (own === limit && equals-- > 0);
  };
  const kept = Uint32Array.from(pages.keys()).filter(stays);
  return {
    ...set,
    pages: Uint32Array.from(kept, (index) => pages[index]!),
    needs: Uint8Array.from(kept, (index) => needs[index]!),
    timesUs: Uint32Array.from(kept, (index) => timesUs[index]!),
  };
}
