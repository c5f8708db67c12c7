/** The bounds of every request to a store, with their reasons (docs/LIMITS.md lists them). */

/** How long a request may take, and all its attempts together with their waits. */
export interface TimeBudget {
  /** One attempt, from its turn in the queue to the last byte. */
  readonly requestTimeoutMs: number;
  /** All attempts, queueing and pauses between them. */
  readonly deadlineMs: number;
}

export interface RequestPolicy {
  /** Chunks, and what has no body: a guest may stand still. */
  readonly small: TimeBudget;
  /** Indexes, listings, and writes of more than a chunk. */
  readonly bulk: TimeBudget;
  readonly maxAttempts: number;
  /** The pause before attempt n+1 is random, from 0 to `base × 2^(n-1)`, at most `max`. */
  readonly pauseBaseMs: number;
  readonly pauseMaxMs: number;
  /** Requests at once. */
  readonly concurrency: number;
  /** Requests that wait for their turn. */
  readonly maxWaiting: number;
  /**
   * The share of reads that may be asked for a second time when they take longer than 95 % of the
   * recent ones: the first answer counts. 0 switches it off.
   */
  readonly hedgeShare: number;
}

export const defaultPolicy: RequestPolicy = {
  // A store that answers at all answers in tens of milliseconds; 4 MiB in 5 s is 7 Mbit/s.
  small: { requestTimeoutMs: 5000, deadlineMs: 30_000 },
  // 256 MiB in 60 s is 36 Mbit/s.
  bulk: { requestTimeoutMs: 60_000, deadlineMs: 180_000 },
  // With the pauses: some 20 s of a store that fails at once.
  maxAttempts: 16,
  pauseBaseMs: 50,
  pauseMaxMs: 2000,
  // 32 requests of 256 KiB at 20 ms each are 400 MB/s.
  concurrency: 32,
  maxWaiting: 1024,
  hedgeShare: 0.05,
};

/** Hedges saved up in quiet times, to be spent when the store stumbles. */
export const MAX_SAVED_HEDGES = 16;
/** Sooner, a second request is mostly wasted: the first one is about to come. */
export const LEAST_HEDGE_DELAY_MS = 5;

/** Full jitter: clients that failed together do not come back together. */
export function pauseMs(policy: RequestPolicy, failedAttempts: number, random: number): number {
  const most = Math.min(policy.pauseMaxMs, policy.pauseBaseMs * 2 ** (failedAttempts - 1));
  return random * most;
}
