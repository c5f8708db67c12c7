/** The request policy, in virtual time. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import type { RequestPolicy } from "../../src/source/request-policy.ts";
import { PolicyStore } from "../../src/source/store-policy.ts";
import { chunkName } from "../support/object-store-suite.ts";
import { ScriptedStore } from "../support/scripted-store.ts";
import { settle, VirtualTiming } from "../support/virtual-timing.ts";

const never = new AbortController().signal;
const CHUNK = chunkName(1);
const BYTES = Buffer.from("bytes");
const failure = new FaultlineError("store-failed", "Cannot read it: the server answers 503.");

function stage(policy: Partial<RequestPolicy> = {}): {
  timing: VirtualTiming;
  inner: ScriptedStore;
  store: PolicyStore;
} {
  const timing = new VirtualTiming();
  const inner = new ScriptedStore(timing);
  return { timing, inner, store: new PolicyStore(inner, policy, timing) };
}

/** How a promise ended, or null if it has not. */
function watch<T>(promise: Promise<T>): { result: T | null; error: unknown; isOver: boolean } {
  const outcome = { result: null as T | null, error: null as unknown, isOver: false };
  promise.then(
    (result) => Object.assign(outcome, { result, isOver: true }),
    (error) => Object.assign(outcome, { error, isOver: true }),
  );
  return outcome;
}

function assertFailed(error: unknown, pattern: RegExp): void {
  assert.ok(error instanceof FaultlineError, String(error));
  assert.equal(error.code, "store-failed");
  assert.match(error.message, pattern);
}

describe("retries", () => {
  test("what failed is asked for again after a pause, and then found", async () => {
    const { timing, inner, store } = stage();
    const read = watch(store.read(CHUNK, never));
    await settle();
    inner.requests[0]!.fail(failure);
    await timing.pass(24);
    assert.equal(inner.requests.length, 1, "half of 50 ms has not passed");
    await timing.pass(1);
    assert.equal(inner.requests.length, 2);
    inner.requests[1]!.answer(BYTES);
    await settle();
    assert.equal(read.result, BYTES);
    const { retries, attempts, reads, failures, bytesRead } = store.stats();
    assert.deepEqual(
      { retries, attempts, reads, failures, bytesRead },
      {
        retries: 1,
        attempts: 2,
        reads: 1,
        failures: 0,
        bytesRead: 5,
      },
    );
    assert.equal(timing.timerCount, 0, "no timer is left");
  });

  test("pauses double, up to two seconds, and chance takes from them", async () => {
    const { timing, inner, store } = stage();
    timing.chance = 0.999999;
    const read = watch(store.read(CHUNK, never));
    const startsMs: number[] = [];
    for (let attempt = 0; attempt < 9; attempt++) {
      await settle();
      startsMs.push(timing.nowMs());
      inner.requests[attempt]!.fail(failure);
      await settle();
      while (inner.requests.length === attempt + 1) await timing.pass(1);
    }
    const pauses = startsMs.slice(1).map((startMs, index) => startMs - startsMs[index]!);
    assert.deepEqual(pauses, [50, 100, 200, 400, 800, 1600, 2000, 2000]);
    assert.equal(read.isOver, false);
  });

  test("after the last attempt the store's error is told, as a cause", async () => {
    const { timing, inner, store } = stage({ maxAttempts: 3 });
    const read = watch(store.read(CHUNK, never));
    for (let attempt = 0; attempt < 3; attempt++) {
      await timing.pass(100);
      inner.requests[attempt]!.fail(failure);
    }
    await settle();
    assertFailed(
      read.error,
      /^Cannot read default.castr.* in test:store, after 3 attempts in \d+ ms$/,
    );
    assert.equal((read.error as Error).cause, failure);
    assert.equal(store.stats().failures, 1);
  });

  test("a refusal is not tried again, nor is a bug of ours", async () => {
    for (const error of [new FaultlineError("store-refused", "No."), new TypeError("x")]) {
      const { timing, inner, store } = stage();
      const read = watch(store.read(CHUNK, never));
      await settle();
      inner.requests[0]!.fail(error);
      await timing.pass(60_000);
      assert.equal(read.error, error);
      assert.equal(inner.requests.length, 1);
    }
  });

  test("what does not exist is an answer", async () => {
    const { inner, store } = stage();
    const read = watch(store.read(CHUNK, never));
    await settle();
    inner.requests[0]!.answer(null);
    await settle();
    assert.deepEqual([read.isOver, read.result, inner.requests.length], [true, null, 1]);
  });
});

describe("deadlines", () => {
  test("a request that hangs is given up, aborted, and made again", async () => {
    const { timing, inner, store } = stage();
    const read = watch(store.read(CHUNK, never));
    await timing.pass(4999);
    assert.equal(inner.requests[0]!.signal.aborted, false);
    await timing.pass(1);
    assert.equal(inner.requests[0]!.signal.aborted, true);
    await timing.pass(25);
    assert.equal(inner.requests.length, 2);
    inner.requests[1]!.answer(BYTES);
    await settle();
    assert.equal(read.result, BYTES);
    assert.equal(store.stats().timeouts, 1);
  });

  test("a store that hangs for ever and ignores its signal: an error at the deadline", async () => {
    const { timing, inner, store } = stage();
    const read = watch(store.read(CHUNK, never));
    await timing.pass(29_999);
    assert.equal(read.isOver, false);
    await timing.pass(1);
    assertFailed(read.error, /after 6 attempts in 30000 ms/);
    assert.equal(inner.requests.length, 6);
    assert.equal(timing.timerCount, 0);
  });

  test("no call outlives its deadline, whatever the store and chance do", async () => {
    for (let seed = 0; seed < 40; seed++) {
      const { timing, inner, store } = stage({ concurrency: 2, maxWaiting: 50 });
      timing.chance = (seed % 10) / 10;
      const calls = Array.from({ length: 12 }, () => watch(store.read(CHUNK, never)));
      const endMs = timing.nowMs() + 30_000;
      let answered = 0;
      while (timing.nowMs() < endMs) {
        await timing.pass(500);
        for (const request of inner.requests.slice(answered)) {
          if ((seed * 7 + answered++) % 3 !== 0) request.fail(failure);
        }
      }
      assert.ok(
        calls.every(({ isOver }) => isOver),
        `seed ${seed}: a call is still waiting`,
      );
      assert.equal(timing.timerCount, 0, `seed ${seed}: a timer is left`);
      assert.equal(store.stats().running, 0, `seed ${seed}: a turn is left`);
    }
  });

  test("an index has more time than a chunk", async () => {
    const { timing, inner, store } = stage();
    watch(store.read("image.caibx", never));
    await timing.pass(59_999);
    assert.equal(inner.requests.length, 1);
    await timing.pass(1 + 25);
    assert.equal(inner.requests.length, 2);
    await store.close();
  });
});

describe("aborts", () => {
  test("the caller's abort ends a read at once, with its reason, and is no failure", async () => {
    const { timing, inner, store } = stage();
    const stopped = new AbortController();
    const read = watch(store.read(CHUNK, stopped.signal));
    await settle();
    stopped.abort(new Error("enough"));
    await settle();
    assert.equal(read.error, stopped.signal.reason);
    assert.equal(inner.requests[0]!.signal.aborted, true);
    await timing.pass(60_000);
    assert.equal(inner.requests.length, 1);
    assert.equal(store.stats().failures, 0);
  });

  test("an abort in a pause and in the queue", async () => {
    const { timing, inner, store } = stage({ concurrency: 1 });
    const stopped = new AbortController();
    const first = watch(store.read(CHUNK, stopped.signal));
    const second = watch(store.read(CHUNK, stopped.signal));
    await settle();
    inner.requests[0]!.fail(failure);
    await settle();
    inner.requests[1]!.fail(failure);
    await settle();
    stopped.abort(new Error("enough"));
    await settle();
    assert.equal(first.error, stopped.signal.reason);
    assert.equal(second.error, stopped.signal.reason);
    assert.equal(timing.timerCount, 0);
    assert.deepEqual([store.stats().running, store.stats().waiting], [0, 0]);
  });

  test("closing ends what runs and what waits, and refuses what comes later", async () => {
    const { timing, inner, store } = stage({ concurrency: 1 });
    const calls = [watch(store.read(CHUNK, never)), watch(store.read(CHUNK, never))];
    await settle();
    await store.close();
    await settle();
    calls.push(watch(store.read(CHUNK, never)));
    await settle();
    for (const { error } of calls) assertFailed(error, /test:store was closed/);
    assert.deepEqual([inner.requests.length, inner.isClosed, timing.timerCount], [1, true, 0]);
  });
});

describe("turns", () => {
  test("no more requests at once than allowed, and the others in their order", async () => {
    const { inner, store } = stage({ concurrency: 2 });
    const reads = Array.from({ length: 5 }, (_, index) =>
      watch(store.read(chunkName(index), never)),
    );
    const asked = (): string[] => inner.requests.map(({ name }) => name);
    await settle();
    assert.deepEqual(asked(), [chunkName(0), chunkName(1)]);
    inner.requests[1]!.answer(BYTES);
    await settle();
    assert.deepEqual(asked(), [0, 1, 2].map(chunkName));
    for (let index = 0; index < 5; index++) {
      inner.requests[index]!.answer(BYTES);
      await settle();
    }
    assert.deepEqual(asked(), [0, 1, 2, 3, 4].map(chunkName));
    assert.ok(reads.every(({ result }) => result === BYTES));
  });

  test("demand goes before prefetch, also prefetch that a guest waits for now", async () => {
    const { inner, store } = stage({ concurrency: 1 });
    const order = ["running", "prefetch 1", "prefetch 2", "demand"];
    for (const name of order) {
      watch(store.read(name, never, name.startsWith("prefetch") ? "prefetch" : "demand"));
    }
    store.hurry("prefetch 2");
    for (let index = 0; index < 4; index++) {
      await settle();
      inner.requests[index]!.answer(BYTES);
    }
    await settle();
    const asked = inner.requests.map(({ name }) => name);
    assert.deepEqual(asked, ["running", "demand", "prefetch 2", "prefetch 1"]);
    assert.deepEqual(inner.hurried, ["prefetch 2"]);
    assert.equal(inner.requests[3]!.urgency, "prefetch");
  });

  test("a full queue refuses; demand takes the place of the last prefetch", async () => {
    const { timing, store } = stage({ concurrency: 1, maxWaiting: 2, maxAttempts: 1 });
    const running = watch(store.read("running", never));
    const prefetches = ["1", "2"].map((name) => watch(store.read(name, never, "prefetch")));
    await settle();
    const third = watch(store.read("3", never, "prefetch"));
    const demand = watch(store.read("4", never));
    await settle();
    assertFailed(third.error, /^Cannot ask for 3: 2 requests wait/);
    assertFailed(prefetches[1]!.error, /^Cannot ask for 2: 2 requests wait/);
    assert.deepEqual(
      [running, prefetches[0]!, demand].map(({ isOver }) => isOver),
      [false, false, false],
    );
    assert.equal(store.stats().displaced, 2);
    await store.close();
    await timing.pass(1);
  });
});

describe("hedging", () => {
  const QUICK_MS = 20;

  /** A store that has answered often enough to be known: in 20 ms. */
  async function known(policy: Partial<RequestPolicy> = {}): Promise<ReturnType<typeof stage>> {
    const all = stage(policy);
    all.inner.latencyMs = () => QUICK_MS;
    for (let round = 0; round < 64; round++) {
      const read = all.store.read(CHUNK, never);
      await all.timing.pass(QUICK_MS);
      await read;
    }
    all.inner.latencyMs = null;
    all.inner.requests.length = 0;
    return all;
  }

  test("a read that takes longer than nearly all others is asked for twice", async () => {
    const { timing, inner, store } = await known();
    const read = watch(store.read(CHUNK, never));
    await timing.pass(QUICK_MS - 3);
    assert.equal(inner.requests.length, 1);
    await timing.pass(6);
    assert.equal(inner.requests.length, 2);
    inner.requests[1]!.answer(BYTES);
    await settle();
    assert.equal(read.result, BYTES);
    assert.equal(inner.requests[0]!.signal.aborted, true, "the slow one is let go");
    const { hedges, hedgesWon, running } = store.stats();
    assert.deepEqual({ hedges, hedgesWon, running }, { hedges: 1, hedgesWon: 1, running: 0 });
    assert.equal(timing.timerCount, 0);
  });

  test("if one of both fails, the other still counts; if both do, it is a failure", async () => {
    for (const last of [0, 1]) {
      const { timing, inner, store } = await known({ maxAttempts: 1 });
      const read = watch(store.read(CHUNK, never));
      await timing.pass(2 * QUICK_MS);
      inner.requests[1 - last]!.fail(failure);
      await settle();
      assert.equal(read.isOver, false);
      inner.requests[last]!.answer(BYTES);
      await settle();
      assert.equal(read.result, BYTES);
      const again = watch(store.read(CHUNK, never));
      await timing.pass(2 * QUICK_MS);
      inner.requests[2]!.fail(failure);
      inner.requests[3]!.fail(failure);
      await settle();
      assert.equal(again.error, failure);
    }
  });

  test("a store that became slow gets 5 % more requests, not twice as many", async () => {
    const { timing, inner, store } = await known();
    inner.latencyMs = () => 50 * QUICK_MS;
    const { hedges: before } = store.stats();
    for (let round = 0; round < 400; round++) {
      const read = store.read(CHUNK, never);
      await timing.pass(50 * QUICK_MS);
      await read;
    }
    const hedges = store.stats().hedges - before;
    assert.ok(hedges > 0 && hedges <= 0.05 * 464 + 1, `${hedges} hedges`);
  });

  test("none without a free turn, before the store is known, or if switched off", async () => {
    const busy = await known({ concurrency: 1 });
    watch(busy.store.read(CHUNK, never));
    await busy.timing.pass(1000);
    assert.equal(busy.inner.requests.length, 1);
    const off = await known({ hedgeShare: 0 });
    watch(off.store.read(CHUNK, never));
    await off.timing.pass(1000);
    assert.equal(off.inner.requests.length, 1);
    const fresh = stage();
    watch(fresh.store.read(CHUNK, never));
    await fresh.timing.pass(1000);
    assert.equal(fresh.inner.requests.length, 1);
  });

  test("what is written, looked for and removed is asked for once", async () => {
    const { timing, inner, store } = await known();
    watch(store.write(CHUNK, BYTES, never));
    watch(store.exists(CHUNK, never));
    watch(store.remove(CHUNK, never));
    await timing.pass(1000);
    assert.equal(inner.requests.length, 3);
  });
});
