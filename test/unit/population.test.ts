/** Bytes, then bits: whole writes, short ones, pages that are there, and half a page. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { SMALL_PAGE_BYTES as PAGE } from "../../src/base/units.ts";
import { UserfaultBitmap } from "../../src/base/userfault-bitmap.ts";
import { type GuestFile, Population, type WriteRefusal } from "../../src/pager/population.ts";

const SOURCE = 0x10_0000;
const FIRST = 30;

/** Answers writes as a script says, and notes them, and which bits were clear by then. */
function populationOf(...answers: readonly (number | WriteRefusal)[]) {
  const bits = new Uint8Array(16).fill(0xff);
  const bitmap = new UserfaultBitmap(bits.buffer);
  const writes: string[] = [];
  const left = [...answers];
  const file: GuestFile = {
    write: (source, lengthBytes, offset) => {
      const first = offset / PAGE;
      assert.equal(source - SOURCE, offset - FIRST * PAGE);
      for (let page = FIRST; page < FIRST + 8; page++) assert.ok(bitmap.isSet(page), "too early");
      writes.push(`${first}+${lengthBytes / PAGE}`);
      return left.shift() ?? lengthBytes;
    },
  };
  const population = new Population(file, bitmap);
  const clear = (): number[] =>
    Array.from({ length: 128 }, (_, page) => page).filter((page) => !bitmap.isSet(page));
  return { population, writes, clear };
}

test("all bytes first, then exactly their bits", () => {
  const { population, writes, clear } = populationOf();
  assert.equal(population.install(FIRST, SOURCE, 4 * PAGE), "installed");
  assert.deepEqual([writes, clear()], [["30+4"], [30, 31, 32, 33]]);
  assert.deepEqual([population.doneBytes, population.presentPages], [4 * PAGE, 0]);
});

test("a short write goes on, over a page that is there already", () => {
  const { population, writes, clear } = populationOf(PAGE, "present");
  assert.equal(population.install(FIRST, SOURCE, 4 * PAGE), "installed");
  assert.deepEqual(
    [writes, clear()],
    [
      ["30+4", "31+3", "32+2"],
      [30, 31, 32, 33],
    ],
  );
  assert.equal(population.presentPages, 1);
});

test("half a page does not count: it is tried again, and its bit stays set", () => {
  const { population, writes, clear } = populationOf(PAGE + 5, 7);
  assert.equal(population.install(FIRST, SOURCE, 3 * PAGE), "partial");
  assert.deepEqual([writes, clear(), population.doneBytes], [["30+3", "31+2"], [30], PAGE]);
});

for (const refusal of ["outOfMemory", "badSource"] as const) {
  test(`${refusal}: nothing is cleared; behind something it is partial`, () => {
    const none = populationOf(refusal);
    assert.equal(none.population.install(FIRST, SOURCE, 2 * PAGE), refusal);
    assert.deepEqual([none.clear(), none.population.doneBytes], [[], 0]);
    const some = populationOf(PAGE, refusal);
    assert.equal(some.population.install(FIRST, SOURCE, 2 * PAGE), "partial");
    assert.deepEqual(some.clear(), [30]);
  });
}
