/** The map's cells: what a viewer was told, with all changes, is what a look at every page says. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setBit } from "../../src/base/bitmap.ts";
import type { PageFacts } from "../../src/daemon/dashboard/cell-kinds.ts";
import { MapCells, type MapWindow, type PageSight } from "../../src/daemon/dashboard/map-cells.ts";
import {
  addPages,
  hasPage,
  newPageBits,
  type PageBits,
  zeroPagesOf,
} from "../../src/daemon/dashboard/page-bits.ts";
import {
  Cell,
  cellByte,
  decodeBase64,
  decodeRuns,
  FULL_SHARE,
  kindOfCell,
  shareOfCell,
} from "../../src/daemon/dashboard/protocol.ts";
import { PageState, PageTable } from "../../src/pager/page-table.ts";
import { Random } from "../support/fixtures.ts";

/** A VM without anything but its pages. */
class Pages {
  readonly table: PageTable;
  readonly demanded: number[] = [];
  readonly dirty: Uint8Array | null;
  readonly zero: PageBits;
  planned: PageBits | null;
  readonly existing: PageBits | null;
  readonly count: number;

  constructor(random: Random, count: number) {
    this.count = count;
    // At an odd place of its memory, as nothing says where that lies.
    const bytes = PageTable.sizeBytes(count);
    this.table = new PageTable(count, new Uint8Array(new ArrayBuffer(bytes + 9), 3, bytes));
    this.dirty = random.below(2) === 0 ? null : new Uint8Array(Math.ceil(count / 8));
    this.zero = this.#some(random);
    this.planned = random.below(2) === 0 ? null : this.#some(random);
    this.existing = random.below(2) === 0 ? null : this.#some(random);
  }

  replan(random: Random): PageBits {
    this.planned = this.#some(random);
    return this.planned;
  }

  get facts(): PageFacts {
    const { zero, planned, existing, count } = this;
    return { zero, planned, existing, demanded: newPageBits(count) };
  }

  get sight(): PageSight {
    const { table, dirty } = this;
    return { states: table.bytes, demanded: () => Uint32Array.from(this.demanded), dirty };
  }

  change(random: Random): void {
    const page = random.below(this.count);
    const end = Math.min(this.count, page + 1 + random.below(40));
    switch (random.below(7)) {
      case 0:
        this.table.removeRange(page, end);
        return;
      case 1:
        this.table.installRange(page, end);
        return;
      case 2:
        if (this.dirty !== null) setBit(this.dirty, page);
        return;
      case 3:
        if (!this.demanded.includes(page)) this.demanded.push(page);
        return;
      case 4:
        this.table.set(page, PageState.pending);
        return;
      default:
        this.table.set(page, random.below(4) as PageState);
    }
  }

  /** What a cell is, page by page. */
  cell(first: number, end: number): number {
    const counts = new Map<number, number>();
    let pages = 0;
    for (let page = first; page < Math.min(end, this.count); page++) {
      if (this.existing !== null && !hasPage(this.existing, page)) continue;
      pages += 1;
      for (const kind of this.#kindsOf(page)) counts.set(kind, (counts.get(kind) ?? 0) + 1);
    }
    const of = (kind: number): number => counts.get(kind) ?? 0;
    const touched = pages - of(Cell.untouched);
    if (pages === 0) return cellByte(Cell.none, 0);
    if (touched === 0) return cellByte(Cell.untouched, 0);
    const share = Math.ceil((FULL_SHARE * touched) / pages);
    if (of(Cell.pending) > 0) return cellByte(Cell.pending, share);
    if (of(Cell.dirty) > 0) return cellByte(Cell.dirty, share);
    const kinds = [Cell.present, Cell.zero, Cell.prefaulted, Cell.removed];
    return cellByte(
      kinds.reduce((a, b) => (of(b) > of(a) ? b : a)),
      share,
    );
  }

  #some(random: Random): PageBits {
    const bits = newPageBits(this.count);
    for (let runs = 0; runs < 5; runs++) {
      const first = random.below(this.count);
      addPages(bits, first, first + random.below(this.count - first) + 1);
    }
    return bits;
  }

  #kindsOf(page: number): number[] {
    const state = this.table.get(page);
    const isDirty = this.dirty !== null && (this.dirty[page >> 3]! & (1 << (page & 7))) !== 0;
    if (state === PageState.removed) return [Cell.removed];
    const kinds: number[] = isDirty ? [Cell.dirty] : [];
    if (state === PageState.pending) return [...kinds, Cell.pending];
    if (state === PageState.missing) return isDirty ? kinds : [Cell.untouched];
    if (hasPage(this.zero, page)) return [...kinds, Cell.zero];
    const isPlanned = this.planned !== null && hasPage(this.planned, page);
    const isAhead = isPlanned && !this.demanded.includes(page);
    return [...kinds, isAhead ? Cell.prefaulted : Cell.present];
  }
}

function windowOf(random: Random, pageCount: number): MapWindow {
  const first = random.below(3) === 0 ? 0 : random.below(pageCount);
  const scale = random.pick([1, 2, 3, 16, 17, 32, 100, 512]);
  const most = Math.ceil((pageCount - first) / scale);
  return { first, scale, cells: 1 + random.below(most) };
}

function expected(pages: Pages, { first, scale, cells }: MapWindow): Uint8Array {
  return Uint8Array.from({ length: cells }, (_, cell) =>
    pages.cell(first + cell * scale, first + (cell + 1) * scale),
  );
}

describe("cells", () => {
  test("a map and its changes are what a look at every page says, in any window", () => {
    const random = new Random(7);
    for (let round = 0; round < 150; round++) {
      const pages = new Pages(random, 1 + random.below(700));
      for (let change = random.below(60); change > 0; change--) pages.change(random);
      const window = windowOf(random, pages.count);
      const cells = new MapCells(pages.count, window, pages.facts, pages.sight);
      // In turns, between which things change.
      while (cells.fill(1 + random.below(50))) if (random.below(4) === 0) pages.change(random);
      cells.update(pages.sight);
      const seen = cells.states.slice();
      assert.deepEqual(seen, expected(pages, window), `round ${round}, at first`);
      for (let look = 0; look < 12; look++) {
        for (let change = random.below(30); change > 0; change--) pages.change(random);
        if (random.below(6) === 0) cells.replan(pages.replan(random));
        // Events that are left out change nothing: the next one tells all.
        const update = cells.update(pages.sight);
        let count = 0;
        if (update !== null) {
          decodeRuns(update.runs, (first, states) => {
            for (const [index, state] of states.entries()) {
              assert.notEqual(seen[first + index], state, "only what has changed is told");
              count += 1;
            }
            seen.set(states, first);
          });
        }
        assert.equal(count, update?.count ?? 0);
        assert.deepEqual(seen, expected(pages, window), `round ${round}, look ${look}`);
        assert.equal(cells.update(pages.sight), null, "nothing has changed since");
      }
    }
  });

  test("tell what kind they are, and how much of them is touched", () => {
    const byte = cellByte(Cell.prefaulted, 9);
    assert.deepEqual([kindOfCell(byte), shareOfCell(byte)], [Cell.prefaulted, 9]);
    const pages = new Pages(new Random(1), 16);
    const table = new PageTable(16, new Uint8Array(4));
    const facts = { zero: newPageBits(16), planned: null, existing: null };
    const window = { first: 0, scale: 16, cells: 1 };
    const sight = {
      ...pages.sight,
      states: table.bytes,
      demanded: () => new Uint32Array(),
      dirty: null,
    };
    const cells = new MapCells(16, window, { ...facts, demanded: newPageBits(16) }, sight);
    assert.equal(cells.fill(1), false);
    assert.equal(cells.states[0], cellByte(Cell.untouched, 0));
    table.set(3, PageState.installed);
    cells.update({ ...sight, states: table.bytes });
    assert.equal(cells.states[0], cellByte(Cell.present, 1), "one page of 16 shows");
    table.set(4, PageState.pending);
    cells.update({ ...sight, states: table.bytes });
    assert.equal(cells.states[0], cellByte(Cell.pending, 2), "one that is waited for goes first");
    table.installRange(0, 16);
    cells.update({ ...sight, states: table.bytes });
    assert.equal(cells.states[0], cellByte(Cell.present, FULL_SHARE));
  });

  test("zero pages are those of which no layer has a byte", () => {
    // 0: zero; 1: half of it; 2 and 3: zero, in two runs that meet within page 3; 4: data.
    const starts = Float64Array.of(0, 6144, 8192, 13_000, 16_384);
    const owners = Int32Array.of(-1, 0, -1, -1, 1);
    const bits = zeroPagesOf({ sizeBytes: 20_480, starts, owners }, 4096, 5);
    const pages = [0, 1, 2, 3, 4].filter((page) => hasPage(bits, page));
    assert.deepEqual(pages, [0, 2, 3]);
  });

  test("damaged changes are refused", () => {
    for (const damaged of [[1], [0, 5, 1], [0, 255, 255, 255, 255, 255, 1]]) {
      assert.throws(() => decodeRuns(Uint8Array.from(damaged), () => undefined), /are damaged/);
    }
    assert.deepEqual(decodeBase64("AP8="), Uint8Array.of(0, 255));
  });
});
