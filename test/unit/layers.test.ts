/** Flattened layers against a model that asks every layer for every page. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  MIXED_OWNERS,
  type OwnerRuns,
  ownerOf,
  runAt,
  runEnd,
  ZERO_OWNER,
} from "../../src/base/owner-runs.ts";
import { SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { type Extent, flattenLayers } from "../../src/snapshot/layers.ts";

const PAGE = SMALL_PAGE_BYTES;

/** `"##..#"`: which pages of a layer hold data. */
function extentsOf(pages: readonly boolean[]): Extent[] {
  const extents: Extent[] = [];
  for (const [page, isData] of pages.entries()) {
    if (!isData) continue;
    const last = extents.at(-1);
    const start = page * PAGE;
    if (last?.end === start) extents[extents.length - 1] = { ...last, end: start + PAGE };
    else extents.push({ start, end: start + PAGE });
  }
  return extents;
}

const drawn = (layer: string): boolean[] => [...layer].map((mark) => mark === "#");

function flatten(...layers: readonly string[]): OwnerRuns {
  return flattenLayers(
    layers[0]!.length * PAGE,
    layers.map((layer) => extentsOf(drawn(layer))),
  );
}

/** The topmost layer that holds a page. */
function naiveOwner(layers: readonly (readonly boolean[])[], page: number): number {
  return layers.findLastIndex((layer) => layer[page] === true);
}

/** What `ownerOf` promises, straight from its comment. */
function naiveOwnerOf(owners: readonly number[]): number {
  const distinct = new Set(owners);
  if (distinct.size === 1) return owners[0]!;
  return [...distinct].every((owner) => owner <= 0) ? 0 : MIXED_OWNERS;
}

/** Up to 6 layers over up to 40 pages; some with no data at all, some with nothing but data. */
const anyStack = fc.integer({ min: 1, max: 40 }).chain((pages) => {
  const drawnPages = fc.array(fc.boolean(), { minLength: pages, maxLength: pages });
  const layer = fc.oneof(
    { weight: 6, arbitrary: drawnPages },
    { weight: 1, arbitrary: fc.constant(new Array<boolean>(pages).fill(true)) },
    { weight: 1, arbitrary: fc.constant(new Array<boolean>(pages).fill(false)) },
  );
  return fc.array(layer, { minLength: 1, maxLength: 6 });
});

describe("flattenLayers", () => {
  test("every page belongs to the topmost layer that holds it", () => {
    fc.assert(
      fc.property(anyStack, (layers) => {
        const pages = layers[0]!.length;
        const runs = flattenLayers(pages * PAGE, layers.map(extentsOf));
        for (let page = 0; page < pages; page++) {
          const expected = naiveOwner(layers, page);
          assert.equal(ownerOf(runs, page * PAGE, PAGE), expected, `page ${page}`);
          assert.equal(runs.owners[runAt(runs, page * PAGE + PAGE - 1)], expected, "its last byte");
        }
      }),
      { numRuns: 500 },
    );
  });

  test("runs begin at 0, ascend, end with the image, and neighbours differ", () => {
    fc.assert(
      fc.property(anyStack, (layers) => {
        const sizeBytes = layers[0]!.length * PAGE;
        const runs = flattenLayers(sizeBytes, layers.map(extentsOf));
        assert.equal(runs.starts[0], 0);
        assert.equal(runs.starts.length, runs.owners.length);
        assert.equal(runEnd(runs, runs.starts.length - 1), sizeBytes);
        for (let run = 1; run < runs.starts.length; run++) {
          assert.ok(runs.starts[run]! > runs.starts[run - 1]!, `start of run ${run}`);
          assert.notEqual(runs.owners[run], runs.owners[run - 1], `owner of run ${run}`);
          assert.equal(runEnd(runs, run - 1), runs.starts[run], `end of run ${run - 1}`);
        }
      }),
      { numRuns: 500 },
    );
  });

  test("extents that touch count as one, however the file system cuts them", () => {
    fc.assert(
      fc.property(anyStack, (layers) => {
        const cut = layers.map((layer) =>
          layer.flatMap((isData, page) =>
            isData ? [{ start: page * PAGE, end: (page + 1) * PAGE }] : [],
          ),
        );
        const sizeBytes = layers[0]!.length * PAGE;
        assert.deepEqual(
          flattenLayers(sizeBytes, cut),
          flattenLayers(sizeBytes, layers.map(extentsOf)),
        );
      }),
    );
  });

  test("the drawing in its comment is what comes out", () => {
    const runs = flatten("######..########", ".####......#....", "..##......####..");
    const owners = Array.from({ length: 16 }, (_, page) => ownerOf(runs, page * PAGE, PAGE));
    const drawing = owners.map((owner) => (owner === ZERO_OWNER ? "Z" : String(owner))).join("");
    assert.equal(drawing, "012210ZZ00222200");
  });

  test("a base without data is one run of zeroes; a full diff hides all below", () => {
    assert.deepEqual([...flatten("....").owners], [ZERO_OWNER]);
    assert.deepEqual([...flatten("#.#.", ".#.#", "####").owners], [2]);
  });

  test("runs lie in shared memory, so that worker threads need no copy", () => {
    const { starts, owners } = flatten("#..#");
    assert.ok(starts.buffer instanceof SharedArrayBuffer);
    assert.ok(owners.buffer instanceof SharedArrayBuffer);
  });

  test("an image without bytes, and extents outside of it, are our own bugs", () => {
    const bug = { name: "AssertionError" };
    assert.throws(() => flattenLayers(0, [[]]), bug);
    assert.throws(() => flattenLayers(PAGE, [[{ start: 0, end: 2 * PAGE }]]), bug);
    assert.throws(() => flattenLayers(PAGE, [[{ start: 0, end: 0 }]]), bug);
  });
});

describe("ownerOf", () => {
  test("of any range: the one owner, base for base and zero, else mixed", () => {
    fc.assert(
      fc.property(anyStack, fc.nat(), fc.nat(), (layers, a, b) => {
        const pages = layers[0]!.length;
        const first = a % pages;
        const count = 1 + (b % (pages - first));
        const owners = Array.from({ length: count }, (_, page) => naiveOwner(layers, first + page));
        const runs = flattenLayers(pages * PAGE, layers.map(extentsOf));
        assert.equal(ownerOf(runs, first * PAGE, count * PAGE), naiveOwnerOf(owners));
      }),
      { numRuns: 500 },
    );
  });

  const cases: readonly (readonly [string, readonly string[], number])[] = [
    ["nothing anywhere is zero", ["....", "...."], ZERO_OWNER],
    ["base only is base", ["####", "...."], 0],
    ["base beside zero is base: its mapping has the zeroes", ["#..#", "...."], 0],
    ["zero first, then base, is base", ["...#", "...."], 0],
    ["one diff only is that diff", ["....", "####"], 1],
    ["a diff beside zero is mixed: its holes mean look below", ["....", "##.."], MIXED_OWNERS],
    ["a diff beside base is mixed", ["####", "#..."], MIXED_OWNERS],
    ["two diffs are mixed", ["....", "##..", "..##"], MIXED_OWNERS],
    ["base, zero, then a diff at the very end is mixed", ["#...", "...#"], MIXED_OWNERS],
  ];
  for (const [name, layers, expected] of cases) {
    test(name, () => assert.equal(ownerOf(flatten(...layers), 0, 4 * PAGE), expected));
  }

  test("the byte after a range does not count", () => {
    const runs = flatten("##..", "..##");
    assert.equal(ownerOf(runs, 0, 2 * PAGE), 0);
    assert.equal(ownerOf(runs, 0, 2 * PAGE + 1), MIXED_OWNERS);
    assert.equal(ownerOf(runs, 2 * PAGE, 2 * PAGE), 1);
  });

  test("bytes beyond the end of the image are our own bug, not an endless search", () => {
    const runs = flatten("##..", "..##");
    assert.throws(() => ownerOf(runs, 3 * PAGE, 2 * PAGE), { name: "AssertionError" });
    assert.throws(() => ownerOf(runs, 4 * PAGE, PAGE), { name: "AssertionError" });
  });
});

describe("runAt", () => {
  test("finds each run by its first and its last byte", () => {
    const runs = flatten("#.##..#.", "..#....#");
    for (let run = 0; run < runs.starts.length; run++) {
      assert.equal(runAt(runs, runs.starts[run]!), run);
      assert.equal(runAt(runs, runEnd(runs, run) - 1), run);
    }
  });
});
