/** Learning a working set: what gets stronger, what fades, what leaves, and what nobody knows. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { MAX_WORKING_SET_PAGES, type WorkingSet } from "../../src/base/working-set.ts";
import { mergeRecording } from "../../src/pager/working-set.ts";
import {
  anyRecording,
  anySet,
  type RecordingParts,
  type Row,
  recordingOf,
  rowsOf,
  setOf,
} from "../support/working-sets.ts";

function learn(...recordings: readonly RecordingParts[]): WorkingSet {
  let set: WorkingSet | null = null;
  for (const parts of recordings) set = mergeRecording(set, recordingOf(parts));
  return set!;
}

const needOf = (set: WorkingSet, page: number): number => set.needs[set.pages.indexOf(page)] ?? 0;

describe("the first recording", () => {
  test("makes a set of full need, by address, with the times", () => {
    const set = learn({ pages: [9, 3, 7] });
    assert.deepEqual(rowsOf(set), [
      [3, 255, 200],
      [7, 255, 300],
      [9, 255, 100],
    ]);
    assert.equal(set.restores, 1);
  });

  test("counts a page once, when it was demanded first", () => {
    assert.deepEqual(rowsOf(learn({ pages: [5, 4, 5] })), [
      [4, 255, 200],
      [5, 255, 100],
    ]);
  });

  test("cuts times that are none, or that are too long", () => {
    const set = learn({ pages: [1, 2, 3, 4], timesUs: [-1, Number.NaN, 1.6, 1e12] });
    assert.deepEqual([...set.timesUs], [0, 0, 2, 2 ** 32 - 1]);
  });

  test("of a guest with larger pages names all of 4 KiB in them, to the end of the image", () => {
    const set = learn({ pages: [2, 0], pageSizeBytes: 4 * 4096, pageCount: 10 });
    assert.deepEqual([...set.pages], [0, 1, 2, 3, 8, 9]);
    assert.deepEqual([...set.timesUs], [200, 200, 200, 200, 100, 100]);
  });

  test("with nothing in it teaches nothing", () => {
    assert.deepEqual(learn({}), setOf([], 1000, 0));
    const set = learn({ pages: [1] });
    assert.equal(mergeRecording(set, recordingOf({})), set);
  });
});

describe("need", () => {
  test("is a mean at first, and then forgets, as the file's header shows", () => {
    const needs = (restores: readonly RecordingParts[], page: number): number[] =>
      restores.map((_, last) => needOf(learn(...restores.slice(0, last + 1)), page));
    const restores = Array.from({ length: 14 }, (_, index): RecordingParts => {
      return { pages: [1, ...(index === 0 ? [2] : []), ...(index === 8 ? [3] : [])] };
    });
    assert.deepEqual(needs(restores, 1), Array(14).fill(255));
    assert.deepEqual(needs(restores, 2), [255, 127, 84, 63, 50, 41, 35, 30, 26, 22, 19, 16, 0, 0]);
    assert.deepEqual(needs(restores, 3).slice(8), [32, 28, 24, 21, 18, 0]);
  });

  test("of a page that every restore needs becomes full again", () => {
    let set = setOf([[7, 16, 500]], 1000, 50);
    for (let round = 0; round < 40; round++) set = mergeRecording(set, recordingOf({ pages: [7] }));
    assert.equal(needOf(set, 7), 255);
  });

  test("of a page that was installed ahead stays, for nobody knows", () => {
    const before = setOf([
      [10, 200, 5],
      [11, 200, 5],
      [12, 200, 5],
      [13, 200, 5],
    ]);
    const ahead = [
      [12, 1],
      [9, 2],
      [9, 1],
    ] as const;
    const after = mergeRecording(before, recordingOf({ ahead }));
    assert.deepEqual([...after.needs], [200, 100, 200, 100]);
    assert.deepEqual([...after.timesUs], [5, 5, 5, 5]);
  });

  test("grows if a page was demanded, although it was also installed ahead", () => {
    const after = mergeRecording(
      setOf([[10, 100, 5]]),
      recordingOf({ pages: [10], ahead: [[8, 9]] }),
    );
    assert.deepEqual([...after.needs], [178]);
  });

  test("is learnt of pages that were neither known nor demanded in no case", () => {
    assert.deepEqual(rowsOf(learn({ pages: [1] }, { pages: [1], ahead: [[5, 5]] })), [
      [1, 255, 100],
    ]);
  });

  test("of runs ahead counts in pages of the guest", () => {
    const before = setOf([3, 4, 7, 8].map((page) => [page, 200, 5]));
    const parts = { ahead: [[1, 1]], pageSizeBytes: 4 * 4096 } as const;
    assert.deepEqual([...mergeRecording(before, recordingOf(parts)).needs], [100, 200, 200, 100]);
  });
});

describe("the time", () => {
  test("moves towards that of the newest restore", () => {
    const set = learn(
      { pages: [1], timesUs: [1000] },
      { pages: [1], timesUs: [2000] },
      { pages: [1], timesUs: [3000] },
    );
    assert.deepEqual([...set.timesUs], [2000]);
    const old = mergeRecording(setOf([[1, 255, 800]], 1000, 100), recordingOf({ pages: [1] }));
    assert.deepEqual([...old.timesUs], [Math.round(800 - 700 / 8)]);
  });
});

describe("a set", () => {
  test("of another image's size is no base", () => {
    assert.throws(() => mergeRecording(setOf([], 5), recordingOf({ pages: [1] })), /another image/);
  });

  test("takes no page that lies outside of the image", () => {
    assert.throws(() => learn({ pages: [1000] }), /page 1000 lies outside/);
  });

  test("has a bound: the pages needed most stay, of equals the earliest", () => {
    const count = MAX_WORKING_SET_PAGES;
    const rest = { pageCount: 2 * count + 10 };
    // Of each two neighbours the second is demanded first.
    const pages = Array.from({ length: count }, (_, place) => 2 * (count - place) - 1);
    const full = learn({ pages, ...rest });
    assert.equal(full.pages.length, count);
    // A page more than the bound, all others needed in one of two restores: the latest one goes.
    const after = mergeRecording(full, recordingOf({ pages: [0], ...rest }));
    assert.equal(after.pages.length, count);
    assert.deepEqual(rowsOf(after).slice(0, 3), [
      [0, 128, 100],
      [3, 127, 100 * (count - 1)],
      [5, 127, 100 * (count - 2)],
    ]);
    // Of a recording the last page above the bound is not looked at: it fades, and goes.
    const again = mergeRecording(full, recordingOf({ pages: [0, ...pages], ...rest }));
    assert.deepEqual([...again.pages.slice(0, 3)], [0, 3, 5]);
  });

  test("of which all are equal loses its highest page", () => {
    const count = MAX_WORKING_SET_PAGES;
    const rows = Array.from({ length: count }, (_, page): Row => [page + 1, 20, 7]);
    const ahead = [[1, count]] as const;
    const pageCount = count + 1;
    const parts = { pages: [0], ahead, pageCount };
    const after = mergeRecording(setOf(rows, pageCount, 50), recordingOf(parts));
    assert.deepEqual([after.pages.length, after.pages[0]], [count, 0]);
    assert.equal(after.pages.at(-1), count - 1);
  });

  test("of a recording above the bound takes the earliest pages", () => {
    const pages = Array.from({ length: 600 }, (_, page) => 599 - page);
    const set = learn({ pages, pageSizeBytes: 2 ** 21, pageCount: 600 * 512 });
    assert.equal(set.pages.length, MAX_WORKING_SET_PAGES);
    assert.equal(set.pages[0], (600 - 512) * 512);
  });
});

const PAGES = 200;

describe("every merge", () => {
  for (const perPage of [1, 8]) {
    test(`of pages of ${4 * perPage} KiB does to each page what it should`, () => {
      fc.assert(
        fc.property(fc.option(anySet(PAGES)), anyRecording(PAGES, perPage), (before, recording) => {
          const after = mergeRecording(before, recording);
          if (recording.pages.length + recording.aheadStarts.length === 0) return;
          assert.ok(after.pages.every((page, at) => at === 0 || page > after.pages[at - 1]!));
          const demanded = new Set(recording.pages);
          const ahead = new Set<number>();
          for (const [run, start] of recording.aheadStarts.entries()) {
            for (let at = 0; at < recording.aheadCounts[run]!; at++) ahead.add(start + at);
          }
          for (let page = 0; page < PAGES; page++) {
            const guestPage = Math.floor(page / perPage);
            const need = before === null ? 0 : needOf(before, page);
            const now = needOf(after, page);
            if (demanded.has(guestPage)) assert.ok(now > need || now === 255);
            else if (ahead.has(guestPage)) assert.equal(now, need);
            else assert.ok(now === 0 || (now < need && now >= 16));
          }
        }),
      );
    });
  }
});
