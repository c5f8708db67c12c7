/** The ring of a trace: what is read is what was written, or is told as lost. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Cause } from "../../src/base/restore-causes.ts";
import { RECORD_WORDS, Trace, TraceRing } from "../../src/engine/trace-ring.ts";

const RECORDS = 8;

/** `count` records, numbered by their pages from `first` on. */
function write(ring: TraceRing, first: number, count: number): void {
  for (let page = first; page < first + count; page++) {
    ring.add(Trace.copy, Cause.store, page * 10, page, 2, 1.5);
  }
}

function pagesOf(words: Uint32Array, count: number): number[] {
  return Array.from({ length: count }, (_, index) => words[index * RECORD_WORDS + 1]!);
}

describe("a trace ring", () => {
  test("gives back what was written, in order, each once", () => {
    const ring = new TraceRing(TraceRing.allocate(RECORDS));
    const words = new Uint32Array(RECORDS * RECORD_WORDS);
    write(ring, 0, 3);
    const first = ring.read(0, words);
    assert.deepEqual(first, { count: 3, end: 3, lost: 0 });
    assert.deepEqual(pagesOf(words, 3), [0, 1, 2]);
    assert.deepEqual(
      [...words.subarray(0, 4)],
      [0, 0, 15, Trace.copy | (Cause.store << 8) | (2 << 16)],
    );
    write(ring, 3, 6);
    assert.deepEqual(ring.read(3, words), { count: 6, end: 9, lost: 0 });
    assert.deepEqual(pagesOf(words, 6), [3, 4, 5, 6, 7, 8]);
    assert.deepEqual(ring.read(9, words), { count: 0, end: 9, lost: 0 });
  });

  test("tells how many were overwritten, and gives none of which it is not sure", () => {
    const ring = new TraceRing(TraceRing.allocate(RECORDS));
    const words = new Uint32Array(RECORDS * RECORD_WORDS);
    write(ring, 0, 20);
    // The one that the writer may be in the middle of overwriting counts as lost, too.
    assert.deepEqual(ring.read(0, words), { count: 7, end: 20, lost: 13 });
    assert.deepEqual(pagesOf(words, 7), [13, 14, 15, 16, 17, 18, 19]);
  });

  test("reads as much as there is room for", () => {
    const ring = new TraceRing(TraceRing.allocate(RECORDS));
    const words = new Uint32Array(2 * RECORD_WORDS);
    write(ring, 0, 5);
    assert.deepEqual(ring.read(0, words), { count: 2, end: 2, lost: 0 });
    assert.deepEqual(ring.read(2, words), { count: 2, end: 4, lost: 0 });
    assert.deepEqual(ring.read(4, words), { count: 1, end: 5, lost: 0 });
  });

  test("keeps long times and costs within their words", () => {
    const ring = new TraceRing(TraceRing.allocate(RECORDS));
    const words = new Uint32Array(RECORD_WORDS);
    ring.add(Trace.zero, Cause.lost, 2 ** 32 + 7.9, 2 ** 31, 1e9, 1e12);
    ring.read(0, words);
    assert.deepEqual(
      [...words],
      [7, 2 ** 31, 0xffff_ffff, (Trace.zero | (Cause.lost << 8) | (0xffff << 16)) >>> 0],
    );
  });
});
