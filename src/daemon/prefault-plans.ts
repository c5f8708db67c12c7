/**
 * What is installed ahead of the next VM, made from the working set. Making it takes some
 * milliseconds, for which no VM has to wait: it is made beforehand, and anew, in the background,
 * some time after a VM has had it, from what the set is then.
 */
import { randomInt } from "node:crypto";
import { formatBytes, SMALL_PAGE_BYTES } from "../base/units.ts";
import type { WorkingSet } from "../base/working-set.ts";
import { type PrefaultRuns, prefaultRuns } from "../pager/prefault-runs.ts";
import { type HostState, hostState } from "./host-state.ts";
import type { Logger } from "./log.ts";
import type { PrefaultMode } from "./prefault-mode.ts";
import type { WorkingSetKeeper } from "./working-set-keeper.ts";

export interface PrefaultPlansOptions {
  /** Null: nothing is known. */
  readonly keeper: WorkingSetKeeper | null;
  readonly log: Logger;
}

/**
 * One block of 64 KiB in so many is left to demand, to see whether the set is still right; of large
 * sets some 16 blocks, which say as much.
 */
const HOLD_OUT_EVERY = 64;
const HELD_OUT_BLOCKS = 16;
const PAGES_PER_BLOCK = 16;
/** Needed in three of four restores: what is worth it when CPUs are busy. */
const LIKELY = 192;
/** Made anew at most so often, */
const REFRESH_MS = 5000;
/** and not while a VM is being restored: that takes the CPU from its fault worker. */
const REFRESH_AFTER_MS = 1000;

export const NO_RUNS: PrefaultRuns = {
  starts: new Uint32Array(),
  counts: new Uint32Array(),
  heldOut: new Uint32Array(),
};

interface Plan {
  readonly runs: PrefaultRuns;
  readonly madeMs: number;
}

export class PrefaultPlans {
  readonly #options: PrefaultPlansOptions;
  /** By page size, least need, and whether a sample is held out. */
  readonly #plans = new Map<string, Plan>();
  readonly #refreshing = new Set<string>();

  constructor(options: PrefaultPlansOptions) {
    this.#options = options;
  }

  /** Makes what most VMs will need. Returns it. */
  prepare(mode: PrefaultMode): PrefaultRuns {
    const set = this.#options.keeper?.current ?? null;
    if (set === null || mode === "off") return NO_RUNS;
    return this.#planOf(set, SMALL_PAGE_BYTES, 0, mode !== "all").runs;
  }

  for(pageSizeBytes: number, mode: PrefaultMode): PrefaultRuns {
    const { keeper, log } = this.#options;
    const set = keeper?.current ?? null;
    if (set === null || mode === "off") return NO_RUNS;
    const host = hostState();
    const leastNeed = host.areCpusBusy ? LIKELY : 0;
    const { runs } = this.#planOf(set, pageSizeBytes, leastNeed, mode !== "all");
    if (mode === "all") return runs;
    const kept = within(runs, Math.floor(host.spareBytes / pageSizeBytes));
    if (kept !== runs)
      log.info(shrunk(host, kept, pageSizeBytes), "Memory is short: prefaults less");
    return kept;
  }

  /** `hasSample`: completion installs a sample too, so that nobody could see it was not needed. */
  #planOf(set: WorkingSet, pageSizeBytes: number, leastNeed: number, hasSample: boolean): Plan {
    const key = `${pageSizeBytes}/${leastNeed}/${hasSample}`;
    const make = (from: WorkingSet): Plan => {
      const holdOut = hasSample ? sampleOf(from) : null;
      const runs = prefaultRuns(from, { pageSizeBytes, leastNeed, holdOut });
      const plan = { runs, madeMs: performance.now() };
      this.#plans.set(key, plan);
      return plan;
    };
    const known = this.#plans.get(key);
    if (known === undefined) return make(set);
    const isOld = performance.now() - known.madeMs > REFRESH_MS;
    if (isOld && !this.#refreshing.has(key)) {
      this.#refreshing.add(key);
      const refresh = (): void => {
        this.#refreshing.delete(key);
        make(this.#options.keeper?.current ?? set);
      };
      setTimeout(refresh, REFRESH_AFTER_MS).unref();
    }
    return known;
  }
}

function sampleOf(set: WorkingSet): { every: number; salt: number } {
  const blocks = set.pages.length / PAGES_PER_BLOCK;
  const every = Math.max(HOLD_OUT_EVERY, Math.ceil(blocks / HELD_OUT_BLOCKS));
  return { every, salt: randomInt(2 ** 32) };
}

/** The first runs, as far as they fit. */
function within(runs: PrefaultRuns, budgetPages: number): PrefaultRuns {
  let pages = 0;
  let kept = 0;
  for (; kept < runs.counts.length && pages + runs.counts[kept]! <= budgetPages; kept++) {
    pages += runs.counts[kept]!;
  }
  if (kept === runs.counts.length) return runs;
  return {
    starts: runs.starts.slice(0, kept),
    counts: runs.counts.slice(0, kept),
    heldOut: runs.heldOut,
  };
}

function shrunk(
  { spareBytes }: HostState,
  runs: PrefaultRuns,
  pageSizeBytes: number,
): Record<string, string> {
  const pages = runs.counts.reduce((sum, count) => sum + count, 0);
  return { memory: formatBytes(pages * pageSizeBytes), spare: formatBytes(spareBytes) };
}
