/**
 * Our histograms, of 464 buckets, as those of Prometheus, of some 40: every bound is also one of
 * ours, so that nothing is shared out between two buckets. PURE.
 */
import { bucketFloorNs, bucketOf, type DurationCounts } from "../../base/histogram.ts";

/** Two bounds for each power of two, in nanoseconds: a quantile is off by half at most. */
function boundsNs(fromBits: number, toBits: number): readonly number[] {
  const bounds: number[] = [];
  for (let bits = fromBits; bits < toBits; bits++) bounds.push(2 ** bits, 1.5 * 2 ** bits);
  return bounds;
}

/** 1 µs to 3.2 s: our last bucket also has all that is longer. */
export const faultBoundsNs = boundsNs(10, 32);
/** 131 µs to 3.2 s: nothing behind a network is faster. */
export const storeBoundsNs = boundsNs(17, 32);

export interface CumulativeBucket {
  /** `+Inf`, or the upper bound in seconds. */
  readonly le: string;
  /** So many were shorter. */
  readonly count: number;
}

export function cumulative(
  { counts }: DurationCounts,
  bounds: readonly number[],
): readonly CumulativeBucket[] {
  const buckets: CumulativeBucket[] = [];
  let count = 0;
  let next = 0;
  for (const boundNs of bounds) {
    const end = bucketOf(boundNs);
    while (next < end) count += counts[next++]!;
    buckets.push({ le: String(boundNs / 1e9), count });
  }
  while (next < counts.length) count += counts[next++]!;
  return [...buckets, { le: "+Inf", count }];
}

/** Whether a bound is where a bucket of ours begins. */
export function isExact(boundNs: number): boolean {
  return bucketFloorNs(bucketOf(boundNs)) === boundNs;
}
