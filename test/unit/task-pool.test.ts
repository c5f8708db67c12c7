/** Threads of a pool end when they are asked, at whatever moment, and take nobody with them. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { ReadItem, ReadResult } from "../../src/image/read-worker.ts";
import { inLanes, TaskPool } from "../../src/image/task-pool.ts";

const ROUNDS = 12;
const never = new AbortController().signal;

function readers(count: number): TaskPool<readonly ReadItem[], ReadResult> {
  const file = new URL("../../src/image/read-worker.js", import.meta.url);
  return new TaskPool(file, count, { digest: "sha256", outputFd: null });
}

describe("a pool", () => {
  test("may be closed while its threads still load", async () => {
    for (let round = 0; round < ROUNDS; round++) {
      await using _pool = readers(2);
      // Anywhere between before their first instruction and after their last import.
      const startMs = performance.now();
      while (performance.now() - startMs < round * 8) await new Promise(setImmediate);
    }
  });

  test("answers what it was asked before it was closed", async () => {
    const pool = readers(1);
    const item = { id: "0".repeat(64), sizeBytes: 10, offsets: [0], input: null };
    const answer = pool.run(0, [item as unknown as ReadItem]);
    await pool.close();
    assert.deepEqual(await answer, ["is missing"]);
  });

  test("tells an error of a task, and goes on", async () => {
    await using pool = readers(1);
    const broken = { id: "", sizeBytes: -1, offsets: [], input: { path: "/dev/null" } };
    await assert.rejects(pool.run(0, [broken as unknown as ReadItem]));
    assert.deepEqual(await pool.run(0, []), []);
  });

  test("whose threads cannot start fails its tasks", async () => {
    const file = new URL("./no-such-worker.js", import.meta.url);
    await using pool = new TaskPool<number, number>(file, 1, null);
    await assert.rejects(pool.run(0, 1), /Cannot find module/);
  });
});

describe("lanes", () => {
  test("stop at the first failure, which is told when all have stopped", async () => {
    let steps = 0;
    const lanes = inLanes(2, 2, never, async (worker) => {
      steps++;
      await new Promise(setImmediate);
      if (worker === 1 && steps > 10) throw new Error("enough");
      return true;
    });
    await assert.rejects(lanes, /enough/);
    assert.ok(steps < 20, `${steps} steps`);
  });

  test("stop for whom nobody waits any more", async () => {
    const interrupt = new AbortController();
    const lanes = inLanes(1, 1, interrupt.signal, async () => {
      interrupt.abort(new Error("interrupted"));
      return true;
    });
    await assert.rejects(lanes, /interrupted/);
  });
});
