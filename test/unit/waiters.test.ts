/** Who waits for which page: order, ends, fullness, and what outlives a process. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { MAX_WAITERS, NO_GPA, WaiterKind, Waiters } from "../../src/pager/waiters.ts";

const { request, ring } = WaiterKind;
const memory = (): ArrayBuffer => new ArrayBuffer(8 * Math.ceil(Waiters.sizeBytes / 8));

function withPages(...pages: readonly number[]): Waiters {
  const waiters = new Waiters(memory());
  for (const page of pages) waiters.add(request, page + 1, page, 0x10, NO_GPA, page * 4096);
  return waiters;
}

test("the last one takes the place of one that goes, with all that is known of it", () => {
  const waiters = withPages(10, 11, 12);
  waiters.markReady(12, 13);
  waiters.remove(0);
  const { pages, vcpus, offsets, length, readyCount } = waiters;
  assert.deepEqual([length, pages[0], vcpus[0], offsets[0]], [2, 12, 13, 12 * 4096]);
  assert.deepEqual([waiters.isReady(0), waiters.isReady(1), readyCount], [true, false, 1]);
  waiters.remove(0);
  assert.equal(waiters.readyCount, 0);
});

test("pages that are there: from the first on, and not the end", () => {
  const waiters = withPages(4, 5, 6, 5);
  waiters.markReady(5, 6);
  waiters.markReady(5, 6);
  const ready = [0, 1, 2, 3].map((index) => waiters.isReady(index));
  assert.deepEqual([ready, waiters.readyCount], [[false, true, false, true], 2]);
});

test("one that is added where a ready one has been is not ready", () => {
  const waiters = withPages(1);
  waiters.markReady(1, 2);
  waiters.remove(0);
  waiters.add(ring, 0, 1, 0, 4096, 0);
  assert.deepEqual([waiters.isReady(0), waiters.readyCount], [false, 0]);
});

test("who waits is known by way, vCPU and page", () => {
  const waiters = withPages(7);
  assert.ok(waiters.has(request, 8, 7));
  assert.ok(!waiters.has(ring, 8, 7) && !waiters.has(request, 7, 7) && !waiters.has(request, 8, 8));
});

test("there is room for so many, and the next process finds them", () => {
  const bytes = memory();
  const waiters = new Waiters(bytes);
  for (let page = 0; page < MAX_WAITERS; page++) assert.ok(waiters.add(ring, 1, page, 2, 3, 4));
  assert.ok(!waiters.add(ring, 1, 0, 2, 3, 4));
  waiters.markReady(0, MAX_WAITERS);
  const next = new Waiters(bytes);
  assert.deepEqual([next.length, next.readyCount], [MAX_WAITERS, 0]);
  const last = MAX_WAITERS - 1;
  assert.deepEqual([next.pages[last], next.kinds[last], next.gpas[last]], [last, ring, 3]);
});
