/** The clock, timers and chance of the request policy: tests put their own in place of them. */
export interface Timing {
  nowMs(): number;
  /** Calls back once; the result cancels. */
  after(delayMs: number, callback: () => void): () => void;
  /** From 0 to 1, exclusive. */
  random(): number;
}

export const realTiming: Timing = {
  nowMs: () => performance.now(),
  after(delayMs, callback) {
    const timer = setTimeout(callback, delayMs);
    return () => clearTimeout(timer);
  },
  random: Math.random,
};
