/**
 * Latencies as the page draws them: eight bars an octave are too many to see, so each octave has
 * two; of all there ever were, and of the last ten seconds by a difference. PURE.
 */
import { bucketFloorNs, HISTOGRAM_BUCKETS, quantileUs } from "../src/base/histogram.ts";
import type { SparseBuckets } from "../src/daemon/dashboard/protocol.ts";

const RECENT_MS = 10_000;
/** From 1 µs to 4 s, two bars an octave. */
const LEAST_US = 1;
export const LATENCY_BARS = 44;

/** The duration at which a bar begins, in microseconds. */
export function barFloorUs(bar: number): number {
  return LEAST_US * 2 ** (bar / 2);
}

function barOf(bucket: number): number {
  const us = (bucketFloorNs(bucket) + bucketFloorNs(bucket + 1)) / 2 / 1000;
  return Math.max(0, Math.min(LATENCY_BARS - 1, Math.floor(2 * Math.log2(us / LEAST_US))));
}

export interface LatencyView {
  /** For each bar the share of all durations, 0 to 1. */
  readonly bars: number[];
  readonly count: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

export class LatencyWindow {
  readonly #samples: { readonly atMs: number; readonly counts: Float64Array }[] = [];

  add(atMs: number, buckets: SparseBuckets): void {
    const counts = new Float64Array(HISTOGRAM_BUCKETS);
    for (const [bucket, count] of buckets) if (bucket in counts) counts[bucket] = count;
    const last = this.#samples.at(-1);
    if (last !== undefined && total(counts) < total(last.counts)) this.#samples.length = 0;
    this.#samples.push({ atMs, counts });
    while (this.#samples.length > 2 && this.#samples[1]!.atMs <= atMs - RECENT_MS) {
      this.#samples.shift();
    }
  }

  ever(): LatencyView {
    return viewOf(this.#samples.at(-1)?.counts ?? new Float64Array(HISTOGRAM_BUCKETS));
  }

  /** Of what was counted before the first sample nobody knows when; what nobody told of is none. */
  recent(nowMs: number): LatencyView {
    const last = this.#samples.at(-1)?.counts ?? new Float64Array(HISTOGRAM_BUCKETS);
    const fromMs = nowMs - RECENT_MS;
    const base = this.#samples.findLast(({ atMs }) => atMs <= fromMs) ?? this.#samples[0];
    return viewOf(last.map((count, bucket) => count - (base?.counts[bucket] ?? 0)));
  }
}

function viewOf(counts: Float64Array): LatencyView {
  const count = total(counts);
  const bars = new Array<number>(LATENCY_BARS).fill(0);
  for (const [bucket, value] of counts.entries()) {
    if (value > 0) bars[barOf(bucket)]! += value / count;
  }
  if (count === 0) return { bars, count, p50Us: 0, p99Us: 0 };
  return { bars, count, p50Us: quantileUs(counts, 0.5), p99Us: quantileUs(counts, 0.99) };
}

function total(counts: Float64Array): number {
  return counts.reduce((sum, count) => sum + count, 0);
}
