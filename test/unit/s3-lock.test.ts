/** The lock on a store in S3, in virtual time: one holder at a time, and the dead let go. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type LockObject, withS3Lock } from "../../src/source/s3-lock.ts";
import { VirtualTiming } from "../support/virtual-timing.ts";

const never = new AbortController().signal;
const FOREIGN = Buffer.from("other-host 1 abcd\n");

/** An object as a server has it that knows conditions, or does not. */
class Lock implements LockObject {
  bytes: Uint8Array | null = null;
  version = 0;
  conditions: "heeded" | "ignored" | "refused" = "heeded";
  /** Answers that get lost: the request is carried out all the same. */
  lostAnswers = 0;

  async read(): ReturnType<LockObject["read"]> {
    await Promise.resolve();
    return this.bytes === null ? null : { bytes: this.bytes, tag: `v${this.version}` };
  }

  async writeIf(bytes: Uint8Array, tag: string | null): Promise<boolean | null> {
    await Promise.resolve();
    if (this.conditions === "refused") return null;
    const isSo = tag === (this.bytes === null ? null : `v${this.version}`);
    if (this.conditions === "heeded" && !isSo) return false;
    this.bytes = bytes;
    this.version++;
    return this.lostAnswers-- <= 0;
  }

  get text(): string {
    return Buffer.from(this.bytes!).toString();
  }
}

describe("the lock of a store in S3", () => {
  test("has one holder at a time, and all get it", async () => {
    const [lock, timing] = [new Lock(), new VirtualTiming()];
    let [holders, most, done] = [0, 0, 0];
    const contenders = Array.from({ length: 8 }, () =>
      withS3Lock("test:store", lock, never, timing, async () => {
        most = Math.max(most, ++holders);
        await new Promise<void>((resolve) => timing.after(1000, resolve));
        holders--;
        done++;
      }),
    );
    await timing.pass(60_000);
    await Promise.all(contenders);
    assert.deepEqual([most, done], [1, 8]);
    assert.equal(lock.text, "free\n");
  });

  test("is taken from a holder that has not been heard of for a minute, not before", async () => {
    const [lock, timing] = [new Lock(), new VirtualTiming()];
    lock.bytes = FOREIGN;
    let hasRun = false;
    const work = withS3Lock("test:store", lock, never, timing, async () => {
      hasRun = true;
    });
    await timing.pass(59_000);
    assert.equal(hasRun, false);
    await timing.pass(2000);
    await work;
    assert.equal(hasRun, true);
  });

  test("is waited for as long as its holders change, but not for ever", async () => {
    const [lock, timing] = [new Lock(), new VirtualTiming()];
    const change = (): void => {
      lock.bytes = FOREIGN;
      lock.version++;
      timing.after(30_000, change);
    };
    change();
    const work = withS3Lock("test:store", lock, never, timing, async () => assert.fail("it ran"));
    const failed = assert.rejects(work, { code: "store-failed", message: /last by "other-host 1/ });
    await timing.pass(200_000);
    await failed;
  });

  test("that is always free and never ours is given up", async () => {
    const [lock, timing] = [new Lock(), new VirtualTiming()];
    lock.writeIf = async () => false;
    const work = withS3Lock("test:store", lock, never, timing, async () => assert.fail("it ran"));
    const failed = assert.rejects(work, { code: "store-failed", message: /locked for 180 s/ });
    await timing.pass(200_000);
    await failed;
  });

  test("is known as ours also if the answer was lost", async () => {
    const [lock, timing] = [new Lock(), new VirtualTiming()];
    lock.lostAnswers = 1;
    const work = withS3Lock("test:store", lock, never, timing, async () => "done");
    await timing.pass(1000);
    assert.deepEqual(await work, { result: "done" });
  });

  for (const conditions of ["ignored", "refused"] as const) {
    test(`is none where conditions are ${conditions}`, async () => {
      const [lock, timing] = [new Lock(), new VirtualTiming()];
      lock.conditions = conditions;
      const work = withS3Lock("test:store", lock, never, timing, async () => assert.fail("it ran"));
      assert.equal(await work, null);
    });
  }

  test("lets nothing begin after ten seconds, and ends what runs after twenty", async () => {
    const [lock, timing] = [new Lock(), new VirtualTiming()];
    const seen: [atMs: number, mayBegin: boolean, isAborted: boolean][] = [];
    const startMs = timing.nowMs();
    const work = withS3Lock("test:store", lock, never, timing, async (mayBegin, held) => {
      for (const atMs of [9000, 11_000, 19_000, 21_000]) {
        const leftMs = startMs + atMs - timing.nowMs();
        await new Promise<void>((resolve) => timing.after(leftMs, resolve));
        seen.push([atMs, mayBegin(), held.aborted]);
      }
      held.throwIfAborted();
    });
    const failed = assert.rejects(work, { code: "store-failed", message: /longer than 20 s/ });
    await timing.pass(30_000);
    await failed;
    assert.deepEqual(seen, [
      [9000, true, false],
      [11_000, false, false],
      [19_000, false, false],
      [21_000, false, true],
    ]);
    assert.equal(lock.text, "free\n");
  });

  test("is let go when the work fails", async () => {
    const [lock, timing] = [new Lock(), new VirtualTiming()];
    const work = withS3Lock("test:store", lock, never, timing, async () => {
      throw new Error("enough");
    });
    await assert.rejects(work, /enough/);
    assert.equal(lock.text, "free\n");
  });

  test("is not waited for by whom nobody waits for any more", async () => {
    const [lock, timing] = [new Lock(), new VirtualTiming()];
    lock.bytes = FOREIGN;
    const stopped = new AbortController();
    const reason = new Error("enough");
    const work = withS3Lock("test:store", lock, stopped.signal, timing, async () => undefined);
    const failed = assert.rejects(work, reason);
    await timing.pass(1000);
    stopped.abort(reason);
    await failed;
    assert.equal(lock.bytes, FOREIGN);
  });
});
