/** Collecting garbage in S3, on servers that know conditional writes and on those that do not. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { CollectableS3Store, type TendedStore } from "../../src/source/collectable-s3-store.ts";
import { LOCK_NAME } from "../../src/source/s3-lock.ts";
import { MemoryStore } from "../support/memory-store.ts";
import { chunkName } from "../support/object-store-suite.ts";

const never = new AbortController().signal;
const HOUR_MS = 3_600_000;

/** Objects whose age a test sets; every tag is the content. */
class TendedMemory extends MemoryStore implements TendedStore {
  readonly modifiedMs = new Map<string, number>();
  conditions: "heeded" | "ignored" | "refused" = "heeded";
  /** Who touches or removes without the lock. */
  unlocked = 0;

  async readTagged(name: string): ReturnType<TendedStore["readTagged"]> {
    const bytes = this.objects.get(name);
    return bytes === undefined ? null : { bytes, tag: Buffer.from(bytes).toString() };
  }

  async writeIf(name: string, bytes: Uint8Array, tag: string | null): Promise<boolean | null> {
    if (this.conditions === "refused") return null;
    const isSo = ((await this.readTagged(name))?.tag ?? null) === tag;
    if (this.conditions === "heeded" && !isSo) return false;
    this.objects.set(name, bytes);
    return true;
  }

  async ageOf(name: string): ReturnType<TendedStore["ageOf"]> {
    if (!this.objects.has(name)) return null;
    const modifiedMs = this.modifiedMs.get(name) ?? Date.now();
    return { modifiedMs, ageMs: Date.now() - modifiedMs };
  }

  async touch(name: string): Promise<boolean> {
    this.#countUnlocked();
    this.modifiedMs.set(name, Date.now());
    return this.objects.has(name);
  }

  override async remove(name: string): Promise<void> {
    this.#countUnlocked();
    await super.remove(name);
  }

  #countUnlocked(): void {
    const lock = this.objects.get(LOCK_NAME);
    if (lock === undefined || Buffer.from(lock).toString() === "free\n") this.unlocked++;
  }
}

/** 100 chunks: every other is old. */
function stage(): { inner: TendedMemory; store: CollectableS3Store; old: string[]; all: string[] } {
  const inner = new TendedMemory("s3://bucket");
  const all = Array.from({ length: 100 }, (_, index) => chunkName(index));
  const old = all.filter((_, index) => index % 2 === 1);
  for (const name of all) inner.objects.set(name, Buffer.from(name));
  for (const name of old) inner.modifiedMs.set(name, Date.now() - 2 * HOUR_MS);
  return { inner, store: new CollectableS3Store(inner), old, all };
}

describe("a collectable store in S3", () => {
  test("removes what is old, and only under its lock", async () => {
    const { inner, store, old, all } = stage();
    const removed = await store.removeOlder(all, Date.now() - HOUR_MS, never);
    assert.deepEqual(removed, old);
    assert.deepEqual([inner.objects.size, inner.unlocked], [51, 0]);
    assert.equal(Buffer.from(inner.objects.get(LOCK_NAME)!).toString(), "free\n");
  });

  test("makes what is old young, only under its lock, and leaves what is young", async () => {
    const { inner, store, old, all } = stage();
    assert.deepEqual(await store.refresh([...all, chunkName(999)], never), [chunkName(999)]);
    assert.deepEqual([...inner.modifiedMs.keys()], old);
    assert.equal(inner.unlocked, 0);
    assert.deepEqual(await store.removeOlder(all, Date.now() - HOUR_MS, never), []);
  });

  for (const conditions of ["ignored", "refused"] as const) {
    test(`where conditions are ${conditions}, removes nothing and still finds gaps`, async () => {
      const { inner, store, all } = stage();
      inner.conditions = conditions;
      await assert.rejects(store.removeOlder(all, Date.now(), never), {
        code: "unsupported",
        message: /s3:\/\/bucket does not know conditional writes/,
      });
      assert.ok(all.every((name) => inner.objects.has(name)));
      const before = [...inner.modifiedMs.values()];
      assert.deepEqual(await store.refresh([...all, chunkName(999)], never), [chunkName(999)]);
      assert.deepEqual([...inner.modifiedMs.values()], before, "nothing is touched without a lock");
    });
  }
});
