/** What a full cache keeps: sums that hold, and a scan that does no harm. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { S3Fifo } from "../../src/source/s3-fifo.ts";

/** A cache of so many bytes, as the tier uses the order. */
function read(order: S3Fifo, name: string, maxBytes: number, sizeBytes = 1): boolean {
  if (order.has(name)) {
    order.touch(name);
    return true;
  }
  while (order.count > 0 && order.sizeBytes + sizeBytes > maxBytes) order.evict();
  order.add(name, sizeBytes);
  return false;
}

describe("the order of eviction", () => {
  test("what is read again outlives any scan", () => {
    const order = new S3Fifo();
    const hot = Array.from({ length: 50 }, (_, index) => `hot ${index}`);
    for (let round = 0; round < 3; round++) for (const name of hot) read(order, name, 100);
    for (let index = 0; index < 1000; index++) read(order, `scan ${index}`, 100);
    const kept = hot.filter((name) => order.has(name)).length;
    assert.equal(kept, 50);
  });

  test("what comes back soon after it fell out is kept longer than what is new", () => {
    const order = new S3Fifo();
    for (let index = 0; index < 10; index++) order.addOld(`old ${index}`, 1);
    order.add("returns", 1);
    order.add("other", 1);
    assert.equal(order.evict(), "returns");
    order.add("returns", 1);
    order.add("new", 1);
    order.add("newer", 1);
    assert.equal(order.evict(), "other");
    assert.equal(order.evict(), "new");
    assert.ok(order.has("returns"));
  });

  test("what had been kept goes oldest first", () => {
    const order = new S3Fifo();
    for (const name of ["a", "b", "c"]) order.addOld(name, 10);
    order.touch("a");
    assert.deepEqual([order.evict(), order.evict(), order.evict()], ["b", "c", "a"]);
    assert.equal(order.evict(), null);
  });

  test("sizes and counts are those of what is kept, whatever happens", () => {
    const name = fc.integer({ min: 0, max: 30 }).map(String);
    const step = fc.oneof(
      fc.record({
        does: fc.constant("read" as const),
        name,
        sizeBytes: fc.integer({ min: 1, max: 40 }),
      }),
      fc.record({ does: fc.constant("delete" as const), name }),
      fc.record({ does: fc.constant("old" as const), name }),
      fc.record({ does: fc.constant("evict" as const) }),
    );
    fc.assert(
      fc.property(fc.array(step, { maxLength: 300 }), (steps) => {
        const order = new S3Fifo();
        const model = new Map<string, number>();
        for (const each of steps) {
          if (each.does === "read" && !order.has(each.name)) {
            order.add(each.name, each.sizeBytes);
            model.set(each.name, each.sizeBytes);
          } else if (each.does === "read") order.touch(each.name);
          else if (each.does === "delete") {
            order.delete(each.name);
            model.delete(each.name);
          } else if (each.does === "old") {
            order.addOld(each.name, 7);
            if (!model.has(each.name)) model.set(each.name, 7);
          } else {
            const evicted = order.evict();
            assert.equal(evicted === null, model.size === 0, "one is evicted if there is one");
            if (evicted !== null) assert.ok(model.delete(evicted), "it was kept");
          }
          assert.equal(order.count, model.size);
          assert.equal(
            order.sizeBytes,
            [...model.values()].reduce((sum, size) => sum + size, 0),
          );
        }
      }),
      { numRuns: 300 },
    );
  });
});
