/** What a store was asked, and how it did: counters that only grow, and what is under way. */
import { quantileUs } from "../base/histogram.ts";

export class StoreCounters {
  reads = 0;
  writes = 0;
  /** exists, remove, and pages of listings. */
  others = 0;
  /** Requests to the store, the repeated and hedged ones too. */
  attempts = 0;
  retries = 0;
  /** Attempts that were given up at their deadline. */
  timeouts = 0;
  hedges = 0;
  /** Hedges that were answered first. */
  hedgesWon = 0;
  /** Calls that ended in an error, not counting those that the caller aborted. */
  failures = 0;
  bytesRead = 0;
  bytesWritten = 0;
}

export interface StoreStats extends Readonly<StoreCounters> {
  readonly running: number;
  readonly waiting: number;
  /** Requests refused because too many waited. */
  readonly displaced: number;
  /** Latency of reads, from their turn in the queue to the last byte, by `base/histogram.ts`. */
  readonly readLatency: Float64Array;
  /** Of all these reads together. */
  readonly readTotalMs: number;
}

/** A quantile of the reads' latency. */
export function readLatencyMs(stats: StoreStats, quantile: number): number {
  return quantileUs(stats.readLatency, quantile) / 1000;
}
