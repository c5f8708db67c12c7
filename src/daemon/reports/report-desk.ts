/**
 * Watches the restores of all VMs of a process, and has a report written of each: when its window
 * is over, or its VM. Until then a report is made whenever somebody asks for one.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { FaultlineError } from "../../base/errors.ts";
import type { Session } from "../../engine/session.ts";
import { monotonicUs } from "../../linux/clock.ts";
import type { ReportState, ReportSummary, RestoreReport } from "../../report/restore-report.ts";
import type { FaultTrips } from "../fault-trips.ts";
import type { MemoryHost } from "../memory-host.ts";
import { buildReport, type ReportSubject } from "./build-report.ts";
import { type ReportFiles, summaryOf } from "./report-files.ts";
import { RunDelayWatch, type SampleMoment, unknownDelays } from "./run-delays.ts";
import { readSupply, type SupplyReading } from "./supply-account.ts";

export interface ReportDeskOptions {
  readonly files: ReportFiles;
  readonly memoryHost: Pick<MemoryHost, "cacheStatistics" | "storeStatistics">;
  readonly faultWorkers: number;
  /** What the kernel takes for a fault on this host. */
  readonly trips: FaultTrips;
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
/** After it began: a VM that ends takes along what the scheduler has counted of it. */
const EARLY_SAMPLES_MS = [40, 100, 250];
/** Restores that are looked at in one sample: the others are in the next. */
const MAX_SAMPLED = 64;
/** Many VMs may come, or end, at once: they are looked at together. */
const FRESH_US = 1000;
/** At the end of the process restores that go on are worth so much of its time. */
const CLOSE_MS = 2000;

interface Watched {
  readonly subject: ReportSubject;
  readonly delays: RunDelayWatch;
  readonly from: SupplyReading;
  /** When somebody waited last, as far as samples know. */
  to: SupplyReading;
  markUs: number;
  /** At most at any sample: who has ended by the end has been there. */
  attachedVms: number;
  endReason: string | null;
  isBeingWritten: boolean;
}

/** All numbers of one moment. */
interface Moment {
  readonly sample: SampleMoment;
  readonly supply: SupplyReading;
  readonly attachedVms: number;
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
    const watched: Watched = {
      subject,
      delays,
      from: supply,
      to: supply,
      markUs: 0,
      attachedVms: 1,
      endReason: null,
      isBeingWritten: false,
    };
    this.#watched.set(subject.id, watched);
    this.#timer ??= setInterval(() => this.#sample(), SAMPLE_EVERY_MS).unref();
    for (const afterMs of EARLY_SAMPLES_MS) {
      setTimeout(() => this.#sampleEarly(watched), afterMs).unref();
    }
    const timer = setTimeout(() => void this.#finish(watched, "restored"), windowMs).unref();
    void ended.then((reason) => {
      clearTimeout(timer);
      watched.endReason = reason;
      void this.#finish(watched, "ended");
    });
  }

  /**
   * Of a restore that is watched, as it is now; else the one that is kept. If that had to make
   * room, or cannot be read, what the VM's own account tells.
   */
  async ofAttached(subject: ReportSubject): Promise<RestoreReport> {
    const watched = this.#watched.get(subject.id);
    if (watched !== undefined) return this.#build(watched, "restoring");
    const kept = await this.#options.files.find(subject.id).catch(() => null);
    // Names are used again.
    if (kept !== null && kept.pid === subject.session.pid) return kept;
    const { supply, attachedVms, sample } = this.#look();
    return buildReport(subject, {
      ...{ state: "restored", endReason: null, delays: unknownDelays },
      ...{ supply: { from: supply, to: supply }, attachedVms, nowUs: sample.nowUs },
      ...this.#host,
    });
  }

  /**
   * The last of this name, or the one whose VM connected then.
   * @throws FaultlineError `no-report`, `report-corrupt`
   */
  async named(id: string, connectedAt: string | null): Promise<RestoreReport> {
    const watched = this.#watched.get(id);
    // Its VM may have gone just now: it is being written.
    const live = watched === undefined ? null : this.#build(watched, stateOf(watched));
    if (live !== null && (connectedAt ?? live.connectedAt) === live.connectedAt) return live;
    const kept = await this.#options.files.find(id, connectedAt);
    if (kept !== null) return kept;
    const when = connectedAt === null ? "" : ` whose VM connected at ${connectedAt}`;
    throw new FaultlineError(
      "no-report",
      `No restore report is kept of session ${id.slice(0, 80)}${when}. One begins when its VM ` +
        "connects, and the last ones of each memory are kept: `faultline ps --all` lists the " +
        "sessions, and GET /v1/reports the reports.",
    );
  }

  /**
   * The newest first, those that go on included; of one memory, or of all. The pager has other
   * things to do: it gets to them after each VM, and what is sampled anyway will do.
   */
  async list(memory: string | null): Promise<ReportSummary[]> {
    const live: ReportSummary[] = [];
    for (const [id, watched] of [...this.#watched]) {
      if (memory !== null && watched.subject.memory !== memory) continue;
      await nextTurn();
      if (this.#watched.get(id) !== watched) continue;
      live.push(summaryOf(this.#describe(watched, stateOf(watched))));
    }
    const kept = await this.#options.files.list(memory);
    const keyOf = ({ session, connectedAt }: ReportSummary): string => `${session} ${connectedAt}`;
    // One that was over meanwhile is in both.
    const keys = new Set(kept.map(keyOf));
    return [...live.filter((each) => !keys.has(keyOf(each))), ...kept].sort(newestFirst);
  }

  /** Restores that go on are reported of as they are now: nobody will know them afterwards. */
  async close(): Promise<void> {
    if (this.#timer !== null) clearInterval(this.#timer);
    const deadlineMs = performance.now() + CLOSE_MS;
    // Those whose VMs have ended just now are being written by then.
    await nextTurn();
    for (const watched of [...this.#watched.values()]) {
      if (performance.now() > deadlineMs) break;
      if (!watched.isBeingWritten) await this.#finish(watched, "restoring");
    }
    await this.settled();
  }

  /** What was begun to be written is. */
  async settled(): Promise<void> {
    await nextTurn();
    await this.#options.files.settled();
  }

  async #finish(watched: Watched, state: ReportState): Promise<void> {
    const { id } = watched.subject;
    // Its window and its VM may both end, and another VM may have its name by then.
    if (this.#watched.get(id) !== watched || watched.isBeingWritten) return;
    watched.isBeingWritten = true;
    const report = this.#build(watched, state);
    const path = await this.#options.files.write(report);
    if (this.#watched.get(id) === watched) this.#watched.delete(id);
    if (this.#watched.size === 0 && this.#timer !== null) {
      clearInterval(this.#timer);
      this.#timer = null;
    }
    if (path !== null) this.onWritten(report, path);
  }

  #build(watched: Watched, state: ReportState): RestoreReport {
    this.#sampleOne(watched, this.#look());
    return this.#describe(watched, state);
  }

  /** By the last sample. */
  #describe(watched: Watched, state: ReportState): RestoreReport {
    const { subject, delays, from, to, attachedVms, endReason } = watched;
    return buildReport(subject, {
      ...{ state, endReason, delays: delays.untilMark, supply: { from, to } },
      ...{ attachedVms, ...this.#host },
      nowUs: monotonicUs(),
    });
  }

  get #host(): Pick<ReportDeskOptions, "faultWorkers" | "trips"> {
    const { faultWorkers, trips } = this.#options;
    return { faultWorkers, trips };
  }

  #sample(): void {
    const moment = this.#look();
    for (const [id, watched] of [...this.#watched].slice(0, MAX_SAMPLED)) {
      this.#sampleOne(watched, moment);
      this.#watched.delete(id);
      this.#watched.set(id, watched);
    }
  }

  #sampleEarly(watched: Watched): void {
    if (this.#watched.get(watched.subject.id) === watched) this.#sampleOne(watched, this.#look());
  }

  #sampleOne(watched: Watched, { sample, supply, attachedVms }: Moment): void {
    watched.attachedVms = Math.max(watched.attachedVms, attachedVms);
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
    let attachedVms = 0;
    for (const { workerThreadId, stats } of this.#options.sessions()) {
      attachedVms += 1;
      const faults = (faultsOfWorkers.get(workerThreadId) ?? 0) + stats.counters().faults;
      faultsOfWorkers.set(workerThreadId, faults);
    }
    const { memoryHost } = this.#options;
    const supply = readSupply(memoryHost.cacheStatistics(), memoryHost.storeStatistics());
    this.#moment = { sample: { nowUs, faultsOfWorkers }, supply, attachedVms };
    return this.#moment;
  }
}

function stateOf({ endReason }: Watched): ReportState {
  return endReason === null ? "restoring" : "ended";
}

function newestFirst(left: ReportSummary, right: ReportSummary): number {
  return left.connectedAt < right.connectedAt ? 1 : -1;
}
