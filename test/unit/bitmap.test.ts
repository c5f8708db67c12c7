/** Sets of pages as bits, compared with sets. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { hasBit, nextInEither, setBit, setBits } from "../../src/base/bitmap.ts";

const COUNT = 200;
const page = fc.nat(COUNT - 1);

function membersOf(bits: Uint8Array): number[] {
  return Array.from({ length: bits.length * 8 }, (_, index) => index).filter((index) =>
    hasBit(bits, index),
  );
}

function bitsOf(pages: readonly number[]): Uint8Array {
  const bits = new Uint8Array(COUNT / 8);
  for (const each of pages) setBit(bits, each);
  return bits;
}

describe("bitmaps", () => {
  test("hold what was set", () => {
    fc.assert(
      fc.property(fc.array(page), (pages) => {
        const sorted = [...new Set(pages)].sort((a, b) => a - b);
        assert.deepEqual(membersOf(bitsOf(pages)), sorted);
      }),
    );
  });

  test("setBits sets a range, and nothing beside it", () => {
    fc.assert(
      fc.property(fc.array(page), page, page, (pages, a, b) => {
        const [first, end] = [Math.min(a, b), Math.max(a, b)];
        const bits = bitsOf(pages);
        setBits(bits, first, end);
        const all = new Set(pages);
        for (let each = first; each < end; each++) all.add(each);
        assert.deepEqual(new Set(membersOf(bits)), all);
      }),
    );
  });

  test("nextInEither finds the members of both, in order, below the limit", () => {
    fc.assert(
      fc.property(fc.array(page), fc.array(page), page, page, (a, b, from, limit) => {
        const [left, right] = [bitsOf(a), bitsOf(b)];
        const found: number[] = [];
        for (let at = nextInEither(left, right, from, limit); at >= 0; ) {
          found.push(at);
          at = nextInEither(left, right, at + 1, limit);
        }
        const expected = [...new Set([...a, ...b])].filter((each) => each >= from && each < limit);
        assert.deepEqual(
          found,
          expected.sort((x, y) => x - y),
        );
      }),
    );
  });
});
