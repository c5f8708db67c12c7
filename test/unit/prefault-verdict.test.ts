/** What a prefault was good for, by the sample that was held back. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { PageState, PageTable } from "../../src/pager/page-table.ts";
import { installedAhead, isPlanWrong, prefaultVerdict } from "../../src/pager/prefault-verdict.ts";

/** Pages 100 to 199 first, then 0 to 9; 10 to 13 are held back. */
const plan = {
  starts: Uint32Array.of(100, 0),
  counts: Uint32Array.of(100, 10),
  heldOut: Uint32Array.of(10, 11, 12, 13),
};
const range = (first: number, end: number): number[] =>
  Array.from({ length: end - first }, (_, index) => first + index);

describe("the verdict", () => {
  test("takes the held back pages for a sample of the others", () => {
    const demanded = Uint32Array.of(11, 13, 12, 150, 5, 500, 501);
    const verdict = prefaultVerdict(plan, { demanded, prefaultedPages: 108, faultUs: 50 });
    assert.deepEqual(verdict, {
      prefaultedPages: 108,
      usedPages: 81,
      wastedPages: 27,
      latePages: 2,
      unplannedPages: 2,
      savedUs: 4050,
    });
  });

  test("without a sample says nothing about use", () => {
    const bare = { ...plan, heldOut: new Uint32Array() };
    const demanded = Uint32Array.of(99);
    const verdict = prefaultVerdict(bare, { demanded, prefaultedPages: 110, faultUs: 50 });
    assert.deepEqual(
      [verdict.usedPages, verdict.wastedPages, verdict.savedUs, verdict.unplannedPages],
      [null, null, null, 1],
    );
  });
});

describe("a plan is wrong", () => {
  test("when the guest demands other pages, and enough of them", () => {
    assert.equal(isPlanWrong(plan, Uint32Array.from(range(1000, 1127))), false, "too few to tell");
    assert.equal(isPlanWrong(plan, Uint32Array.from(range(1000, 1128))), true);
    const some = [...range(1000, 1118), ...range(100, 118)];
    assert.equal(isPlanWrong(plan, Uint32Array.from(some)), false, "every eighth is known");
    const heldOut = [...range(1000, 1128), ...Array<number>(20).fill(11)];
    assert.equal(isPlanWrong(plan, Uint32Array.from(heldOut)), false, "the sample counts too");
  });
});

test("what was installed ahead is what is there and was not asked for", () => {
  const table = new PageTable(150, new Uint8Array(PageTable.sizeBytes(150)));
  table.installRange(100, 120);
  table.set(0, PageState.installed);
  table.set(2, PageState.removed);
  const ahead = installedAhead(plan, Uint32Array.of(105, 0, 119), table);
  assert.deepEqual([...ahead.starts], [100, 106, 2]);
  assert.deepEqual([...ahead.counts], [5, 13, 1]);
});
