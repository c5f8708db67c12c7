/** The dashboard's model of a map, and the arithmetic of looking closer. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { CellMap } from "../../dashboard/cells.ts";
import {
  gridFor,
  isWhole,
  LEAST_VIEW_PAGES,
  pan,
  reveal,
  scaleFor,
  serves,
  viewBetween,
  wholeScale,
  wholeView,
  windowFor,
  zoomAt,
} from "../../dashboard/zoom.ts";
import { Cell, cellByte, MAX_CELLS } from "../../src/daemon/dashboard/protocol.ts";
import { changesOf, mapOf } from "../support/scripted-dashboard.ts";

const present = cellByte(Cell.present, 15);
const pending = cellByte(Cell.pending, 3);

function map(): CellMap {
  const states = Uint8Array.from([0, 0, present, 0, cellByte(Cell.zero, 15)]);
  return new CellMap(mapOf({ pageCount: 78, scale: 16, states }));
}

describe("a map of cells", () => {
  test("counts what it was told, and what changes", () => {
    const cells = map();
    assert.deepEqual([cells.count("untouched"), cells.count("present")], [3, 1]);
    const changed: [number, number][] = [];
    cells.apply(
      changesOf(1234, [
        [0, [present]],
        [2, [pending, present]],
      ]),
      (first, count) => {
        changed.push([first, count]);
      },
    );
    assert.deepEqual(changed, [
      [0, 1],
      [2, 2],
    ]);
    assert.deepEqual([...cells.states], [present, 0, pending, present, cellByte(Cell.zero, 15)]);
    const kinds = ["untouched", "pending", "present", "zero"] as const;
    assert.deepEqual(
      kinds.map((kind) => cells.count(kind)),
      [1, 1, 2, 1],
    );
    assert.deepEqual([cells.ages[0], cells.ages[1], cells.newestMs], [1234, 0xffffffff, 1234]);
  });

  test("has a cell's age when a page of it came, and at no other change", () => {
    const cells = new CellMap(mapOf({ pageCount: 16, scale: 16, states: Uint8Array.of(0) }));
    const ageAfter = (afterMs: number, kind: number, share: number): number => {
      cells.apply(changesOf(afterMs, [[0, [cellByte(kind, share)]]]), () => {});
      return cells.ages[0]!;
    };
    assert.equal(ageAfter(1, Cell.pending, 1), 0xffffffff);
    assert.equal(ageAfter(2, Cell.present, 1), 2);
    assert.equal(ageAfter(3, Cell.pending, 2), 2);
    assert.equal(ageAfter(4, Cell.present, 2), 4);
    assert.equal(ageAfter(5, Cell.present, 3), 5);
    assert.equal(ageAfter(6, Cell.present, 2), 5, "one was taken back");
    assert.equal(ageAfter(7, Cell.zero, 2), 7);
    assert.equal(ageAfter(8, Cell.dirty, 2), 7);
    assert.equal(ageAfter(9, Cell.removed, 2), 7);
    assert.equal(cells.newestMs, 7);
    assert.equal(ageAfter(10, Cell.prefaulted, 15), 10);
    assert.equal(ageAfter(11, Cell.dirty, 15), 10, "it was there, and was written to");
    assert.equal(ageAfter(12, Cell.present, 15), 10, "writes are not told of any more");
    assert.equal(ageAfter(13, Cell.pending, 15), 10);
    assert.equal(ageAfter(14, Cell.dirty, 15), 14, "it came, and was written to");
  });

  test("knows the pages of each cell, also of the last", () => {
    const cells = map();
    assert.deepEqual([cells.firstPageOf(4), cells.pagesOf(4), cells.pagesOf(0)], [64, 14, 16]);
    assert.deepEqual([cells.cellOf(0), cells.cellOf(79), cells.cellOf(80)], [0, 4, null]);
  });

  test("refuses what does not fit", () => {
    const beyond = changesOf(1, [[4, [present, present]]]);
    assert.throws(() => map().apply(beyond, () => {}), /beyond the map/);
    const states = new Uint8Array(3);
    const torn = mapOf({ pageCount: 48, scale: 16, states, layers: new Uint8Array(2) });
    assert.throws(() => new CellMap(torn), /different lengths/);
    const damaged = { afterMs: 1, count: 1, runs: Buffer.from([0, 9, 1]).toString("base64") };
    assert.throws(() => map().apply(damaged, () => {}), /damaged/);
  });
});

describe("looking closer", () => {
  const pageCount = 4_194_304;
  const whole = wholeView(pageCount);

  test("keeps what is pointed at in its place, and ends at the edges", () => {
    const closer = zoomAt(whole, pageCount / 4, 2, pageCount);
    assert.deepEqual(closer, { first: pageCount / 8, pages: pageCount / 2 });
    assert.deepEqual(zoomAt(whole, 0, 4, pageCount), { first: 0, pages: pageCount / 4 });
    assert.deepEqual(zoomAt(closer, pageCount / 4, 0.1, pageCount), whole);
    assert.equal(zoomAt(whole, 5, 1e9, pageCount).pages, LEAST_VIEW_PAGES);
    assert.ok(isWhole(whole, pageCount) && !isWhole(closer, pageCount));
  });

  test("never leaves the VM", () => {
    fc.assert(
      fc.property(
        fc.nat(5000),
        fc.double({ min: 0.1, max: 9, noNaN: true }),
        fc.nat(),
        (at, by, to) => {
          const views = [
            zoomAt({ first: at % 1000, pages: 1000 }, at % 2000, by, 2000),
            pan({ first: at % 1000, pages: 1000 }, at - 2500, 2000),
            reveal({ first: at % 1000, pages: 1000 }, to % 2000, 2000),
            viewBetween(at % 2000, to % 2000, 2000),
          ];
          for (const view of views) {
            assert.ok(view.first >= 0 && view.first + view.pages <= 2000, JSON.stringify(view));
            assert.ok(Number.isInteger(view.first) && Number.isInteger(view.pages));
          }
          const seen = views[2]!;
          assert.ok(to % 2000 >= seen.first && to % 2000 < seen.first + seen.pages);
        },
      ),
    );
  });

  test("small VMs show single pages at once, large ones cells of 64 KiB and more", () => {
    assert.equal(wholeScale(16_384, 4096), 1);
    assert.equal(wholeScale(131_072, 4096), 8);
    assert.equal(wholeScale(pageCount, 4096), 16);
    assert.equal(wholeScale(2 * pageCount + 1, 4096), 64);
    assert.equal(wholeScale(8192, 2 * 1024 * 1024), 1);
  });

  test("asks for a window that serves small steps too, within the bounds", () => {
    assert.equal(windowFor(whole, pageCount, 16), null);
    for (let pages = pageCount / 2; pages >= LEAST_VIEW_PAGES; pages = Math.floor(pages / 3)) {
      const view = { first: pageCount - pages - 100 > 0 ? pageCount - pages - 100 : 0, pages };
      const window = windowFor(view, pageCount, 16);
      const scale = scaleFor(view, 16);
      if (window === null) continue;
      assert.ok(window.cells <= MAX_CELLS && window.first % window.scale === 0);
      assert.ok(serves(window, view, pageCount, scale));
      assert.ok(serves(window, pan(view, -Math.floor(pages / 4), pageCount), pageCount, scale));
      assert.ok(!serves(window, pan(view, -2 * pages, pageCount), pageCount, scale) || pages > 1e6);
    }
    assert.equal(scaleFor({ first: 0, pages: 16_384 }, 16), 1);
  });

  test("cells fill the width, and fit", () => {
    fc.assert(
      fc.property(
        fc.integer({ min: 1, max: MAX_CELLS }),
        fc.integer({ min: 300, max: 3000 }),
        fc.integer({ min: 240, max: 1600 }),
        (cells, width, height) => {
          const { columns, rows, cellPixels } = gridFor(cells, width, height);
          assert.ok(columns * rows >= cells && columns * (rows - 1) < cells);
          assert.ok(columns * cellPixels <= width + 1e-6 && cellPixels >= 1);
          if (cells <= width * height)
            assert.ok(rows * cellPixels <= height + 1 || cellPixels <= 1);
        },
      ),
    );
  });
});
