/**
 * What came of the actions of one VM's plans, written down: counted, recorded for the next restore,
 * charged to the pages that were waited for, and traced.
 */
import type { Outcome } from "../base/outcome.ts";
import { Cause } from "../base/restore-causes.ts";
import { ActionKind, type ActionList } from "../pager/actions.ts";
import type { DemandRecorder } from "./demand-log.ts";
import type { SessionClock } from "./session-clock.ts";
import type { SessionStats } from "./session-stats.ts";
import { Trace } from "./trace-ring.ts";
import type { NeedVerdict } from "./worker-tools.ts";

export interface LedgerParts {
  readonly stats: SessionStats;
  readonly clock: SessionClock;
  /** Null: nobody wants to know what a restore needs. */
  readonly recorder: DemandRecorder | null;
}

export class Ledger {
  readonly #stats: SessionStats;
  readonly #clock: SessionClock;
  readonly #recorder: DemandRecorder | null;
  /** Not woken yet: whose faults are of this turn, and who waited for a part. */
  #installs = 0;
  #arrivals = 0;

  constructor({ stats, clock, recorder }: LedgerParts) {
    this.#stats = stats;
    this.#clock = clock;
    this.#recorder = recorder;
  }

  /** `pages`: as many as were installed, from the action's first on. */
  count(actions: ActionList, index: number, outcome: Outcome, pages: number, nowUs: number): void {
    if (outcome === "alreadyPresent") this.#stats.addAlreadyPresent();
    else if (outcome === "deferred") {
      this.#stats.addDeferred();
      this.#clock.putOff();
      this.#note(Trace.deferred, Cause.deferred, actions, index, nowUs);
    }
    if (outcome !== "installed" && outcome !== "partial") return;
    if (actions.kinds[index] === ActionKind.zero) this.#stats.addZeroed(pages);
    else this.#stats.addInstalled(pages);
    if (actions.aheadPages[index]! > 0) this.#countAhead(actions, index, pages, nowUs);
  }

  /** `arrivedSinceUs`: since when its bytes were waited for; 0: they were there. */
  charge(
    actions: ActionList,
    index: number,
    pages: number,
    arrivedSinceUs: number,
    nowUs: number,
  ): void {
    const kind = actions.kinds[index] === ActionKind.zero ? Trace.zero : Trace.copy;
    this.#clock.charge(kind, actions.firstPages[index]!, pages, arrivedSinceUs, nowUs);
  }

  /** Pages were installed whose threads are not woken yet. */
  installed(isArrival: boolean): void {
    if (isArrival) this.#arrivals += 1;
    else this.#installs += 1;
  }

  /**
   * For the threads of what was installed the wait is over: its installation began at `sinceUs`,
   * the turn at `turnUs`, and at `arrivedUs` the part was asked for that has begun the turn.
   */
  woken(sinceUs: number, turnUs: number, arrivedUs: number, nowUs: number): void {
    this.#clock.woken(nowUs);
    const installs = this.#installs + this.#arrivals;
    // None: a large copy was timed a moment ago, together with what is woken only now.
    if (installs === 0) return;
    this.#stats.addInstallTime((nowUs - sinceUs) / installs, installs);
    this.#stats.addLatency(nowUs - turnUs, this.#installs);
    this.#installs = 0;
    if (this.#arrivals === 0) return;
    this.#stats.addLatency(nowUs - arrivedUs, this.#arrivals);
    this.#arrivals = 0;
  }

  /** An action has to wait for its bytes, or for the turn to ask for them. */
  park(actions: ActionList, index: number, verdict: NeedVerdict, nowUs: number): void {
    const pages = actions.pageCounts[index]!;
    if (verdict === "asked") this.#stats.addAwaited(pages);
    else if (verdict === "heldBack") this.#stats.addHeldBack(pages);
    else this.#stats.addCrowdedOut(pages);
    const cause = verdict === "asked" ? Cause.fetching : Cause.room;
    this.#note(Trace.park, cause, actions, index, nowUs);
  }

  /** An action's page cannot be had. */
  lose(actions: ActionList, index: number, nowUs: number): void {
    this.#note(Trace.lost, Cause.lost, actions, index, nowUs);
  }

  /** What a scan was given ahead counts as demanded: it would have been, in a moment. */
  #countAhead(actions: ActionList, index: number, pages: number, nowUs: number): void {
    const demanded = actions.pageCounts[index]! - actions.aheadPages[index]!;
    if (pages > demanded) this.#stats.addStreamed(pages - demanded);
    if (this.#recorder === null) return;
    for (let page = demanded; page < pages; page++) {
      this.#recorder.record(actions.firstPages[index]! + page, nowUs);
    }
  }

  #note(kind: number, cause: number, actions: ActionList, index: number, nowUs: number): void {
    this.#clock.note(kind, cause, actions.firstPages[index]!, actions.pageCounts[index]!, nowUs, 0);
  }
}
