/**
 * Installs pages of one VM ahead of its faults: the fault worker lets it take a step whenever no
 * fault of any VM is waiting.
 */
import { hasBit, setBits } from "../base/bitmap.ts";
import type { Outcome } from "../base/outcome.ts";
import { Cause } from "../base/restore-causes.ts";
import { HUGE_PAGE_BYTES, KIB } from "../base/units.ts";
import { monotonicUs } from "../linux/clock.ts";
import { ActionKind } from "../pager/actions.ts";
import type { PageTable } from "../pager/page-table.ts";
import { type PageRuns, Prefaulter, type PrefaultSettlement } from "../pager/prefaulter.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { GuestPages } from "./guest-pages.ts";
import type { ImageBytes } from "./image-bytes.ts";
import type { Installer } from "./installer.ts";
import type { SessionClock } from "./session-clock.ts";
import type { SessionStats } from "./session-stats.ts";
import { Trace } from "./trace-ring.ts";
import type { PrefaultSetup } from "./wire.ts";

/**
 * What a step installs: a fault that comes meanwhile waits for its end. Some 30 µs beside a guest
 * that runs; as much as one operation may when nobody runs yet.
 */
const PACED_STEP_BYTES = 64 * KIB;
const FULL_STEP_BYTES = HUGE_PAGE_BYTES;
/** Tried again after this long: memory is short, a store is down. */
const REST_US = 1e6;
/** Events are in delivery, and only the VMM's own thread can end that. */
const DEFERRED_US = 1000;

/** What completion begins with: nothing in particular, in small steps beside the guest. */
export const EVERYTHING: PrefaultSetup = {
  pages: { starts: new Uint32Array(0), counts: new Uint32Array(0) },
  isPaced: true,
  completes: true,
};

/**
 * How a step ended: there is `more` to do, everything that can be done now is (`waiting`, for bytes
 * or for the time in `dueUs`), all is `done`, memory is short (`stopped`), the VM is `gone`.
 */
export type Step = "more" | "waiting" | "done" | "stopped" | "gone";

export interface PrefaultTools {
  readonly pages: GuestPages;
  readonly regions: RegionMap;
  readonly table: PageTable;
  readonly bytes: ImageBytes;
  readonly installer: Installer;
  readonly stats: SessionStats;
  readonly clock: SessionClock;
}

export class SessionPrefault {
  /** Whether the guest may run beside it, so that steps have to be short. */
  readonly isPaced: boolean;
  /** When the next step is due (monotonicUs); Infinity: when bytes have come. */
  dueUs = 0;
  #completes: boolean;
  readonly #tools: PrefaultTools;
  readonly #prefaulter: Prefaulter;
  readonly #stepPages: number;
  /** A bit for each page that is to be installed because the guest is expected to need it. */
  readonly #expected: Uint8Array;
  readonly #pageSizeBytes: number;

  constructor(setup: PrefaultSetup, tools: PrefaultTools) {
    this.isPaced = setup.isPaced;
    this.#completes = setup.completes;
    if (!setup.isPaced) tools.clock.beginAhead();
    this.#tools = tools;
    this.#pageSizeBytes = tools.regions.pageSizeBytes;
    this.#expected = bitsOf(setup.pages, tools.table.pageCount);
    const stepBytes = setup.isPaced ? PACED_STEP_BYTES : FULL_STEP_BYTES;
    this.#stepPages = Math.max(1, stepBytes / this.#pageSizeBytes);
    this.#prefaulter = new Prefaulter({
      regions: tools.regions,
      runs: tools.bytes.runs,
      table: tools.table,
      pages: setup.pages,
      isComplete: setup.completes,
    });
  }

  /** Whether the VM is to be let go when every page is there. */
  get completes(): boolean {
    return this.#completes;
  }

  /** Installs everything else too. */
  complete(): void {
    this.#completes = true;
    this.#prefaulter.complete();
    if (this.dueUs === Number.POSITIVE_INFINITY) this.dueUs = 0;
  }

  /** A fault on such a page says that this is too slow; on another, that it is in the way. */
  expects(page: number): boolean {
    return hasBit(this.#expected, page);
  }

  /** Installs the next pieces, about one step's worth. */
  step(nowUs: number): Step {
    this.dueUs = 0;
    const prefaulter = this.#prefaulter;
    for (let left = this.#stepPages; left > 0; ) {
      if (!prefaulter.next(left)) return this.#endPass(nowUs);
      const outcome = this.#install();
      if (outcome === "absent") {
        const { missingPart, missingEnd } = this.#tools.bytes;
        prefaulter.wait(missingPart, Math.floor(missingEnd / this.#pageSizeBytes));
        continue;
      }
      left -= prefaulter.pageCount;
      const settlement = prefaulter.settle(outcome, this.#tools.pages.doneBytes);
      if (outcome === "installed" || outcome === "partial") this.#count(nowUs);
      if (settlement !== "next") return this.#end(settlement, nowUs);
    }
    return "more";
  }

  settlePart(part: number, isLost: boolean): void {
    this.#prefaulter.settlePart(part, isLost);
    if (this.dueUs === Number.POSITIVE_INFINITY) this.dueUs = 0;
  }

  #endPass(nowUs: number): Step {
    if (!this.#prefaulter.isWaiting && this.#prefaulter.finishPass()) return "done";
    this.dueUs = this.#prefaulter.isWaiting ? Number.POSITIVE_INFINITY : nowUs + REST_US;
    return "waiting";
  }

  #end(settlement: Exclude<PrefaultSettlement, "next">, nowUs: number): Step {
    switch (settlement) {
      case "drain":
        // What can be read is read before the next step; what cannot needs a moment.
        this.dueUs = nowUs + DEFERRED_US;
        return "waiting";
      case "rest":
        this.dueUs = nowUs + REST_US;
        return "waiting";
      case "stop":
        return "stopped";
      case "gone":
        return "gone";
    }
  }

  #install(): Outcome | "absent" {
    const { regions, installer } = this.#tools;
    const { kind, owner, region, firstPage, pageCount } = this.#prefaulter;
    const target = regions.addressOf(region, firstPage);
    return installer.install(kind, owner, firstPage, pageCount, target, true);
  }

  #count(sinceUs: number): void {
    const { stats, clock } = this.#tools;
    const pages = this.#tools.pages.doneBytes / this.#pageSizeBytes;
    if (this.#prefaulter.kind === ActionKind.zero) stats.addZeroed(pages);
    else stats.addInstalled(pages);
    stats.addPrefaulted(pages);
    if (clock.isTracing) this.#trace(pages, sinceUs);
  }

  /** `sinceUs`: when the step began. */
  #trace(pages: number, sinceUs: number): void {
    const nowUs = monotonicUs();
    const { firstPage } = this.#prefaulter;
    this.#tools.clock.note(Trace.ahead, Cause.ahead, firstPage, pages, nowUs, nowUs - sinceUs);
  }
}

function bitsOf({ starts, counts }: PageRuns, pageCount: number): Uint8Array {
  const bits = new Uint8Array(Math.ceil(pageCount / 8));
  for (let run = 0; run < starts.length; run++) {
    const first = Math.min(starts[run]!, pageCount);
    setBits(bits, first, Math.min(first + counts[run]!, pageCount));
  }
  return bits;
}
