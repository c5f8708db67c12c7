/**
 * Whether installing pages ahead has helped a VM. Nobody can see which of them the guest used: a
 * page that is there does not fault. But a sample was held back, chosen by chance; what share of
 * that was demanded is what share of the rest was used. PURE.
 */
import { PageState, type PageTable } from "./page-table.ts";
import type { PageRuns } from "./prefaulter.ts";

export interface PrefaultPlan extends PageRuns {
  /** Held back on purpose; ascending. */
  readonly heldOut: Uint32Array;
}

export interface PrefaultEvidence {
  /** Pages that were demanded, each once. */
  readonly demanded: Uint32Array;
  readonly prefaultedPages: number;
  /** What a guest waits for one page on demand, in microseconds. */
  readonly faultUs: number;
}

export interface PrefaultVerdict {
  readonly prefaultedPages: number;
  /** By what the sample says; null: there was none. */
  readonly usedPages: number | null;
  readonly wastedPages: number | null;
  /** In the plan, but demanded before their turn came. */
  readonly latePages: number;
  /** Demanded, and not in the plan at all. */
  readonly unplannedPages: number;
  /** What the guest would have waited for the used ones; null without a sample. */
  readonly savedUs: number | null;
}

export function prefaultVerdict(plan: PrefaultPlan, evidence: PrefaultEvidence): PrefaultVerdict {
  const { demanded, prefaultedPages, faultUs } = evidence;
  const planned = new PlannedPages(plan);
  let latePages = 0;
  let sampledPages = 0;
  for (const page of demanded) {
    if (planned.isHeldOut(page)) sampledPages += 1;
    else if (planned.has(page)) latePages += 1;
  }
  const heldOut = plan.heldOut.length;
  const usedPages = heldOut === 0 ? null : Math.round((prefaultedPages * sampledPages) / heldOut);
  return {
    prefaultedPages,
    usedPages,
    wastedPages: usedPages === null ? null : prefaultedPages - usedPages,
    latePages,
    unplannedPages: demanded.length - latePages - sampledPages,
    savedUs: usedPages === null ? null : usedPages * faultUs,
  };
}

/** So many demanded pages are needed to believe that a plan is wrong. */
const ENOUGH_DEMAND = 128;
/** Of these, the share that the plan has to know. A right one knows some 90 %. */
const LEAST_SHARE = 0.1;

/** While it runs: the guest asks for other pages than those that the plan expects. */
export function isPlanWrong(plan: PrefaultPlan, demanded: Uint32Array): boolean {
  if (demanded.length < ENOUGH_DEMAND) return false;
  const planned = new PlannedPages(plan);
  const known = demanded.reduce((sum, page) => sum + (planned.knows(page) ? 1 : 0), 0);
  return known < demanded.length * LEAST_SHARE;
}

/** The runs of a plan that were installed ahead, as far as the page table and the demand tell. */
export function installedAhead(plan: PageRuns, demanded: Uint32Array, table: PageTable): PageRuns {
  const asked = new Set(demanded);
  const starts: number[] = [];
  const counts: number[] = [];
  for (let run = 0; run < plan.starts.length; run++) {
    const end = Math.min(plan.starts[run]! + plan.counts[run]!, table.pageCount);
    let first = -1;
    for (let page = plan.starts[run]!; page <= end; page++) {
      const isAhead = page < end && table.get(page) !== PageState.missing && !asked.has(page);
      if (isAhead && first === -1) first = page;
      if (isAhead || first === -1) continue;
      starts.push(first);
      counts.push(page - first);
      first = -1;
    }
  }
  return { starts: Uint32Array.from(starts), counts: Uint32Array.from(counts) };
}

/** Looks pages up in a plan whose runs are in the order of need. */
class PlannedPages {
  readonly #order: Uint32Array;
  readonly #plan: PrefaultPlan;

  constructor(plan: PrefaultPlan) {
    this.#plan = plan;
    this.#order = Uint32Array.from(plan.starts.keys()).sort(
      (left, right) => plan.starts[left]! - plan.starts[right]!,
    );
  }

  knows(page: number): boolean {
    return this.isHeldOut(page) || this.has(page);
  }

  isHeldOut(page: number): boolean {
    const { heldOut } = this.#plan;
    const at = lastAtMost(heldOut.length, page, (index) => heldOut[index]!);
    return at >= 0 && heldOut[at] === page;
  }

  has(page: number): boolean {
    const { starts, counts } = this.#plan;
    const at = lastAtMost(starts.length, page, (index) => starts[this.#order[index]!]!);
    if (at < 0) return false;
    const run = this.#order[at]!;
    return page < starts[run]! + counts[run]!;
  }
}

/** The last of `length` ascending values that is at most `limit`; -1: none is. */
function lastAtMost(length: number, limit: number, valueAt: (index: number) => number): number {
  let low = 0;
  let high = length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    if (valueAt(middle) <= limit) low = middle + 1;
    else high = middle;
  }
  return low - 1;
}
