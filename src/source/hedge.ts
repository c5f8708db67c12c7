/** A second request beside one that takes long: the first answer counts. */
import type { Timing } from "./timing.ts";

/**
 * Runs `first`, and after `delayMs` also `second`, unless that returns null (no request allowed).
 * Fails only when everything that was started has failed. Stopping the loser is the caller's.
 */
export function hedged<T>(
  first: () => Promise<T>,
  second: () => Promise<T> | null,
  delayMs: number,
  timing: Timing,
): Promise<T> {
  return new Promise((resolve, reject) => {
    let running = 1;
    const fail = (error: unknown): void => {
      running--;
      cancelTimer();
      if (running === 0) reject(error);
    };
    const cancelTimer = timing.after(delayMs, () => {
      const extra = second();
      if (extra === null) return;
      running++;
      extra.then(resolve, fail);
    });
    first().then((result) => {
      cancelTimer();
      resolve(result);
    }, fail);
  });
}

/** How many extra requests may be made: a share of the reads, saved up to a bound. */
export class HedgeBudget {
  readonly #share: number;
  readonly #most: number;
  #saved = 0;

  constructor(share: number, most: number) {
    this.#share = share;
    this.#most = most;
  }

  /** A read was made. */
  earn(): void {
    this.#saved = Math.min(this.#most, this.#saved + this.#share);
  }

  /** Whether one more request may be made now. */
  get hasOne(): boolean {
    // A twentieth, twenty times, is a little less than one.
    return this.#saved > 1 - 1e-9;
  }

  spend(): void {
    this.#saved--;
  }
}
