/**
 * A log-linear histogram of durations in plain memory: 16 buckets per power of two, so a quantile
 * is off by 6 % at most. Recording is a few integer operations; memory may be shared with a reader.
 * PURE.
 */

const SUB_BUCKET_BITS = 4;
const SUB_BUCKETS = 1 << SUB_BUCKET_BITS;
/** Values are 32-bit nanoseconds: up to 4.29 s; longer ones count in the last bucket. */
const LARGEST_NS = 0xffffffff;
export const HISTOGRAM_BUCKETS = (32 - SUB_BUCKET_BITS + 1) * SUB_BUCKETS;

/** The bucket of a duration in nanoseconds. */
export function bucketOf(nanoseconds: number): number {
  const value = nanoseconds >= LARGEST_NS ? LARGEST_NS : nanoseconds >>> 0;
  if (value < SUB_BUCKETS) return value;
  const shift = 31 - Math.clz32(value) - SUB_BUCKET_BITS;
  return (shift + 1) * SUB_BUCKETS + ((value >>> shift) & (SUB_BUCKETS - 1));
}

/** The lowest duration that falls into a bucket. */
export function bucketFloorNs(bucket: number): number {
  if (bucket < SUB_BUCKETS) return bucket;
  const shift = Math.floor(bucket / SUB_BUCKETS) - 1;
  return (SUB_BUCKETS + (bucket % SUB_BUCKETS)) * 2 ** shift;
}

/** Durations as they are told: how many fell into each bucket, and all of them together. */
export interface DurationCounts {
  readonly counts: Float64Array;
  readonly totalUs: number;
}

/** Counts durations. */
export class Durations implements DurationCounts {
  readonly counts: Float64Array = new Float64Array(HISTOGRAM_BUCKETS);
  totalUs = 0;

  add(microseconds: number): void {
    this.counts[bucketOf(microseconds * 1000)]! += 1;
    this.totalUs += microseconds;
  }
}

/**
 * The duration in microseconds that a share `quantile` (0 to 1) of all records does not exceed,
 * as the middle of its bucket; 0 if nothing was recorded.
 */
export function quantileUs(counts: Float64Array, quantile: number): number {
  let total = 0;
  for (const count of counts) total += count;
  let rest = Math.max(1, Math.ceil(total * quantile));
  for (let bucket = 0; bucket < counts.length; bucket++) {
    rest -= counts[bucket]!;
    if (rest <= 0) return (bucketFloorNs(bucket) + bucketFloorNs(bucket + 1)) / 2 / 1000;
  }
  return 0;
}
