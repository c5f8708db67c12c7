/**
 * Watches the restores of all VMs of a process, and has a report written of each: when its window
 * is over, or its VM. Until then a report is made whenever somebody asks for one.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { FaultlineError } from "../../base/errors.ts";
import type { Session } from "../../engine/session.ts";
import { monotonicUs } from "../../linux/clock.ts";
import type { ReportState, ReportSummary, RestoreReport } from "../../report/restore-report.ts";
import type { MemoryHost } from "../memory-host.ts";
import { buildReport, type ReportSubject } from "./build-report.ts";
import { type ReportFiles, summaryOf } from "./report-files.ts";
import { RunDelayWatch, type SampleMoment } from "./run-delays.ts";
import { readSupply, type SupplyReading } from "./supply-account.ts";

export interface ReportDeskOptions {
  readonly files: ReportFiles;
  readonly memoryHost: Pick<MemoryHost, "cacheStatistics" | "storeStatistics">;
  readonly faultWorkers: number;
  /** All that are attached, watched or not. */
  readonly sessions: () => Iterable<Session>;
}

/** One restore to be watched. */
export interface Restore {
  readonly subject: ReportSubject;
  /** How long from now on it is one. */
  readonly windowMs: number;
  /** When the VM is gone, with why; never, if this process goes first. */
  readonly ended: Promise<string>;
}

/** However short what is learnt from is: a slow restore is to be seen to its end. */
export const LEAST_WINDOW_MS = 10_000;
const SAMPLE_EVERY_MS = 500;
/** Restores that are looked at in one sample: the others are in the next. */
const MAX_SAMPLED = 64;
/** Many VMs may come, or end, at once: they are looked at together. */
const FRESH_US = 1000;

interface Watched {
  readonly subject: ReportSubject;
  readonly delays: RunDelayWatch;
  readonly from: SupplyReading;
  /** When somebody waited last, as far as samples know. */
  to: SupplyReading;
  markUs: number;
}

/** All numbers of one moment. */
interface Moment {
  readonly sample: SampleMoment;
  readonly supply: SupplyReading;
}

export class ReportDesk {
  /** Called with the path of each report that was written. */
  onWritten: (report: RestoreReport, path: string) => void = () => {};
  readonly #options: ReportDeskOptions;
  /** By session, the one that was sampled longest ago first. */
  readonly #watched = new Map<string, Watched>();
  #timer: NodeJS.Timeout | null = null;
  #moment: Moment | null = null;

  constructor(options: ReportDeskOptions) {
    this.#options = options;
  }

  /** Right after it was attached. */
  begin({ subject, windowMs, ended }: Restore): void {
    const { sample, supply } = this.#look();
    const delays = new RunDelayWatch(subject.session, sample);
    const watched = { subject, delays, from: supply, to: supply, markUs: 0 };
    this.#watched.set(subject.id, watched);
    this.#timer ??= setInterval(() => this.#sample(), SAMPLE_EVERY_MS).unref();
    const timer = setTimeout(() => void this.#finish(watched, "restored", null), windowMs).unref();
    void ended.then((reason) => {
      clearTimeout(timer);
      void this.#finish(watched, "ended", reason);
    });
  }

  /**
   * Of a restore that is watched, as it is now; else the one that is kept.
   * @throws FaultlineError `no-report`
   */
  async report(id: string): Promise<RestoreReport> {
    const watched = this.#watched.get(id);
    if (watched !== undefined) return this.#build(watched, "restoring", null);
    const kept = await this.#options.files.find(id);
    if (kept !== null) return kept;
    throw new FaultlineError(
      "no-report",
      `No restore report is kept of session ${id.slice(0, 80)}. One begins when its VM connects, ` +
        "and the last ones of each memory are kept: `faultline ps --all` lists the sessions, and " +
        "GET /v1/reports the reports.",
    );
  }

  /** The newest first, those that go on included; of one memory, or of all. */
  async list(memory: string | null): Promise<ReportSummary[]> {
    const live = [...this.#watched.values()]
      .filter(({ subject }) => memory === null || subject.memory === memory)
      .map((watched) => summaryOf(this.#build(watched, "restoring", null)));
    const ids = new Set(live.map(({ session }) => session));
    const kept = await this.#options.files.list(memory);
    return [...live, ...kept.filter(({ session }) => !ids.has(session))];
  }

  /** Writes what was begun to be written. */
  async close(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    // Those whose VMs have ended just now have been begun by then.
    await nextTurn();
    await this.#options.files.settled();
  }

  async #finish(watched: Watched, state: ReportState, reason: string | null): Promise<void> {
    const { id } = watched.subject;
    // Its window and its VM may both end, and another VM may have its name by then.
    if (this.#watched.get(id) !== watched) return;
    const report = this.#build(watched, state, reason);
    const path = await this.#options.files.write(report);
    if (this.#watched.get(id) === watched) this.#watched.delete(id);
    if (this.#watched.size === 0 && this.#timer !== null) {
      clearInterval(this.#timer);
      this.#timer = null;
    }
    if (path !== null) this.onWritten(report, path);
  }

  #build(watched: Watched, state: ReportState, endReason: string | null): RestoreReport {
    this.#sampleOne(watched, this.#look());
    const { subject, delays, from, to } = watched;
    return buildReport(subject, {
      ...{ state, endReason, delays: delays.untilMark, supply: { from, to } },
      faultWorkers: this.#options.faultWorkers,
      attachedVms: [...this.#options.sessions()].length,
      nowUs: monotonicUs(),
    });
  }

  #sample(): void {
    const moment = this.#look();
    for (const [id, watched] of [...this.#watched].slice(0, MAX_SAMPLED)) {
      this.#sampleOne(watched, moment);
      this.#watched.delete(id);
      this.#watched.set(id, watched);
    }
  }

  #sampleOne(watched: Watched, { sample, supply }: Moment): void {
    const { markUs } = watched.subject.session.account;
    watched.delays.sample(sample);
    if (markUs <= watched.markUs) return;
    watched.markUs = markUs;
    watched.to = supply;
  }

  /** The same for all who look within a moment. */
  #look(): Moment {
    const nowUs = monotonicUs();
    const known = this.#moment;
    if (known !== null && nowUs - known.sample.nowUs < FRESH_US) return known;
    const faultsOfWorkers = new Map<number, number>();
    for (const { workerThreadId, stats } of this.#options.sessions()) {
      const faults = (faultsOfWorkers.get(workerThreadId) ?? 0) + stats.counters().faults;
      faultsOfWorkers.set(workerThreadId, faults);
    }
    const { memoryHost } = this.#options;
    const supply = readSupply(memoryHost.cacheStatistics(), memoryHost.storeStatistics());
    this.#moment = { sample: { nowUs, faultsOfWorkers }, supply };
    return this.#moment;
  }
}
