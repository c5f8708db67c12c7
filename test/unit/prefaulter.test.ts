/** Pieces to install ahead: what they cover and leave alone, what waits, when all is done. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import type { Outcome } from "../../src/base/outcome.ts";
import { hostAddress, imageOffset, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { PageState, PageTable } from "../../src/pager/page-table.ts";
import { Prefaulter, type PrefaultSettlement } from "../../src/pager/prefaulter.ts";
import { flattenLayers } from "../../src/snapshot/layers.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";

const HUGE = 512 * SMALL_PAGE_BYTES;

interface Options {
  /** `#`: the page has bytes. */
  readonly image: string;
  /** First page and count of each run. */
  readonly runs?: readonly (readonly [number, number])[];
  readonly isComplete?: boolean;
  readonly regionPages?: readonly number[];
  readonly pageSizeBytes?: number;
}

class Walk {
  readonly table: PageTable;
  readonly prefaulter: Prefaulter;
  readonly #pageSizeBytes: number;

  constructor({ image, runs = [], isComplete = false, ...options }: Options) {
    const { regionPages = [image.length], pageSizeBytes = SMALL_PAGE_BYTES } = options;
    this.#pageSizeBytes = pageSizeBytes;
    let first = 0;
    const regions = regionPages.map((pages, index) => {
      const offset = imageOffset(first * pageSizeBytes);
      first += pages;
      const baseHostAddress = hostAddress(2 ** 44 + index * 2 ** 40);
      return { baseHostAddress, sizeBytes: pages * pageSizeBytes, imageOffset: offset };
    });
    const extents = [...image].flatMap((mark, page) =>
      mark === "#" ? [{ start: page * pageSizeBytes, end: (page + 1) * pageSizeBytes }] : [],
    );
    this.table = new PageTable(image.length, new Uint8Array(PageTable.sizeBytes(image.length)));
    this.prefaulter = new Prefaulter({
      regions: new RegionMap(regions, pageSizeBytes),
      runs: flattenLayers(image.length * pageSizeBytes, [[], extents]),
      table: this.table,
      pages: {
        starts: Uint32Array.from(runs, ([start]) => start),
        counts: Uint32Array.from(runs, ([, count]) => count),
      },
      isComplete,
    });
  }

  /** The next piece as text, or null. */
  next(maxPages = 512): string | null {
    if (!this.prefaulter.next(maxPages)) return null;
    const { firstPage, pageCount, owner } = this.prefaulter;
    return `${owner < 0 ? "zero" : "copy"} ${firstPage}+${pageCount}`;
  }

  settle(outcome: Outcome, donePages = 0): PrefaultSettlement {
    return this.prefaulter.settle(outcome, donePages * this.#pageSizeBytes);
  }

  /** All pieces until there is none, each installed. */
  all(maxPages = 512): string[] {
    const pieces: string[] = [];
    for (let piece = this.next(maxPages); piece !== null; piece = this.next(maxPages)) {
      pieces.push(piece);
      this.settle("installed");
    }
    return pieces;
  }
}

describe("pieces", () => {
  test("come in the order of the runs, cut where the source changes", () => {
    const walk = new Walk({
      image: "##..####",
      runs: [
        [4, 2],
        [0, 4],
      ],
    });
    assert.deepEqual(walk.all(), ["copy 4+2", "copy 0+2", "zero 2+2"]);
    assert.equal(walk.prefaulter.finishPass(), true);
    assert.equal(walk.table.get(6), PageState.missing);
  });

  test("are at most as long as asked for", () => {
    const walk = new Walk({ image: "########", runs: [[0, 8]] });
    assert.deepEqual(walk.all(3), ["copy 0+3", "copy 3+3", "copy 6+2"]);
  });

  test("leave out what was demanded, installed or removed meanwhile", () => {
    const walk = new Walk({ image: "########", runs: [[0, 8]] });
    walk.table.set(1, PageState.pending);
    walk.table.set(3, PageState.installed);
    walk.table.removeRange(5, 7);
    assert.deepEqual(walk.all(), ["copy 0+1", "copy 2+1", "copy 4+1", "copy 7+1"]);
    assert.deepEqual(
      [1, 3, 5, 6].map((page) => walk.table.get(page)),
      [PageState.pending, PageState.installed, PageState.removed, PageState.removed],
    );
  });

  test("end at a region's border, and pages beyond the memory are passed over", () => {
    const walk = new Walk({
      image: "######",
      regionPages: [2, 4],
      runs: [
        [0, 9],
        [77, 3],
      ],
    });
    assert.deepEqual(walk.all(), ["copy 0+2", "copy 2+4"]);
  });
});

describe("an outcome", () => {
  const one = (): Walk => new Walk({ image: "####", runs: [[0, 4]] });

  test("of a part: the rest is the next piece, after the events", () => {
    const walk = one();
    walk.next();
    assert.equal(walk.settle("partial", 1), "drain");
    assert.equal(walk.next(), "copy 1+3");
  });

  test("put off: the same piece again, after the events", () => {
    const walk = one();
    walk.next();
    assert.equal(walk.settle("deferred"), "drain");
    assert.equal(walk.next(), "copy 0+4");
  });

  test("present already: that page is not ours", () => {
    const walk = one();
    walk.next();
    assert.equal(walk.settle("alreadyPresent"), "next");
    assert.equal(walk.table.get(0), PageState.missing);
    assert.equal(walk.next(), "copy 1+3");
  });

  test("across the end of a mapping: page by page", () => {
    const walk = one();
    walk.next();
    assert.equal(walk.settle("unregistered"), "next");
    assert.equal(walk.next(), "copy 0+1");
    assert.equal(walk.settle("unregistered"), "next");
    assert.equal(walk.next(), "copy 1+1");
  });

  test("no memory: it stops, but if all is asked for it rests", () => {
    const walk = one();
    walk.next();
    assert.equal(walk.settle("outOfMemory"), "stop");
    const complete = new Walk({ image: "####", isComplete: true });
    complete.next();
    assert.equal(complete.settle("outOfMemory"), "rest");
    assert.equal(complete.next(), "copy 0+4");
  });

  test("present again and again, of huge pages: the pool may be empty", () => {
    const image = "#".repeat(40);
    const walk = new Walk({ image, runs: [[0, 40]], pageSizeBytes: HUGE });
    const settlements: string[] = [];
    while (settlements.at(-1) !== "stop") {
      walk.next(1);
      settlements.push(walk.settle("alreadyPresent"));
    }
    assert.equal(settlements.length, 16);
  });
});

describe("bytes that are not here", () => {
  test("let the others go first, and are the next piece when they come", () => {
    const walk = new Walk({
      image: "########",
      runs: [
        [0, 4],
        [4, 2],
        [6, 2],
      ],
    });
    walk.next();
    walk.prefaulter.wait(7, 2);
    assert.equal(walk.next(), "copy 2+2", "what is beyond the missing part");
    walk.prefaulter.wait(8, 4);
    assert.equal(walk.next(1), "copy 4+1");
    walk.settle("installed");
    walk.prefaulter.settlePart(8, false);
    assert.equal(walk.next(), "copy 2+2");
    walk.settle("installed");
    assert.equal(walk.next(), "copy 5+1", "the run that was set aside");
    walk.settle("installed");
    assert.deepEqual(walk.all(), ["copy 6+2"]);
    assert.ok(walk.prefaulter.isWaiting);
    walk.prefaulter.settlePart(7, false);
    assert.deepEqual(walk.all(), ["copy 0+2"]);
    assert.equal(walk.prefaulter.finishPass(), true);
  });

  test("are passed over when they do not stay, and when they are lost", () => {
    const walk = new Walk({
      image: "####",
      runs: [
        [0, 2],
        [2, 2],
      ],
    });
    walk.next();
    walk.prefaulter.wait(1, 2);
    walk.next();
    walk.prefaulter.wait(2, 4);
    walk.prefaulter.settlePart(1, false);
    walk.prefaulter.settlePart(2, true);
    assert.equal(walk.next(), "copy 0+2");
    walk.prefaulter.wait(1, 2);
    assert.equal(walk.next(), null);
    assert.equal(walk.prefaulter.isWaiting, false);
    assert.equal(walk.prefaulter.finishPass(), true);
  });

  test("that came together are all taken, also behind the last run", () => {
    const walk = new Walk({ image: "####", runs: [[0, 4]] });
    for (const part of [10, 11, 12, 13]) {
      assert.ok(walk.next(1) !== null);
      walk.prefaulter.wait(part, 0);
    }
    assert.equal(walk.next(), null);
    for (const part of [10, 11, 12, 13]) walk.prefaulter.settlePart(part, false);
    assert.deepEqual(walk.all().sort(), ["copy 0+1", "copy 1+1", "copy 2+1", "copy 3+1"]);
    assert.equal(walk.prefaulter.isWaiting, false);
  });

  test("are waited for in a bounded number of pieces", () => {
    const walk = new Walk({ image: "#".repeat(100), runs: [[0, 100]] });
    let waiting = 0;
    while (walk.next(1) !== null) walk.prefaulter.wait(1000 + waiting++, 0);
    assert.equal(waiting, 32);
    walk.prefaulter.settlePart(1005, false);
    assert.equal(walk.next(), "copy 5+1", "room again, and what has come is first");
    walk.settle("installed");
    assert.equal(walk.next(1), "copy 32+1");
  });
});

describe("completion", () => {
  test("goes on to every page of every region, then all is done", () => {
    const walk = new Walk({
      image: "##.###",
      regionPages: [3, 3],
      runs: [[4, 1]],
      isComplete: true,
    });
    assert.deepEqual(walk.all(), ["copy 4+1", "copy 0+2", "zero 2+1", "copy 3+1", "copy 5+1"]);
    assert.equal(walk.prefaulter.finishPass(), true);
  });

  test("looks again after pages whose faults were under way, and whose bytes were lost", () => {
    const walk = new Walk({ image: "####", isComplete: true });
    walk.table.set(3, PageState.pending);
    walk.next(1);
    walk.prefaulter.wait(5, 1);
    walk.prefaulter.settlePart(5, true);
    assert.deepEqual(walk.all(), ["copy 1+2"]);
    assert.equal(walk.prefaulter.finishPass(), false);
    walk.table.set(3, PageState.missing);
    assert.deepEqual(walk.all(), ["copy 0+1", "copy 3+1"]);
    assert.equal(walk.prefaulter.finishPass(), true);
  });

  test("takes a page that somebody else has filled for done", () => {
    const walk = new Walk({ image: "##", isComplete: true });
    walk.next();
    walk.settle("alreadyPresent");
    assert.deepEqual(walk.all(), ["copy 1+1"]);
    assert.equal(walk.prefaulter.finishPass(), true);
  });

  test("does not believe that of a huge page", () => {
    const walk = new Walk({ image: "##", isComplete: true, pageSizeBytes: HUGE });
    walk.next();
    walk.settle("alreadyPresent");
    walk.all();
    assert.equal(walk.prefaulter.finishPass(), false);
  });
});

test("whatever the runs and outcomes: each page at most once, and none that was taken back", () => {
  const outcomes = ["installed", "partial", "deferred", "alreadyPresent", "unregistered"] as const;
  const runsOf = fc.array(fc.tuple(fc.nat(40), fc.integer({ min: 1, max: 12 })), { maxLength: 8 });
  const steps = fc.array(fc.tuple(fc.constantFrom(...outcomes), fc.integer({ min: 1, max: 9 })));
  fc.assert(
    fc.property(runsOf, steps, fc.array(fc.nat(39)), fc.boolean(), (runs, script, gone, all) => {
      const walk = new Walk({ image: "####....".repeat(5), runs, isComplete: all });
      const filled = new Set<number>();
      const removed = new Set(gone);
      for (const page of removed) walk.table.set(page, PageState.removed);
      for (const [outcome, pages] of script) {
        if (walk.next(pages) === null) break;
        const { firstPage, pageCount } = walk.prefaulter;
        const done =
          outcome === "installed"
            ? pageCount
            : outcome === "partial"
              ? Math.min(pages, pageCount)
              : 0;
        for (let page = firstPage; page < firstPage + done; page++) {
          assert.ok(!filled.has(page) && !removed.has(page), `page ${page}`);
          filled.add(page);
        }
        walk.settle(outcome, done);
      }
      for (const page of filled) assert.equal(walk.table.get(page), PageState.installed);
    }),
  );
});
