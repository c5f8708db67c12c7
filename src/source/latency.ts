/** How long the recent reads of a store took: a window that moves on, and all of them. */
import { bucketOf, HISTOGRAM_BUCKETS, quantileUs } from "../base/histogram.ts";

/** Of the last 512 to 1024 reads: enough for a p95, few enough to follow a store that changes. */
const WINDOW_READS = 512;
/** Below this, a quantile says more about chance than about the store. */
const LEAST_READS = 32;
/** Counting the buckets takes microseconds, so it is not done for every read. */
const READS_PER_QUANTILE = 16;

export class Latency {
  /** Of all reads, by `base/histogram.ts`. */
  readonly counts = new Float64Array(HISTOGRAM_BUCKETS);
  /** Of all reads together. */
  totalMs = 0;
  #recent = new Float64Array(HISTOGRAM_BUCKETS);
  #before = new Float64Array(HISTOGRAM_BUCKETS);
  #recentReads = 0;
  #reads = 0;
  #p95Ms: number | null = null;

  record(durationMs: number): void {
    const bucket = bucketOf(durationMs * 1e6);
    this.counts[bucket]! += 1;
    this.totalMs += durationMs;
    this.#recent[bucket]! += 1;
    this.#reads++;
    if (this.#reads >= LEAST_READS && this.#reads % READS_PER_QUANTILE === 0) {
      const both = this.#recent.map((count, index) => count + this.#before[index]!);
      this.#p95Ms = quantileUs(both, 0.95) / 1000;
    }
    if (++this.#recentReads < WINDOW_READS) return;
    [this.#before, this.#recent] = [this.#recent, this.#before.fill(0)];
    this.#recentReads = 0;
  }

  /** Of the recent reads; null while there are too few. */
  get p95Ms(): number | null {
    return this.#p95Ms;
  }
}
