/**
 * How long one VM's threads, and its fault worker for its sake, have waited for a CPU during its
 * restore: samples of what the scheduler counts. Taken by the main thread, a few small reads each.
 */
import type { Session } from "../../engine/session.ts";
import { runDelayUs, threadsOf } from "../../linux/run-delay.ts";
import type { CpuDelays } from "../../report/carve.ts";

/** VMMs with more threads than this have them for their devices. */
const MAX_THREADS = 128;

/** What a sample needs to know of the moment: made once for all VMs. */
export interface SampleMoment {
  readonly nowUs: number;
  /** By thread of a fault worker: all faults of its sessions, ever. */
  readonly faultsOfWorkers: ReadonlyMap<number, number>;
}

/** Since the first sample; null: the kernel does not tell. */
export type RunDelays = CpuDelays;

export const unknownDelays: RunDelays = { workerUs: null, guestUs: null };

interface Sample extends RunDelays {
  readonly atUs: number;
}

export class RunDelayWatch {
  readonly #session: Session;
  /** Of each thread of the VM, when it was first seen. */
  readonly #firstUs = new Map<number, number>();
  #guestUs: number | null = null;
  #workerUs: number | null = null;
  #lastWorkerUs: number | null = null;
  #lastFaults: number;
  #lastOfWorker: number;
  #last: Sample | null = null;
  #atMark: RunDelays = unknownDelays;

  constructor(session: Session, moment: SampleMoment) {
    this.#session = session;
    this.#lastFaults = session.stats.counters().faults;
    this.#lastOfWorker = moment.faultsOfWorkers.get(session.workerThreadId) ?? 0;
    this.sample(moment);
  }

  /** Up to the last moment at which anybody waited. */
  get untilMark(): RunDelays {
    return this.#atMark;
  }

  sample(moment: SampleMoment): void {
    this.#sampleGuest();
    this.#sampleWorker(moment);
    const sample = { atUs: moment.nowUs, workerUs: this.#workerUs, guestUs: this.#guestUs };
    const { markUs } = this.#session.account;
    const from = this.#last;
    this.#last = sample;
    if (from === null) {
      this.#atMark = sample;
    } else if (markUs > from.atUs) {
      // What came after the last wait is no part of the restore.
      const share = Math.min(1, (markUs - from.atUs) / Math.max(1, sample.atUs - from.atUs));
      this.#atMark = {
        workerUs: between(from.workerUs, sample.workerUs, share),
        guestUs: between(from.guestUs, sample.guestUs, share),
      };
    }
  }

  /** Of the thread that has waited longest: the others wait at the same time. */
  #sampleGuest(): void {
    const isFirst = this.#last === null;
    for (const thread of threadsOf(this.#session.pid).slice(0, MAX_THREADS)) {
      const delayUs = runDelayUs(this.#session.pid, thread);
      if (delayUs === null) continue;
      // One that began meanwhile has waited for this restore only.
      if (!this.#firstUs.has(thread)) this.#firstUs.set(thread, isFirst ? delayUs : 0);
      const waitedUs = delayUs - this.#firstUs.get(thread)!;
      this.#guestUs = Math.max(this.#guestUs ?? 0, waitedUs);
    }
  }

  /** Its fault worker waits for all VMs that it has: each is due what it has faulted. */
  #sampleWorker({ faultsOfWorkers }: SampleMoment): void {
    const { workerThreadId, stats } = this.#session;
    const delayUs = runDelayUs("self", workerThreadId);
    const { faults } = stats.counters();
    const ofWorker = faultsOfWorkers.get(workerThreadId) ?? 0;
    const own = faults - this.#lastFaults;
    const all = Math.max(own, ofWorker - this.#lastOfWorker);
    if (delayUs !== null) {
      const waitedUs = this.#lastWorkerUs === null ? 0 : delayUs - this.#lastWorkerUs;
      this.#workerUs = (this.#workerUs ?? 0) + (all === 0 ? 0 : (waitedUs * own) / all);
    }
    this.#lastWorkerUs = delayUs;
    this.#lastFaults = faults;
    this.#lastOfWorker = ofWorker;
  }
}

function between(from: number | null, to: number | null, share: number): number | null {
  return from === null || to === null ? to : from + (to - from) * share;
}
