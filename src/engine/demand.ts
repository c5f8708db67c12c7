/** What follows from a page that was demanded for the first time: it is noted, and paced by. */
import type { DemandRecorder } from "./demand-log.ts";
import type { SessionClock } from "./session-clock.ts";
import type { SessionPrefault } from "./session-prefault.ts";
import type { WorkerTools } from "./worker-tools.ts";

export interface DemandParts {
  readonly session: { readonly prefault: SessionPrefault | null };
  /** Null: nobody wants to know what a restore needs. */
  readonly recorder: DemandRecorder | null;
  readonly clock: SessionClock;
  readonly tools: WorkerTools;
}

export class Demand {
  readonly #parts: DemandParts;

  constructor(parts: DemandParts) {
    this.#parts = parts;
  }

  note(page: number, nowUs: number): void {
    const { session, recorder, clock, tools } = this.#parts;
    recorder?.record(page, nowUs);
    clock.noteDemand(page, nowUs);
    if (session.prefault?.expects(page) !== true) tools.unexpected(nowUs);
  }
}
