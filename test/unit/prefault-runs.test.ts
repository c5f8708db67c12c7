/** What is installed ahead of a VM: everything once, in an order that serves the earliest first. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  type PrefaultOptions,
  type PrefaultRuns,
  prefaultRuns,
} from "../../src/pager/prefault-runs.ts";
import { anySet, type Row, setOf } from "../support/working-sets.ts";

const plain: PrefaultOptions = { pageSizeBytes: 4096, leastNeed: 0, holdOut: null };

const runsOf = ({ starts, counts }: PrefaultRuns): [start: number, count: number][] =>
  Array.from(starts, (start, run) => [start, counts[run]!]);

const runs = (
  rows: readonly Row[],
  options: Partial<PrefaultOptions> = {},
): [start: number, count: number][] =>
  runsOf(prefaultRuns(setOf(rows, 4096), { ...plain, ...options }));

describe("runs to install ahead", () => {
  test("begin with what is needed first, and join its neighbours", () => {
    const rows: Row[] = [
      [10, 255, 900],
      [11, 255, 600],
      [12, 255, 700],
      [14, 255, 100],
      [15, 255, 120],
    ];
    assert.deepEqual(runs(rows), [
      [14, 2],
      [10, 3],
    ]);
  });

  test("leave out a neighbour that is needed much later", () => {
    const rows: Row[] = [
      [10, 255, 1000],
      [11, 255, 2500],
      [12, 255, 3501],
      [13, 255, 1500],
    ];
    assert.deepEqual(runs(rows), [
      [10, 2],
      [13, 1],
      [12, 1],
    ]);
  });

  test("take what most restores did not need after all else, and apart from it", () => {
    const rows: Row[] = [
      [1, 127, 0],
      [2, 128, 300],
      [3, 40, 300],
      [9, 255, 90_000],
    ];
    assert.deepEqual(runs(rows), [
      [2, 1],
      [9, 1],
      [1, 1],
      [3, 1],
    ]);
  });

  test("leave out what is needed too rarely", () => {
    const rows: Row[] = [
      [1, 63, 0],
      [2, 64, 0],
    ];
    assert.deepEqual(runs(rows, { leastNeed: 64 }), [[2, 1]]);
  });

  test("have 2 MiB at most, downwards too", () => {
    const rows = Array.from({ length: 1200 }, (_, page): Row => [page, 255, page === 1199 ? 0 : 1]);
    assert.deepEqual(runs(rows), [
      [688, 512],
      [0, 512],
      [512, 176],
    ]);
  });

  test("count in pages of the guest, each needed as its part that is needed most", () => {
    const rows: Row[] = [
      [511, 10, 9000],
      [512, 10, 50],
      [600, 255, 2000],
      [1024, 255, 100],
    ];
    const options = { pageSizeBytes: 2 ** 21 };
    assert.deepEqual(runs(rows, options), [
      [1, 1],
      [2, 1],
      [0, 1],
    ]);
  });

  test("of no pages are none", () => {
    assert.deepEqual(runs([]), []);
  });
});

describe("a sample", () => {
  const rows = Array.from({ length: 4096 }, (_, page): Row => [page, 255, page]);
  const sample = (every: number, salt: number, pageSizeBytes = 4096): PrefaultRuns =>
    prefaultRuns(setOf(rows, 4096), { ...plain, pageSizeBytes, holdOut: { every, salt } });

  test("is held back by blocks of 64 KiB, about one in so many, others for each salt", () => {
    const seen = new Set<number>();
    let total = 0;
    for (let salt = 0; salt < 64; salt++) {
      const { heldOut } = sample(16, salt);
      total += heldOut.length;
      for (const page of heldOut) seen.add(page);
      for (let at = 0; at < heldOut.length; at += 16) {
        assert.equal(heldOut[at]! % 16, 0);
        assert.equal(heldOut[at + 15]! - heldOut[at]!, 15);
      }
    }
    const share = total / 64 / 4096;
    assert.ok(share > 1 / 20 && share < 1 / 13, `${share}`);
    assert.ok(seen.size > 0.9 * 4096, `${seen.size} of 4096 pages were in some sample`);
  });

  test("is the same for the same salt, and of huge pages whole ones", () => {
    assert.deepEqual(sample(16, 7), sample(16, 7));
    assert.notDeepEqual(sample(16, 7).heldOut, sample(16, 8).heldOut);
    const { heldOut, starts } = sample(2, 1, 2 ** 21);
    assert.equal(heldOut.length + starts.length, 8);
  });

  test("of one in one is all", () => {
    const { heldOut, starts } = sample(1, 0);
    assert.deepEqual([heldOut.length, starts.length], [4096, 0]);
  });
});

describe("any set", () => {
  const anyOptions = fc.record({
    pageSizeBytes: fc.constantFrom(4096, 16_384, 2 ** 21),
    leastNeed: fc.nat(255),
    holdOut: fc.option(fc.record({ every: fc.integer({ min: 1, max: 9 }), salt: fc.nat() })),
  });

  test("gives each page that is needed enough once: in a run, or held back", () => {
    fc.assert(
      fc.property(anySet(3000), anyOptions, (set, options) => {
        const perPage = options.pageSizeBytes / 4096;
        const wanted = new Map<number, number>();
        for (const [index, page] of set.pages.entries()) {
          const guestPage = Math.floor(page / perPage);
          wanted.set(guestPage, Math.max(wanted.get(guestPage) ?? 0, set.needs[index]!));
        }
        const result = prefaultRuns(set, options);
        const given = [...result.heldOut];
        for (const [start, count] of runsOf(result)) {
          assert.ok(count * options.pageSizeBytes <= 2 ** 21);
          for (let page = start; page < start + count; page++) given.push(page);
        }
        const enough = [...wanted].filter(([, need]) => need >= options.leastNeed);
        const byNumber = (a: number, b: number): number => a - b;
        assert.deepEqual(given.sort(byNumber), enough.map(([page]) => page).sort(byNumber));
        if (options.holdOut === null) assert.equal(result.heldOut.length, 0);
      }),
    );
  });

  test("is served by the earliest page of each run, likely ones first", () => {
    fc.assert(
      fc.property(anySet(300), (set) => {
        const keys = runsOf(prefaultRuns(set, plain)).map(([start, count]) => {
          let least = Number.POSITIVE_INFINITY;
          for (let page = start; page < start + count; page++) {
            const at = set.pages.indexOf(page);
            const late = set.needs[at]! >= 128 ? 0 : 2 ** 33;
            least = Math.min(least, set.timesUs[at]! + late);
          }
          return least;
        });
        for (const [run, key] of keys.entries()) {
          // Times are told apart by a thousandth.
          if (run > 0) assert.ok(key * 1.002 + 1 >= keys[run - 1]!, keys.join(" "));
        }
      }),
    );
  });
});
