/** A clock that only moves when a test says so, with timers, and chance that is no chance. */
import { setImmediate as turn } from "node:timers/promises";
import type { Timing } from "../../src/source/timing.ts";

interface Timer {
  readonly atMs: number;
  readonly callback: () => void;
}

export class VirtualTiming implements Timing {
  #nowMs = 1000;
  readonly #timers = new Set<Timer>();
  /** What `random` gives. */
  chance = 0.5;

  nowMs(): number {
    return this.#nowMs;
  }

  after(delayMs: number, callback: () => void): () => void {
    const timer = { atMs: this.#nowMs + Math.max(0, delayMs), callback };
    this.#timers.add(timer);
    return () => this.#timers.delete(timer);
  }

  random(): number {
    return this.chance;
  }

  get timerCount(): number {
    return this.#timers.size;
  }

  /** Lets `durationMs` pass: every timer at its time, and what follows from it before the next. */
  async pass(durationMs: number): Promise<void> {
    const endMs = this.#nowMs + durationMs;
    await settle();
    for (;;) {
      const due = [...this.#timers].filter(({ atMs }) => atMs <= endMs);
      const next = due.sort((left, right) => left.atMs - right.atMs)[0];
      if (next === undefined) break;
      this.#timers.delete(next);
      this.#nowMs = next.atMs;
      next.callback();
      await settle();
    }
    this.#nowMs = endMs;
  }
}

/** Promises that follow from each other are through after a turn of the event loop. */
export async function settle(): Promise<void> {
  await turn();
}
