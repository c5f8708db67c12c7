/** Bucket edges, order, and how far a quantile may be off. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  bucketFloorNs,
  bucketOf,
  HISTOGRAM_BUCKETS,
  quantileUs,
} from "../../src/base/histogram.ts";

const LARGEST_NS = 2 ** 32 - 1;
/** All orders of magnitude alike: uniform numbers would nearly all lie in the last octave. */
const anyNs = fc
  .tuple(fc.integer({ min: 0, max: 32 }), fc.double({ min: 0, max: 1, noNaN: true }))
  .map(([bits, share]) => Math.min(LARGEST_NS, Math.floor(2 ** bits * share)));

function record(durationsNs: readonly number[]): Float64Array {
  const counts = new Float64Array(HISTOGRAM_BUCKETS);
  for (const duration of durationsNs) counts[bucketOf(duration)]! += 1;
  return counts;
}

describe("buckets", () => {
  test("each begins at its floor and ends one before the next floor", () => {
    for (let bucket = 0; bucket < HISTOGRAM_BUCKETS; bucket++) {
      const floor = bucketFloorNs(bucket);
      const next = bucketFloorNs(bucket + 1);
      assert.ok(next > floor, `bucket ${bucket} is empty`);
      assert.equal(bucketOf(floor), bucket, `floor ${floor}`);
      assert.equal(bucketOf(next - 1), bucket, `last ${next - 1}`);
    }
  });

  test("they cover 0 ns to 4.29 s without a gap", () => {
    assert.equal(bucketFloorNs(0), 0);
    assert.equal(bucketFloorNs(HISTOGRAM_BUCKETS), LARGEST_NS + 1);
    assert.equal(bucketOf(0), 0);
    assert.equal(bucketOf(LARGEST_NS), HISTOGRAM_BUCKETS - 1);
  });

  test("whatever is longer counts in the last one", () => {
    for (const duration of [2 ** 32, 2 ** 33 + 5, 1e15, Number.POSITIVE_INFINITY]) {
      assert.equal(bucketOf(duration), HISTOGRAM_BUCKETS - 1, String(duration));
    }
  });

  test("fractions of a nanosecond are dropped", () => {
    assert.equal(bucketOf(15.99), bucketOf(15));
    assert.equal(bucketOf(1_000_000.5), bucketOf(1_000_000));
  });

  test("a longer duration is never in an earlier bucket", () => {
    fc.assert(
      fc.property(anyNs, anyNs, (a, b) => {
        assert.ok(bucketOf(Math.min(a, b)) <= bucketOf(Math.max(a, b)));
      }),
    );
  });

  test("from 16 ns on, a bucket is at most 1/16 of its floor wide", () => {
    for (let bucket = 16; bucket < HISTOGRAM_BUCKETS; bucket++) {
      const floor = bucketFloorNs(bucket);
      assert.ok(bucketFloorNs(bucket + 1) - floor <= floor / 16, `bucket ${bucket}`);
    }
  });
});

describe("quantiles", () => {
  test("nothing recorded is 0", () => {
    assert.equal(quantileUs(new Float64Array(HISTOGRAM_BUCKETS), 0.5), 0);
  });

  test("one record is every quantile", () => {
    const counts = record([1600]);
    for (const quantile of [0, 0.01, 0.5, 0.99, 1]) {
      assert.ok(Math.abs(quantileUs(counts, quantile) - 1.6) <= 0.1, String(quantile));
    }
  });

  test("they are off by 6.25 % at most, or by half a nanosecond below 16 ns", () => {
    const anyQuantile = fc.double({ min: 0, max: 1, noNaN: true });
    fc.assert(
      fc.property(
        fc.array(anyNs, { minLength: 1, maxLength: 200 }),
        anyQuantile,
        (all, quantile) => {
          const sorted = [...all].sort((a, b) => a - b);
          const exactNs = sorted[Math.max(1, Math.ceil(all.length * quantile)) - 1]!;
          const errorNs = Math.abs(quantileUs(record(all), quantile) * 1000 - exactNs);
          assert.ok(errorNs <= Math.max(0.5, exactNs * 0.0625) + 1e-6, `${exactNs} ± ${errorNs}`);
        },
      ),
      { numRuns: 500 },
    );
  });

  test("a higher quantile is never shorter", () => {
    const counts = record([5, 90, 90, 4000, 1e6, 2e9]);
    let previous = 0;
    for (let quantile = 0; quantile <= 1; quantile += 0.01) {
      const value = quantileUs(counts, quantile);
      assert.ok(value >= previous, `at ${quantile}`);
      previous = value;
    }
  });
});
