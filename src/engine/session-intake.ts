/**
 * What a VM's userfaultfd has to tell, on its way into the planner: faults, memory that was given
 * back, and writers whose protection is lifted at once.
 */

import { Cause } from "../base/restore-causes.ts";
import { formatHex } from "../base/units.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import { monotonicUs } from "../linux/clock.ts";
import type { Planner } from "../pager/planner.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { EventBatch } from "../uffd/events.ts";
import type { Userfaultfd } from "../uffd/userfaultfd.ts";
import type { Demand } from "./demand.ts";
import type { DirtyTracker } from "./dirty-tracker.ts";
import type { Intake, Rest } from "./intake.ts";
import type { SessionClock } from "./session-clock.ts";
import type { SessionStats } from "./session-stats.ts";
import { Trace } from "./trace-ring.ts";
import type { WorkerTools } from "./worker-tools.ts";

/** Reads per turn: 16 × 64 messages. A guest that floods REMOVEs waits for its next turn. */
const MAX_READS_PER_TURN = 16;

export interface IntakeParts {
  readonly survivalId: number;
  readonly uffd: Userfaultfd;
  readonly regions: RegionMap;
  readonly planner: Planner;
  /** Null: nobody wants to know what the VM writes. */
  readonly tracker: DirtyTracker | null;
  readonly stats: SessionStats;
  readonly demand: Demand;
  readonly clock: SessionClock;
  readonly tools: WorkerTools;
}

export class SessionIntake implements Intake {
  failure = "";
  nowUs = 0;
  readonly #parts: IntakeParts;
  readonly #uffd: Userfaultfd;
  readonly #planner: Planner;
  readonly #tracker: DirtyTracker | null;
  readonly #stats: SessionStats;
  readonly #tools: WorkerTools;
  readonly #survivalId: number;

  constructor(parts: IntakeParts) {
    this.#parts = parts;
    this.#uffd = parts.uffd;
    this.#planner = parts.planner;
    this.#tracker = parts.tracker;
    this.#stats = parts.stats;
    this.#tools = parts.tools;
    this.#survivalId = parts.survivalId;
  }

  notify(): void {
    // There is one place to look at, and it is looked at in any case.
  }

  rest(): Rest {
    return "idle";
  }

  drain(nowUs: number): boolean {
    this.nowUs = nowUs;
    const tracker = this.#tracker;
    if (tracker === null) return this.#read();
    tracker.beginReading();
    const hasMore = this.#read();
    tracker.endReading();
    if (tracker.queuedPages > 0) this.#lift(tracker);
    return hasMore || tracker.queuedPages > 0;
  }

  /** Lets writers go on whose pages are recorded. */
  #lift(tracker: DirtyTracker): void {
    const sinceUs = this.nowUs;
    if (tracker.lift(this.#uffd) === "deferred") this.#stats.addDeferred();
    this.nowUs = monotonicUs();
    this.#stats.addUnprotected(tracker.liftedPages);
    this.#stats.addLatency(this.nowUs - sinceUs, tracker.liftedPages);
  }

  /** Reads into the planner. True if the bound was reached before the end. */
  #read(): boolean {
    const { batch, survivor } = this.#tools;
    for (let read = 0; read < MAX_READS_PER_TURN; read++) {
      if (survivor !== null) survivor.begin(this.#survivalId);
      const count = this.#uffd.drain(batch);
      for (let index = 0; index < count; index++) this.#take(batch, index);
      // A short read has emptied both of the kernel's queues, faults and events.
      if (count < batch.capacity) return false;
    }
    return true;
  }

  #take(batch: EventBatch, index: number): void {
    const code = batch.eventCode(index);
    if (code === abi.UFFD_EVENT_PAGEFAULT) {
      this.#takeFault(batch.faultAddress(index), batch.faultFlags(index));
    } else if (code === abi.UFFD_EVENT_REMOVE || code === abi.UFFD_EVENT_UNMAP) {
      const removed = this.#planner.remove(batch.rangeStart(index), batch.rangeEnd(index));
      this.#tracker?.remove(batch.rangeStart(index), batch.rangeEnd(index));
      this.#stats.addRemoved(removed);
      const { clock } = this.#parts;
      if (clock.isTracing) this.#traceRemoval(batch.rangeStart(index), batch.rangeEnd(index));
    } else {
      this.failure =
        `The VMM sent userfaultfd event ${formatHex(code)}, which only a VMM with EVENT_FORK or ` +
        "EVENT_REMAP can; neither can be followed.";
    }
  }

  #traceRemoval(start: number, end: number): void {
    const { regions, clock } = this.#parts;
    const region = regions.regionAt(start);
    if (region < 0) return;
    const pages = (end - start) / regions.pageSizeBytes;
    clock.note(Trace.removed, Cause.guest, regions.pageAt(region, start), pages, this.nowUs, 0);
  }

  #takeFault(address: number, flags: number): void {
    this.#stats.addFault();
    const isProtected = (flags & abi.UFFD_PAGEFAULT_FLAG_WP) !== 0;
    const isMinor = (flags & abi.UFFD_PAGEFAULT_FLAG_MINOR) !== 0;
    if (isMinor || (isProtected && this.#tracker === null)) {
      this.failure =
        `The page at ${formatHex(address)} raised a write-protect or minor fault. Only memory ` +
        "registered for missing faults can be served.";
      return;
    }
    if (!isProtected) this.#tracker?.fault(address, flags);
    const verdict = isProtected
      ? this.#tracker!.protectedFault(address)
      : this.#planner.fault(address);
    if (verdict === "first") {
      const { regions, demand } = this.#parts;
      demand.note(regions.pageAt(regions.regionAt(address), address), this.nowUs);
    } else if (verdict === "outside") {
      this.failure =
        `The VMM faulted at ${formatHex(address)}, which lies in none of the regions that its ` +
        "handshake announced.";
    } else if (verdict === "overflow") {
      const { pageSizeBytes } = this.#parts.regions;
      this.#stats.addOverflowed();
      this.#uffd.wake(address - (address % pageSizeBytes), pageSizeBytes);
    }
  }
}
