/**
 * Decides what one VM's events lead to. Events and page states go in, actions come out; the engine
 * carries them out and reports each outcome back. Engine, simulator and tests run this same code.
 *
 * One turn: `remove()` and `fault()` for everything that was drained, then `plan()`, then
 * `settle()`, `park()` or `split()` for each action in order, then `finishPlan()`. All removes of a
 * drain are applied before any fault is planned, whatever order they were read in: the kernel hands
 * out faults first, even those that a REMOVE caused.
 *
 * Pages whose bytes are not here yet are parked: they leave the queue until that part of the image
 * has come (`unpark`), and all other faults go on meanwhile. A REMOVE ends the wait, because the
 * page is zero from then on.
 *
 * PURE: no clock, no I/O, and no allocation after construction.
 */
import { assert } from "../base/assert.ts";
import type { Outcome } from "../base/outcome.ts";
import {
  MIXED_OWNERS,
  type OwnerRuns,
  ownerOf,
  runAt,
  runEnd,
  ZERO_OWNER,
} from "../base/owner-runs.ts";
import { HUGE_PAGE_BYTES } from "../base/units.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import { ACTION_CAPACITY, ActionKind, type ActionList } from "./actions.ts";
import { PageState, type PageTable } from "./page-table.ts";
import { markRemoved } from "./removal.ts";
import { Streams } from "./streams.ts";

/**
 * Faults one VM can have waiting. A thread waits for one page at a time, so this is far above what
 * vCPUs and device threads reach (metric: overflowed faults in the session's end report).
 */
export const QUEUE_CAPACITY = 1024;

/**
 * Failed attempts in a row, without one page installed in between, after which the pool or the
 * layout may be broken for good. Real races end after as many attempts as the VM has threads. The
 * engine waits between attempts, and only believes `exhausted` after some time.
 */
export const STREAK_LIMIT = 128;
/** The first few attempts go on at once: most collisions are over by then. */
const STREAK_UNTIL_BACKOFF = 8;

/**
 * - `first`: queued, and never asked for before (or given up meanwhile).
 * - `queued`: it was asked for before, and has lost what it was given.
 * - `known`: it is queued already.
 * - `overflow`: the queue is full; wake the page's waiters, they will fault again.
 */
export type FaultVerdict = "first" | "queued" | "known" | "outside" | "overflow";

/**
 * What the engine does next:
 * - `done`: nothing; the waiters are awake.
 * - `wake`: wake the waiters of the action's first page.
 * - `retry`: drain, then plan again; the pages stayed queued.
 * - `wakeAndBackoff`, `backoff`: the same, but not before a moment has passed.
 * - `gone`: the VM is dead.
 * - `badSource`, `exhausted`: the first page cannot be had; apply the session's policy, or (if
 *   `exhausted` came too soon to be believed) treat it as `wakeAndBackoff`.
 */
export type Settlement =
  | "done"
  | "wake"
  | "retry"
  | "wakeAndBackoff"
  | "backoff"
  | "gone"
  | "badSource"
  | "exhausted";

export interface PlannerOptions {
  readonly regions: RegionMap;
  readonly runs: OwnerRuns;
  readonly table: PageTable;
  /** The longest run of pages that one action may cover. */
  readonly maxRunPages: number;
  /** What a fault may bring at most when faults walk through memory; below 2: nothing ahead. */
  readonly maxStreamPages: number;
  /** How many faults can wait; default: `QUEUE_CAPACITY`. */
  readonly queueCapacity?: number;
}

export class Planner {
  readonly #regions: RegionMap;
  readonly #runs: OwnerRuns;
  readonly #table: PageTable;
  readonly #pageSizeBytes: number;
  readonly #maxRunPages: number;
  readonly #streams: Streams | null;
  readonly #queue: Float64Array;
  readonly #isKept: Uint8Array;
  readonly #parkedPages: Float64Array;
  /** The part of the image that each parked page waits for. */
  readonly #parkedFor: Float64Array;
  #queueLength = 0;
  #parkedLength = 0;
  #plannedLength = 0;
  #mayMerge = true;
  #streak = 0;
  /** Where the last plan ended before the queue did: the next begins there, not at the lowest. */
  #resumeFrom = 0;

  constructor(options: PlannerOptions) {
    this.#regions = options.regions;
    this.#runs = options.runs;
    this.#table = options.table;
    this.#pageSizeBytes = options.regions.pageSizeBytes;
    this.#maxRunPages = options.maxRunPages;
    const capacity = options.queueCapacity ?? QUEUE_CAPACITY;
    this.#queue = new Float64Array(capacity);
    this.#isKept = new Uint8Array(capacity);
    this.#parkedPages = new Float64Array(capacity);
    this.#parkedFor = new Float64Array(capacity);
    const streamPages = Math.min(options.maxRunPages, options.maxStreamPages);
    this.#streams = streamPages < 2 ? null : new Streams(streamPages);
    assert(options.table.pageCount >= options.regions.pageLimit, "page table smaller than regions");
  }

  /** Failed attempts since the last page that could be installed. */
  get failureStreak(): number {
    return this.#streak;
  }

  get queuedPages(): number {
    return this.#queueLength;
  }

  /** Pages that wait for bytes. */
  get parkedPages(): number {
    return this.#parkedLength;
  }

  /** Takes a fault at a host address. */
  fault(address: number): FaultVerdict {
    const region = this.#regions.regionAt(address);
    if (region < 0) return "outside";
    return this.faultPage(this.#regions.pageAt(region, address));
  }

  /** The same for a page of the image, which one of the regions holds. */
  faultPage(page: number): FaultVerdict {
    const state = this.#table.get(page);
    if (state === PageState.pending) return "known";
    if (this.#queueLength + this.#parkedLength === this.#queue.length) return "overflow";
    this.#queue[this.#queueLength++] = page;
    if (state !== PageState.missing) return "queued";
    this.#table.set(page, PageState.pending);
    this.#streams?.observe(page);
    return "first";
  }

  /** Takes a REMOVE (or UNMAP) of host addresses `start` to `end`, exclusive. Returns the pages. */
  remove(start: number, end: number): number {
    const removed = markRemoved(this.#regions, this.#table, start, end);
    if (removed > 0 && this.#parkedLength > 0) this.#unparkRemoved();
    return removed;
  }

  /**
   * Turns queued faults into actions, merging neighbours, until they have `maxPages` or a little
   * more; the rest stays queued. Returns how many actions there are.
   */
  plan(actions: ActionList, maxPages = Number.POSITIVE_INFINITY): number {
    this.#sortQueue();
    if (this.#resumeFrom > 0) this.#turnQueue();
    actions.length = 0;
    let position = 0;
    let pagesBeforeLast = 0;
    while (position < this.#queueLength) {
      const page = this.#queue[position]!;
      if (!this.#extendLast(actions, page)) {
        if (actions.length > 0) pagesBeforeLast += actions.pageCounts[actions.length - 1]!;
        if (actions.length === ACTION_CAPACITY || pagesBeforeLast >= maxPages) {
          // Lower pages that keep coming must not keep this one waiting for ever.
          this.#resumeFrom = page;
          break;
        }
        this.#append(actions, page, position);
      }
      this.#isKept[position] = 0;
      position += 1;
      actions.queueEnds[actions.length - 1] = position;
    }
    this.#plannedLength = position;
    this.#mayMerge = true;
    return actions.length;
  }

  /** Takes the outcome of action `index`; `doneBytes` counts for `partial`. Call in plan order. */
  settle(actions: ActionList, index: number, outcome: Outcome, doneBytes: number): Settlement {
    const count = actions.pageCounts[index]!;
    const first = actions.firstPages[index]!;
    switch (outcome) {
      case "installed":
        this.#markInstalled(first, first + count);
        return "done";
      case "partial": {
        const donePages = Math.floor(doneBytes / this.#pageSizeBytes);
        this.#markInstalled(first, first + donePages);
        this.#keep(actions, index, first + donePages);
        return "retry";
      }
      case "alreadyPresent":
        // Not ours, so not `installed`: on hugetlb this is also how an empty pool answers.
        return this.#giveUpFirst(actions, index, this.#pageSizeBytes >= HUGE_PAGE_BYTES);
      case "unregistered":
        if (count === 1) return this.#giveUpFirst(actions, index, true);
        // The run crosses the end of a mapping: page by page, only the outer ones are lost.
        this.split(actions, index);
        return "retry";
      case "deferred":
      case "busy":
        this.#keep(actions, index, first);
        return "retry";
      case "outOfMemory":
        this.#keep(actions, index, first);
        this.#streak += 1;
        return this.#streak > STREAK_LIMIT ? "exhausted" : "backoff";
      case "badSource":
        this.#keep(actions, index, first);
        return "badSource";
      case "gone":
        return "gone";
    }
  }

  /**
   * Instead of `settle`: the bytes of action `index` are not here. Its pages wait for `part` of the
   * image, a number that means something to the caller; of several, for any one that is missing.
   */
  park(actions: ActionList, index: number, part: number): void {
    const end = actions.queueEnds[index]!;
    for (let position = actions.queueStarts[index]!; position < end; position++) {
      this.#parkedPages[this.#parkedLength] = this.#queue[position]!;
      this.#parkedFor[this.#parkedLength++] = part;
      this.#isKept[position] = 0;
    }
  }

  /** Instead of `settle`: not all pages of action `index` can be had. The next plan tries each. */
  split(actions: ActionList, index: number): void {
    this.#mayMerge = false;
    this.#keep(actions, index, actions.firstPages[index]!);
  }

  /**
   * Of what action `index` would bring ahead of demand only `pages` are at hand: it covers no more
   * than those, but all that was demanded.
   */
  shrink(actions: ActionList, index: number, pages: number): void {
    const count = actions.pageCounts[index]!;
    const kept = Math.max(pages, count - actions.aheadPages[index]!);
    actions.aheadPages[index] = actions.aheadPages[index]! - (count - kept);
    actions.pageCounts[index] = kept;
    this.#streams?.expect(actions.firstPages[index]!, actions.firstPages[index]! + kept);
  }

  /**
   * The part is here, or never will be: its pages are planned again, of more than `limit` those
   * that have waited longest. Returns how many.
   */
  unpark(part: number, limit = Number.POSITIVE_INFINITY): number {
    let kept = 0;
    let count = 0;
    for (let position = 0; position < this.#parkedLength; position++) {
      if (this.#parkedFor[position] !== part || count === limit) {
        kept = this.#keepParked(position, kept);
        continue;
      }
      this.#requeue(this.#parkedPages[position]!);
      count += 1;
    }
    this.#parkedLength = kept;
    return count;
  }

  /** Whether pages wait for the part. */
  isParked(part: number): boolean {
    for (let position = 0; position < this.#parkedLength; position++) {
      if (this.#parkedFor[position] === part) return true;
    }
    return false;
  }

  /**
   * The first page of action `index` is settled by policy: poisoned, it reads as nothing else.
   * `settle` had kept it; left in the queue, the next plan would put zeroes over the poison.
   */
  markPoisoned(actions: ActionList, index: number): void {
    const first = actions.firstPages[index]!;
    this.#markInstalled(first, first + 1);
    this.#keep(actions, index, first + 1);
  }

  /**
   * Policy found the first page of action `index` present: somebody else filled it, and it needs
   * nothing more than a wake. Left in the queue, a page whose bytes cannot be read would be tried,
   * and refused, for ever.
   */
  letGo(actions: ActionList, index: number): void {
    const first = actions.firstPages[index]!;
    if (this.#table.get(first) === PageState.pending) this.#table.set(first, PageState.missing);
    this.#keep(actions, index, first + 1);
  }

  /** Drops what was settled from the queue. Returns how many faults still wait. */
  finishPlan(): number {
    let kept = 0;
    for (let position = 0; position < this.#queueLength; position++) {
      if (position < this.#plannedLength && this.#isKept[position] === 0) continue;
      this.#queue[kept++] = this.#queue[position]!;
    }
    this.#queueLength = kept;
    this.#plannedLength = 0;
    return kept;
  }

  /** Makes `page` part of the last action, if it continues it. */
  #extendLast(actions: ActionList, page: number): boolean {
    const last = actions.length - 1;
    if (last < 0) return false;
    const first = actions.firstPages[last]!;
    const count = actions.pageCounts[last]!;
    if (page >= first && page < first + count) return true; // The same page again.
    if (page !== first + count || count >= this.#maxRunPages || !this.#mayMerge) return false;
    if (this.#regions.regionOfPage(page) !== actions.regions[last]) return false;
    const owner = this.#sourceOf(page);
    if (kindOf(owner) !== actions.kinds[last] || owner === MIXED_OWNERS) return false;
    if (owner >= 0 && owner !== actions.owners[last]) return false;
    actions.pageCounts[last] = count + 1;
    // What was to be brought ahead lies before a page that is demanded.
    actions.aheadPages[last] = 0;
    return true;
  }

  #append(actions: ActionList, page: number, position: number): void {
    const index = actions.length++;
    const owner = this.#sourceOf(page);
    const region = this.#regions.regionOfPage(page);
    assert(region >= 0, "queued page outside of every region");
    actions.kinds[index] = kindOf(owner);
    actions.owners[index] = owner;
    actions.regions[index] = region;
    actions.firstPages[index] = page;
    actions.pageCounts[index] = 1;
    actions.aheadPages[index] = 0;
    actions.queueStarts[index] = position;
    if (this.#streams !== null && this.#mayMerge) this.#goAhead(actions, index);
  }

  /** Where faults walk through memory, one brings the next pages too: of the same source only. */
  #goAhead(actions: ActionList, index: number): void {
    const first = actions.firstPages[index]!;
    const pages = this.#streams!.pagesFrom(first);
    if (pages === 1 || actions.kinds[index] === ActionKind.assemble) return;
    // A page that has had its bytes is zero: what follows it is no scan of the image.
    if (this.#table.get(first) !== PageState.pending) return;
    const regionEnd = this.#regions.endPageOf(actions.regions[index]!);
    const run = runAt(this.#runs, first * this.#pageSizeBytes);
    const sourceEnd = Math.floor(runEnd(this.#runs, run) / this.#pageSizeBytes);
    const limit = Math.min(first + pages, regionEnd, sourceEnd);
    let end = first + 1;
    while (end < limit && this.#table.get(end) === PageState.missing) end += 1;
    actions.pageCounts[index] = end - first;
    actions.aheadPages[index] = end - first - 1;
    this.#streams!.expect(first, end);
  }

  /** Where a page's bytes come from: the owner of the snapshot's, or zero if it had its turn. */
  #sourceOf(page: number): number {
    if (this.#table.get(page) !== PageState.pending) return ZERO_OWNER;
    return ownerOf(this.#runs, page * this.#pageSizeBytes, this.#pageSizeBytes);
  }

  #markInstalled(first: number, end: number): void {
    for (let page = first; page < end; page++) {
      if (this.#table.get(page) !== PageState.removed) this.#table.set(page, PageState.installed);
    }
    if (end > first) this.#streak = 0;
  }

  /** Lets go of the first page. Only failures that may never end (`isSuspect`) count. */
  #giveUpFirst(actions: ActionList, index: number, isSuspect: boolean): Settlement {
    const first = actions.firstPages[index]!;
    if (isSuspect) this.#streak += 1;
    // A woken thread faults again at once, so every other attempt lets it sleep.
    const isHeld = isSuspect && this.#streak > STREAK_UNTIL_BACKOFF && this.#streak % 2 === 1;
    this.#keep(actions, index, isHeld ? first : first + 1);
    if (isHeld) return "backoff";
    if (this.#table.get(first) === PageState.pending) this.#table.set(first, PageState.missing);
    if (isSuspect && this.#streak > STREAK_LIMIT) return "exhausted";
    return isSuspect && this.#streak > STREAK_UNTIL_BACKOFF ? "wakeAndBackoff" : "wake";
  }

  /**
   * Leaves the pages of an action from `firstKept` on in the queue, and lets go of those before.
   */
  #keep(actions: ActionList, index: number, firstKept: number): void {
    const end = actions.queueEnds[index]!;
    for (let position = actions.queueStarts[index]!; position < end; position++) {
      this.#isKept[position] = this.#queue[position]! >= firstKept ? 1 : 0;
    }
  }

  #unparkRemoved(): void {
    let kept = 0;
    for (let position = 0; position < this.#parkedLength; position++) {
      const page = this.#parkedPages[position]!;
      if (this.#table.get(page) === PageState.removed) this.#requeue(page);
      else kept = this.#keepParked(position, kept);
    }
    this.#parkedLength = kept;
  }

  /** There is room: queued and parked pages together never exceed the capacity. */
  #requeue(page: number): void {
    this.#queue[this.#queueLength++] = page;
  }

  #keepParked(from: number, to: number): number {
    this.#parkedPages[to] = this.#parkedPages[from]!;
    this.#parkedFor[to] = this.#parkedFor[from]!;
    return to + 1;
  }

  /** The pages from `#resumeFrom` on come first, then those below. */
  #turnQueue(): void {
    const queue = this.#queue;
    const length = this.#queueLength;
    let first = 0;
    while (first < length && queue[first]! < this.#resumeFrom) first += 1;
    this.#resumeFrom = 0;
    if (first === 0 || first === length) return;
    reverse(queue, 0, first);
    reverse(queue, first, length);
    reverse(queue, 0, length);
  }

  #sortQueue(): void {
    const queue = this.#queue;
    // Almost always a handful of pages; the typed array's own sort would allocate a view.
    if (this.#queueLength > 64) {
      queue.subarray(0, this.#queueLength).sort();
      return;
    }
    for (let end = 1; end < this.#queueLength; end++) {
      const page = queue[end]!;
      let position = end - 1;
      while (position >= 0 && queue[position]! > page) {
        queue[position + 1] = queue[position]!;
        position -= 1;
      }
      queue[position + 1] = page;
    }
  }
}

/** From `start` to `end`, exclusive; the typed array's own would allocate a view. */
function reverse(values: Float64Array, start: number, end: number): void {
  for (let low = start, high = end - 1; low < high; low++, high--) {
    const value = values[low]!;
    values[low] = values[high]!;
    values[high] = value;
  }
}

/** How bytes of this owner are installed. */
export function kindOf(owner: number): ActionKind {
  if (owner === ZERO_OWNER) return ActionKind.zero;
  return owner === MIXED_OWNERS ? ActionKind.assemble : ActionKind.copy;
}
