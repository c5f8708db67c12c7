/** The plan of a pack: every chunk once, every byte of data read once, nothing else read. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { type PlannedChunk, planChunks } from "../../src/image/pack-plan.ts";
import { fixedIndex, ImageIndex } from "../../src/snapshot/image-index.ts";
import type { Extent } from "../../src/snapshot/layers.ts";

const PAGE = 4096;
const CHUNK = 4 * PAGE;

/** Pages as text: `#` data, `.` hole. */
function extentsOf(pages: string): Extent[] {
  const runs = pages.matchAll(/#+/g);
  return [...runs].map(({ index, 0: run }) => ({
    start: index * PAGE,
    end: (index + run.length) * PAGE,
  }));
}

function plan(pages: string, parent: ImageIndex | null = null): PlannedChunk[] {
  return [...planChunks(pages.length * PAGE, CHUNK, extentsOf(pages), parent)];
}

function parentOf(ends: readonly number[], sizes: readonly [number, number]): ImageIndex {
  const ids = Buffer.alloc(32 * ends.length);
  for (let chunk = 0; chunk < ends.length; chunk++) ids.writeUInt32BE(chunk + 1, chunk * 32);
  const [min, max] = sizes;
  return new ImageIndex("sha256", { min, average: min, max }, Float64Array.from(ends), ids);
}

describe("planning", () => {
  test("a memory file: holes are zero, and only data is read", () => {
    assert.deepEqual(plan("####.##.....#"), [
      {
        kind: "read",
        chunk: 0,
        start: 0,
        end: CHUNK,
        extents: [{ start: 0, end: CHUNK }],
        below: [],
      },
      {
        ...{ kind: "read", chunk: 1, start: CHUNK, end: 2 * CHUNK, below: [] },
        extents: [{ start: 5 * PAGE, end: 7 * PAGE }],
      },
      { kind: "zero", chunk: 2 },
      {
        ...{ kind: "read", chunk: 3, start: 3 * CHUNK, end: 13 * PAGE, below: [] },
        extents: [{ start: 12 * PAGE, end: 13 * PAGE }],
      },
    ]);
  });

  test("a diff: what it leaves alone is the parent's, what it touches is read over it", () => {
    const parent = fixedIndex("sha256", 3 * CHUNK, CHUNK, ids(3));
    const planned = plan("####.#......", parent);
    assert.deepEqual(
      planned.map(({ kind }) => kind),
      ["read", "read", "known"],
    );
    assert.deepEqual(belowOf(planned[0]!), [], "covered: the parent is not asked");
    assert.deepEqual(belowOf(planned[1]!), [1]);
    assert.deepEqual(planned[2], { kind: "known", chunk: 2, id: parent.id(2) });
  });

  test("a diff over boundaries by content: what straddles is put together", () => {
    const parent = parentOf([3 * PAGE, 9 * PAGE, 12 * PAGE], [PAGE, 8 * PAGE]);
    assert.deepEqual(plan("............", parent).map(belowOf), [[0, 1], [1], [1, 2]]);
  });

  test("property: each byte of data is read once, each byte below once", () => {
    const pages = fc.string({ unit: fc.constantFrom("#", "."), minLength: 1, maxLength: 60 });
    const cuts = fc.array(fc.integer({ min: 1, max: 59 }), { maxLength: 20 });
    fc.assert(
      fc.property(pages, cuts, fc.boolean(), (text, cutPages, hasParent) => {
        const inside = cutPages.filter((page) => page < text.length);
        const ends = [...new Set([...inside, text.length])].sort((a, b) => a - b);
        const bounds = ends.map((page) => page * PAGE);
        const parent = hasParent ? parentOf(bounds, [PAGE, 60 * PAGE]) : null;
        const planned = plan(text, parent);
        assert.deepEqual(
          planned.map(({ chunk }) => chunk),
          [...planned.keys()],
        );
        assert.equal(planned.length, Math.ceil(text.length / 4));
        assert.equal(describePages(planned, parent, text.length), text);
      }),
    );
  });
});

function belowOf(planned: PlannedChunk): readonly number[] {
  return planned.kind === "read" ? planned.below : [];
}

function ids(count: number): ReturnType<ImageIndex["id"]>[] {
  const index = parentOf(
    [...Array(count).keys()].map((chunk) => (chunk + 1) * CHUNK),
    [CHUNK, CHUNK],
  );
  return [...Array(count).keys()].map((chunk) => index.id(chunk));
}

/** The pages as the plan reads them; what is not read must lie in the parent, or be a hole. */
function describePages(
  planned: readonly PlannedChunk[],
  parent: ImageIndex | null,
  pageCount: number,
): string {
  const pages = Array.from({ length: pageCount }, () => ".");
  for (const each of planned) {
    if (each.kind !== "read") continue;
    let readBytes = 0;
    for (const { start, end } of each.extents) {
      assert.ok(start >= each.start && end <= each.end && start < end);
      readBytes += end - start;
      for (let page = start / PAGE; page < end / PAGE; page++) {
        assert.equal(pages[page], ".", "read twice");
        pages[page] = "#";
      }
    }
    if (parent === null || readBytes === each.end - each.start) continue;
    const [first, last] = [each.below[0]!, each.below.at(-1)!];
    assert.ok(parent.start(first) <= each.start && parent.end(last) >= each.end);
  }
  return pages.join("");
}
