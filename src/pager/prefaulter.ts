/**
 * Walks through pages that are to be installed ahead of the guest, in the order of expected need,
 * and cuts them into pieces that one operation can install. Demand never waits for it: the engine
 * takes one piece at a time, and asks the planner's turn in between.
 *
 * Only pages that are `missing` are touched: what was demanded, removed or installed meanwhile is
 * passed over, so the page table alone keeps the two apart. PURE, and no allocation after
 * construction.
 */
import { assert } from "../base/assert.ts";
import type { Outcome } from "../base/outcome.ts";
import { type OwnerRuns, ownerOf, runAt, runEnd } from "../base/owner-runs.ts";
import { HUGE_PAGE_BYTES } from "../base/units.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import { ActionKind } from "./actions.ts";
import { PageState, type PageTable } from "./page-table.ts";
import { kindOf } from "./planner.ts";

/** Runs of pages: `counts[i]` pages from `starts[i]` on. */
export interface PageRuns {
  readonly starts: Uint32Array;
  readonly counts: Uint32Array;
}

export interface PrefaulterOptions {
  readonly regions: RegionMap;
  readonly runs: OwnerRuns;
  readonly table: PageTable;
  /** What to install, the most needed first. */
  readonly pages: PageRuns;
  /** Then everything else, until no page is missing. */
  readonly isComplete: boolean;
}

/**
 * What follows from an outcome:
 * - `next`: go on.
 * - `drain`: events are unread or in delivery: let the planner have its turn first.
 * - `rest`: go on, but not before a while has passed.
 * - `stop`: it cannot go on (memory is short).
 * - `gone`: the VM is dead.
 */
export type PrefaultSettlement = "next" | "drain" | "rest" | "stop" | "gone";

/** Pieces that wait for parts of the image at the same time: what is fetched ahead is bounded. */
const MAX_WAITING = 32;
/** A waiting piece whose part has come. */
const HERE = -1;
/** Of huge pages that seem to be there already: an empty pool says the same. */
const MAX_PRESENT_IN_A_ROW = 16;

export class Prefaulter {
  /** The piece at hand, after `next()`. */
  kind: ActionKind = ActionKind.zero;
  owner = 0;
  region = 0;
  firstPage = 0;
  pageCount = 0;
  readonly #regions: RegionMap;
  readonly #runs: OwnerRuns;
  readonly #table: PageTable;
  readonly #pages: PageRuns;
  #isComplete: boolean;
  readonly #pageSizeBytes: number;
  readonly #waitingFirst = new Float64Array(MAX_WAITING);
  readonly #waitingEnd = new Float64Array(MAX_WAITING);
  readonly #waitingFor = new Float64Array(MAX_WAITING);
  #waitingLength = 0;
  #hereLength = 0;
  /** The run at hand, as far as it is not done. */
  #page = 0;
  #end = 0;
  #setAsidePage = 0;
  #setAsideEnd = 0;
  /** The next run, or, beyond those, the next region. */
  #nextRun = 0;
  /** Whether the run at hand has waited for its bytes already. */
  #hasWaited = false;
  /** Pages that are tried one by one, up to this one: a larger piece did not fit. */
  #singlesUntil = 0;
  #presentInARow = 0;
  /** Pages of this pass that may still have to be installed. */
  #leftInPass = 0;

  constructor(options: PrefaulterOptions) {
    this.#regions = options.regions;
    this.#runs = options.runs;
    this.#table = options.table;
    this.#pages = options.pages;
    this.#isComplete = options.isComplete;
    this.#pageSizeBytes = options.regions.pageSizeBytes;
  }

  /** After what is listed, everything else, as if it had been so from the beginning. */
  complete(): void {
    this.#isComplete = true;
  }

  /** Whether pieces wait for their bytes. */
  get isWaiting(): boolean {
    return this.#waitingLength > 0;
  }

  /**
   * Takes the next piece of at most `maxPages`. False: there is none now, either because those that
   * are left wait for their bytes, or because this pass is over.
   */
  next(maxPages: number): boolean {
    do {
      if (this.#hereLength > 0 && !this.#hasWaited) this.#takeWaiting();
      else if (this.#page === this.#end && !this.#takeRun() && this.#hereLength === 0) return false;
      if (this.#waitingLength === MAX_WAITING && !this.#hasWaited) return false;
      this.#skip();
    } while (this.#page === this.#end);
    const page = this.#page;
    this.firstPage = page;
    this.region = this.#regions.regionOfPage(page);
    this.owner = ownerOf(this.#runs, page * this.#pageSizeBytes, this.#pageSizeBytes);
    this.kind = kindOf(this.owner);
    this.pageCount = this.#extend(page, this.#limitOf(page, maxPages)) - page;
    return true;
  }

  /** Takes the outcome of the piece at hand; `doneBytes` counts for `partial`. */
  settle(outcome: Outcome, doneBytes: number): PrefaultSettlement {
    switch (outcome) {
      case "installed":
        this.#installed(this.pageCount);
        return "next";
      case "partial":
        this.#installed(Math.floor(doneBytes / this.#pageSizeBytes));
        return "drain";
      case "deferred":
      case "busy":
        return "drain";
      case "alreadyPresent":
        return this.#present();
      case "unregistered":
        if (this.pageCount === 1) this.#page += 1;
        else this.#singlesUntil = this.firstPage + this.pageCount;
        return "next";
      case "badSource":
        this.#leftInPass += this.pageCount;
        this.#page += this.pageCount;
        return "next";
      case "outOfMemory":
        return this.#isComplete ? "rest" : "stop";
      case "gone":
        return "gone";
    }
  }

  /**
   * Instead of `settle`: the bytes of the piece are not here. What of it lies before `endPage`
   * waits for `part`; the rest is the next piece. If it has waited before, its bytes do
   * not stay, and it is passed over, lest two of them drive each other out for ever.
   */
  wait(part: number, endPage: number): void {
    const end = Math.min(Math.max(endPage, this.firstPage + 1), this.firstPage + this.pageCount);
    this.#page = end;
    if (this.#hasWaited) {
      this.#leftInPass += end - this.firstPage;
      return;
    }
    const at = this.#waitingLength++;
    this.#waitingFirst[at] = this.firstPage;
    this.#waitingEnd[at] = end;
    this.#waitingFor[at] = part;
  }

  /** The part has come, or never will: those that waited for it are next, or passed over. */
  settlePart(part: number, isLost: boolean): void {
    for (let at = 0; at < this.#waitingLength; ) {
      if (this.#waitingFor[at] !== part) {
        at += 1;
      } else if (isLost) {
        this.#leftInPass += this.#waitingEnd[at]! - this.#waitingFirst[at]!;
        this.#forget(at);
      } else {
        this.#waitingFor[at++] = HERE;
        this.#hereLength += 1;
      }
    }
  }

  /**
   * After the last piece of a pass: true if all is done. If not (only when it is to be complete),
   * another pass begins, for which the caller lets some time pass.
   */
  finishPass(): boolean {
    assert(!this.isWaiting && this.#page === this.#end, "a pass that is not over");
    if (!this.#isComplete) return true;
    if (this.#leftInPass === 0) return true;
    this.#leftInPass = 0;
    this.#nextRun = this.#pages.starts.length;
    return false;
  }

  #takeRun(): boolean {
    this.#hasWaited = false;
    this.#page = this.#setAsidePage;
    this.#end = this.#setAsideEnd;
    this.#setAsidePage = this.#setAsideEnd;
    if (this.#page < this.#end) return true;
    const run = this.#nextRun;
    const listed = this.#pages.starts.length;
    if (run < listed) {
      this.#page = this.#pages.starts[run]!;
      this.#end = Math.min(this.#page + this.#pages.counts[run]!, this.#table.pageCount);
      if (this.#page > this.#end) this.#page = this.#end;
    } else if (this.#isComplete && run - listed < this.#regions.regions.length) {
      this.#page = this.#regions.firstPageOf(run - listed);
      this.#end = this.#regions.endPageOf(run - listed);
    } else {
      return false;
    }
    this.#nextRun += 1;
    return true;
  }

  /** The run at hand is set aside for a piece whose bytes have come: they may not stay long. */
  #takeWaiting(): void {
    this.#setAsidePage = this.#page;
    this.#setAsideEnd = this.#end;
    let at = 0;
    while (this.#waitingFor[at] !== HERE) at += 1;
    this.#page = this.#waitingFirst[at]!;
    this.#end = this.#waitingEnd[at]!;
    this.#hasWaited = true;
    this.#hereLength -= 1;
    this.#forget(at);
  }

  #forget(at: number): void {
    const last = --this.#waitingLength;
    this.#waitingFirst[at] = this.#waitingFirst[last]!;
    this.#waitingEnd[at] = this.#waitingEnd[last]!;
    this.#waitingFor[at] = this.#waitingFor[last]!;
  }

  /**
   * Passes over what needs nothing, or has a fault of its own under way; and over pages that this
   * VM has no memory for: the set may be another machine's.
   */
  #skip(): void {
    for (; this.#page < this.#end; this.#page++) {
      const state = this.#table.get(this.#page);
      if (state === PageState.missing && this.#regions.regionOfPage(this.#page) >= 0) return;
      // Its fault may be given up: only another pass can tell.
      if (state === PageState.pending) this.#leftInPass += 1;
    }
  }

  /** Where a piece that begins at `page` must end at the latest. */
  #limitOf(page: number, maxPages: number): number {
    if (this.kind === ActionKind.assemble || page < this.#singlesUntil) return page + 1;
    const limit = Math.min(this.#end, page + maxPages, this.#regions.endPageOf(this.region));
    const offset = page * this.#pageSizeBytes;
    const ownerEnd = runEnd(this.#runs, runAt(this.#runs, offset)) / this.#pageSizeBytes;
    return Math.max(page + 1, Math.min(limit, Math.floor(ownerEnd)));
  }

  #extend(page: number, limit: number): number {
    let end = page + 1;
    while (end < limit && this.#table.get(end) === PageState.missing) end += 1;
    return end;
  }

  #installed(pages: number): void {
    this.#table.installRange(this.firstPage, this.firstPage + pages);
    this.#page += pages;
    this.#presentInARow = 0;
  }

  /** Somebody else filled it. If everything is to be there, that is all that was wanted. */
  #present(): PrefaultSettlement {
    if (this.#pageSizeBytes >= HUGE_PAGE_BYTES) {
      this.#presentInARow += 1;
      if (this.#presentInARow === MAX_PRESENT_IN_A_ROW) {
        this.#presentInARow = 0;
        return this.#isComplete ? "rest" : "stop";
      }
      this.#leftInPass += 1;
    } else if (this.#isComplete) {
      this.#table.installRange(this.firstPage, this.firstPage + 1);
    }
    this.#page += 1;
    return "next";
  }
}
