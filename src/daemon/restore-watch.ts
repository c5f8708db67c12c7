/**
 * What is learnt from the restores of one memory, and done for the next ones: records what a VM
 * demands, has what earlier ones demanded installed ahead, and judges whether that helped.
 */
import { formatBytes } from "../base/units.ts";
import type { Engine } from "../engine/engine.ts";
import type { PrefaultReport, Session } from "../engine/session.ts";
import type { PrefaultSetup } from "../engine/wire.ts";
import type { PrefaultRuns } from "../pager/prefault-runs.ts";
import {
  installedAhead,
  isPlanWrong,
  type PrefaultVerdict,
  prefaultVerdict,
} from "../pager/prefault-verdict.ts";
import type { PageRuns } from "../pager/prefaulter.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import { collapseFull } from "./collapse.ts";
import type { Logger } from "./log.ts";
import type { PrefaultMode } from "./prefault-mode.ts";
import { PrefaultPlans } from "./prefault-plans.ts";
import { formatUs } from "./session-report.ts";
import type { WorkingSetKeeper } from "./working-set-keeper.ts";

export interface RestoreWatchOptions {
  /** Null: no place to keep what is learnt. */
  readonly keeper: WorkingSetKeeper | null;
  /** Make huge pages of what was installed ahead. */
  readonly collapse: boolean;
  readonly engine: Engine;
  readonly log: Logger;
}

/** How one VM is to be restored. */
export interface RestoreMode {
  readonly mode: PrefaultMode;
  /** How long a restore lasts: what is demanded later is not recorded. 0: nothing is. */
  readonly recordForMs: number;
}

/** How often a running prefault is looked at. */
const LOOK_EVERY_MS = 20;

/** What is done for one VM: goes to the engine with it, and comes back to `follow`. */
export interface RestorePlan extends RestoreMode {
  readonly prefault: PrefaultSetup | null;
  readonly recordForUs?: number;
  readonly runs: PrefaultRuns;
}

export class RestoreWatch {
  /** Called when nothing more is installed ahead of a VM. */
  onPrefaulted: (session: Session, report: PrefaultReport) => void = () => {};
  readonly #options: RestoreWatchOptions;
  readonly #prefaults: PrefaultPlans;
  readonly #plans = new WeakMap<Session, RestorePlan>();

  constructor(options: RestoreWatchOptions) {
    this.#options = options;
    this.#prefaults = new PrefaultPlans(options);
  }

  /** What earlier restores needed, and makes the first VM's handshake shorter. */
  prepare(mode: PrefaultMode): PrefaultRuns {
    return this.#prefaults.prepare(mode);
  }

  planFor(regions: RegionMap, { mode, recordForMs }: RestoreMode): RestorePlan {
    const { keeper } = this.#options;
    const runs = this.#prefaults.for(regions.pageSizeBytes, mode);
    const isNothing = runs.starts.length === 0 && mode !== "all";
    return {
      ...{ mode, recordForMs, runs },
      prefault: isNothing
        ? null
        : {
            pages: { starts: runs.starts, counts: runs.counts },
            isPaced: mode !== "before-resume",
            completes: mode === "all",
          },
      ...(keeper === null || recordForMs === 0 ? {} : { recordForUs: recordForMs * 1000 }),
    };
  }

  /** Until the VM's restore is over, and recorded. `log`: for the lines of this VM. */
  follow(session: Session, plan: RestorePlan, log: Logger = this.#options.log): void {
    const { collapse } = this.#options;
    const { mode, recordForMs } = plan;
    this.#plans.set(session, plan);
    const stopLooking = this.#look(session, plan, log);
    session.onPrefaulted = (report) => {
      stopLooking();
      tellPrefaulted(session, plan, report, log);
      this.onPrefaulted(session, report);
      if (collapse && report.end === "done") void collapseFull(session, log);
    };
    if (plan.prefault === null && mode === "before-resume") {
      // Whoever waits for it to resume the VM need not wait.
      queueMicrotask(() => this.onPrefaulted(session, { end: "done", afterUs: 0 }));
    }
    let isRecorded = false;
    const finish = (): void => {
      stopLooking();
      clearTimeout(timer);
      if (!isRecorded) this.#record(session, plan);
      isRecorded = true;
    };
    const timer = setTimeout(finish, recordForMs);
    void session.ended.then(finish);
  }

  /** What was done for a VM; null: nobody follows it. */
  planOf(session: Session): RestorePlan | null {
    return this.#plans.get(session) ?? null;
  }

  /** What was installed ahead of a VM, and what came of it, as log fields. */
  describe(session: Session): Record<string, string | number> {
    const verdict = this.verdict(session);
    if (verdict === null) return {};
    const { prefaultedPages, usedPages, wastedPages, latePages, savedUs } = verdict;
    return {
      prefaulted: prefaultedPages,
      late: latePages,
      ...(usedPages === null ? {} : { used: usedPages, wasted: wastedPages! }),
      ...(savedUs === null ? {} : { saved: formatUs(savedUs) }),
    };
  }

  /** Null: nothing was, or nobody watched. */
  verdict(session: Session): PrefaultVerdict | null {
    const plan = this.#plans.get(session);
    const { prefaultedPages } = session.stats.counters();
    if (plan === undefined || prefaultedPages === 0 || session.demandLog === null) return null;
    return prefaultVerdict(plan.runs, {
      demanded: session.demandLog.pages(),
      prefaultedPages,
      faultUs: session.stats.latencyUs(0.5),
    });
  }

  /** While a VM is prefaulted: whether it demands something else. Returns what ends it. */
  #look(session: Session, { prefault, runs, mode }: RestorePlan, log: Logger): () => void {
    const { engine } = this.#options;
    const { demandLog, pid } = session;
    if (prefault === null || demandLog === null || mode === "all") return () => {};
    let looked = 0;
    const timer = setInterval(() => {
      // Looking costs some milliseconds: only when there is as much again to judge by.
      if (demandLog.length < 2 * looked) return;
      looked = demandLog.length;
      if (!isPlanWrong(runs, demandLog.pages())) return;
      log.info({ pid }, "Stops to prefault: the guest demands other pages than restores before");
      clearInterval(timer);
      engine.cancelPrefault(session);
    }, LOOK_EVERY_MS);
    return () => clearInterval(timer);
  }

  #record(session: Session, plan: RestorePlan): void {
    const { keeper } = this.#options;
    const { demandLog, regions } = session;
    if (keeper === null || demandLog === null) return;
    const pages = demandLog.pages().slice();
    const isWhole = pages.length < demandLog.capacity;
    const ahead = isWhole
      ? installedAhead(plan.runs, pages, session.pageTable)
      : everything(regions.pageLimit);
    keeper.add({
      sizeBytes: regions.totalBytes,
      pageSizeBytes: regions.pageSizeBytes,
      pages,
      timesUs: demandLog.timesUs().slice(0, pages.length),
      aheadStarts: ahead.starts,
      aheadCounts: ahead.counts,
    });
  }
}

function tellPrefaulted(
  session: Session,
  plan: RestorePlan,
  { end, afterUs }: PrefaultReport,
  log: Logger,
): void {
  const { prefaultedPages } = session.stats.counters();
  const fields = {
    pid: session.pid,
    pages: prefaultedPages,
    memory: formatBytes(prefaultedPages * session.regions.pageSizeBytes),
    after: formatUs(afterUs),
  };
  if (end === "stopped") {
    log.warn(fields, "Stopped to prefault a VM: memory is short");
  } else if (plan.prefault?.completes === true && end === "done") {
    log.info(fields, "A VM has all of its memory, and needs no handler any more");
  } else {
    log.info({ ...fields, end }, "Prefaulted a VM");
  }
}

/** Of a log that was full nobody can say what was not demanded: so nothing fades by it. */
function everything(pageCount: number): PageRuns {
  return { starts: Uint32Array.of(0), counts: Uint32Array.of(pageCount) };
}
