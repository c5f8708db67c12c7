/** Two bits a page: every state fits, and neighbours stay what they were. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { PageState, PageTable } from "../../src/pager/page-table.ts";

const anyState = fc.constantFrom(...Object.values(PageState));

function tableOf(pageCount: number): PageTable {
  return new PageTable(pageCount, new Uint8Array(PageTable.sizeBytes(pageCount)));
}

function statesOf(table: PageTable): PageState[] {
  return Array.from({ length: table.pageCount }, (_, page) => table.get(page));
}

describe("page table", () => {
  test("takes a quarter of a byte per page, rounded up", () => {
    const sizes = [0, 1, 4, 5, 8, 262_144].map((count) => PageTable.sizeBytes(count));
    assert.deepEqual(sizes, [0, 1, 1, 2, 2, 65_536]);
  });

  test("zeroed memory means that every page is missing", () => {
    assert.deepEqual(new Set(statesOf(tableOf(37))), new Set([PageState.missing]));
  });

  test("set changes one page and no neighbour", () => {
    const anySet = fc.tuple(fc.nat({ max: 40 }), anyState);
    fc.assert(
      fc.property(fc.array(anySet, { maxLength: 100 }), (sets) => {
        const table = tableOf(41);
        const model = statesOf(table);
        for (const [page, state] of sets) {
          table.set(page, state);
          model[page] = state;
          assert.deepEqual(statesOf(table), model);
        }
      }),
    );
  });

  test("removeRange does what setting page by page does, whatever was there", () => {
    const anyRange = fc.tuple(fc.nat({ max: 70 }), fc.nat({ max: 70 }));
    fc.assert(
      fc.property(
        fc.array(anyState, { minLength: 70, maxLength: 70 }),
        fc.array(anyRange, { minLength: 1, maxLength: 5 }),
        (initial, ranges) => {
          const table = tableOf(70);
          for (const [page, state] of initial.entries()) table.set(page, state);
          const model = [...initial];
          for (const [a, b] of ranges) {
            const [first, end] = [Math.min(a, b), Math.max(a, b)];
            table.removeRange(first, end);
            model.fill(PageState.removed, first, end);
          }
          assert.deepEqual(statesOf(table), model);
        },
      ),
      { numRuns: 500 },
    );
  });

  test("removeRange of every range of 12 pages touches exactly that range", () => {
    for (let first = 0; first <= 12; first++) {
      for (let end = first; end <= 12; end++) {
        const table = tableOf(12);
        for (let page = 0; page < 12; page++) table.set(page, PageState.installed);
        table.removeRange(first, end);
        const expected = Array.from({ length: 12 }, (_, page) =>
          page >= first && page < end ? PageState.removed : PageState.installed,
        );
        assert.deepEqual(statesOf(table), expected, `${first}..${end}`);
      }
    }
  });

  test("counts the pages of each state", () => {
    for (const pageCount of [1, 4, 7, 64, 65]) {
      const table = tableOf(pageCount);
      const expected = [0, 0, 0, 0];
      for (let page = 0; page < pageCount; page++) {
        const state = ((page * 7) % 4) as PageState;
        table.set(page, state);
        expected[state]! += 1;
      }
      assert.deepEqual(table.counts(), expected, `${pageCount} pages`);
    }
  });

  test("works in memory shared with another thread's table", () => {
    const memory = new SharedArrayBuffer(PageTable.sizeBytes(9));
    const writer = new PageTable(9, new Uint8Array(memory));
    const reader = new PageTable(9, new Uint8Array(memory));
    writer.set(8, PageState.pending);
    assert.equal(reader.get(8), PageState.pending);
  });

  test("pages and ranges outside of it, or memory too small, are our own bugs", () => {
    const table = tableOf(5);
    const bug = { name: "AssertionError" };
    for (const page of [-1, 5, Number.NaN]) {
      assert.throws(() => table.get(page), bug, `get ${page}`);
      assert.throws(() => table.set(page, PageState.removed), bug, `set ${page}`);
    }
    for (const [first, end] of [
      [-1, 2],
      [3, 2],
      [0, 6],
    ] as const) {
      assert.throws(() => table.removeRange(first, end), bug, `${first}..${end}`);
    }
    assert.throws(() => new PageTable(5, new Uint8Array(1)), bug);
  });
});

describe("forgetPending", () => {
  test("makes pending pages missing, counts them, and leaves all others alone", () => {
    const states = [0, 1, 2, 3, 1, 1, 1, 1, 3, 3, 2, 2, 0, 1] as const;
    const pages = tableOf(states.length);
    for (const [page, state] of states.entries()) pages.set(page, state);
    assert.equal(pages.forgetPending(), 6);
    const expected = states.map((state) => (state === PageState.pending ? 0 : state));
    assert.deepEqual(
      states.map((_, page) => pages.get(page)),
      expected,
    );
    assert.equal(pages.forgetPending(), 0);
  });
});
