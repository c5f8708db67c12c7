/** The userfault bitmap: exactly the bits that were meant, and how many of them were set. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { UserfaultBitmap } from "../../src/base/userfault-bitmap.ts";

const PAGES = 256;

describe("a userfault bitmap", () => {
  test("clears any ranges, in any order, and counts what it has cleared", () => {
    const range = fc
      .tuple(fc.nat(PAGES), fc.nat(PAGES))
      .map(([a, b]) => [Math.min(a, b), Math.max(a, b)]);
    fc.assert(
      fc.property(fc.array(range, { maxLength: 12 }), (ranges) => {
        const memory = new Uint8Array(PAGES / 8).fill(0xff);
        const bitmap = new UserfaultBitmap(memory.buffer);
        const isSet = new Array<boolean>(PAGES).fill(true);
        for (const [first, end] of ranges as [number, number][]) {
          const expected = isSet.slice(first, end).filter(Boolean).length;
          assert.equal(bitmap.clear(first, end), expected);
          isSet.fill(false, first, end);
        }
        for (const [page, expected] of isSet.entries()) {
          assert.equal(bitmap.isSet(page), expected, `page ${page}`);
          // As KVM reads it: bit n of byte n / 8 is page n.
          assert.equal((memory[page >>> 3]! >>> (page & 7)) & 1, Number(expected));
        }
      }),
    );
  });

  test("refuses pages that it has no bit for", () => {
    const bitmap = new UserfaultBitmap(new ArrayBuffer(8));
    assert.equal(bitmap.pageLimit, 64);
    assert.throws(() => bitmap.clear(60, 65), /pages 60 to 65/);
    assert.throws(() => bitmap.clear(-1, 3), /pages -1 to 3/);
    assert.equal(bitmap.clear(64, 64), 0);
  });
});
