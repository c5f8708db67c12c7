/** A near store in front of a far one: the suite, and what only a tier does. */
import assert from "node:assert/strict";
import { mkdirSync, writeFileSync } from "node:fs";
import { after, describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { NearChunks } from "../../src/source/near-chunks.ts";
import type { ObjectStore, Urgency } from "../../src/source/object-store.ts";
import { TierStore } from "../../src/source/tier-store.ts";
import { TestFolder } from "../support/fixtures.ts";
import {
  assertBytes,
  chunkName,
  names,
  objectStoreSuite,
  randomBytes,
} from "../support/object-store-suite.ts";
import { PlainDirectoryStore } from "../support/plain-directory-store.ts";
import { type Request, ScriptedStore } from "../support/scripted-store.ts";
import { settle } from "../support/virtual-timing.ts";

const never = new AbortController().signal;
const folder = new TestFolder();
after(() => folder[Symbol.dispose]());

let folders = 0;
function directory(): PlainDirectoryStore {
  const path = folder.at(`store-${folders++}`);
  mkdirSync(path);
  return new PlainDirectoryStore(path);
}

/** A directory that counts, and may fail. */
class CountingStore extends PlainDirectoryStore {
  reads = 0;
  writes = 0;
  isBroken = false;
  readonly urgencies: (Urgency | undefined)[] = [];

  override async read(
    name: string,
    signal: AbortSignal,
    urgency?: Urgency,
  ): Promise<Uint8Array | null> {
    this.reads++;
    this.urgencies.push(urgency);
    this.#mayFail();
    return await super.read(name, signal);
  }

  override async write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    this.writes++;
    this.#mayFail();
    await super.write(name, bytes, signal);
  }

  #mayFail(): void {
    if (this.isBroken) throw new FaultlineError("store-failed", "The disk is full.");
  }
}

function stage(maxBytes = 1e9): { near: CountingStore; far: CountingStore; tier: TierStore } {
  const near = new CountingStore(directory().path);
  const far = new CountingStore(directory().path);
  return { near, far, tier: new TierStore(near, far, { maxBytes }) };
}

const open = async (near: ObjectStore = directory()): Promise<{ store: ObjectStore }> => ({
  store: new TierStore(near, directory(), { maxBytes: 1e9 }),
});

objectStoreSuite("a plain directory", async () => ({ store: directory() }));
objectStoreSuite("a tier over two directories", () => open());
objectStoreSuite("a tier over a store in a folder", () =>
  open(DirectoryStore.open(folder.at(`store-${folders++}`), { create: true })),
);
objectStoreSuite("a tier whose near store is broken", async () => {
  const near = new CountingStore(directory().path);
  near.isBroken = true;
  return await open(near);
});

describe("reading through", () => {
  test("a chunk comes from the far store once, then from the near one", async () => {
    const { near, far, tier } = stage();
    const bytes = randomBytes(1000, 1);
    await far.write(chunkName(1), bytes, never);
    for (let round = 0; round < 3; round++) {
      assertBytes(await tier.read(chunkName(1), never), bytes);
      await tier.flush();
    }
    assert.equal(far.reads, 1);
    assertBytes(await near.read(chunkName(1), never), bytes, "the near copy");
    assert.deepEqual([tier.counters.hits, tier.counters.misses], [2, 1]);
    await tier.close();
  });

  test("what may change is always asked of the far store, and never kept", async () => {
    const { near, far, tier } = stage();
    for (const text of ["old", "new"]) {
      await far.write("image.caibx", Buffer.from(text), never);
      assertBytes(await tier.read("image.caibx", never), Buffer.from(text));
    }
    await tier.flush();
    assert.deepEqual(await names(near, ""), []);
    await tier.close();
  });

  test("what exists and what is listed is what the far store has", async () => {
    const { near, tier } = stage();
    await near.write(chunkName(1), Buffer.from("gone from the far store"), never);
    assert.equal(await tier.exists(chunkName(1), never), false);
    assert.deepEqual(await names(tier, ""), []);
    await tier.close();
  });

  test("readers share one read; the last one to leave ends it", async () => {
    const far = new ScriptedStore();
    const tier = new TierStore(directory(), far, { maxBytes: 1e9 });
    const stops = Array.from({ length: 3 }, () => new AbortController());
    const reads = stops.map(({ signal }) => tier.read(chunkName(1), signal, "prefetch"));
    const outcomes = Promise.allSettled(reads);
    await waitFor("the far store was asked", () => far.requests.length > 0);
    stops[0]!.abort(new Error("first"));
    stops[1]!.abort(new Error("second"));
    await settle();
    assert.equal(far.requests[0]!.signal.aborted, false, "one reader is left");
    const demand = tier.read(chunkName(1), never, "demand");
    await settle();
    assert.deepEqual(far.hurried, [chunkName(1)], "a guest waits for it now");
    far.requests[0]!.answer(Buffer.from("x"));
    assertBytes(await demand, Buffer.from("x"));
    assert.deepEqual(
      (await outcomes).map(({ status }) => status),
      ["rejected", "rejected", "fulfilled"],
    );
    assert.equal(far.requests.length, 1);
    const alone = new AbortController();
    const last = tier.read(chunkName(2), alone.signal).catch((error) => error);
    await waitFor("the far store was asked", () => far.requests.length === 2);
    alone.abort(new Error("nobody is left"));
    assert.equal(await last, alone.signal.reason);
    assert.equal(far.requests[1]!.signal.aborted, true);
    await tier.close();
  });

  test("every reader hears of a far error, and the next one asks again", async () => {
    const { far, tier } = stage();
    far.isBroken = true;
    const reads = await Promise.allSettled([1, 2].map(() => tier.read(chunkName(1), never)));
    assert.ok(reads.every(({ status }) => status === "rejected"));
    assert.equal(far.reads, 1);
    far.isBroken = false;
    assert.equal(await tier.read(chunkName(1), never), null);
    await tier.close();
  });
});

describe("damage", () => {
  test("a damaged near copy is replaced when a reader says so", async () => {
    const { near, far, tier } = stage();
    const good = randomBytes(1000, 1);
    await far.write(chunkName(1), good, never);
    await near.write(chunkName(1), Buffer.from("rotten"), never);
    assertBytes(await tier.read(chunkName(1), never), Buffer.from("rotten"));
    assertBytes(await tier.refetch(chunkName(1), never), good);
    await tier.flush();
    assertBytes(await near.read(chunkName(1), never), good, "the near copy");
    assertBytes(await tier.read(chunkName(1), never), good);
    assert.equal(tier.counters.forgotten, 1);
    await tier.close();
  });

  test("bytes that were damaged on their way do not stay, even if not yet written", async () => {
    const { near, tier, far } = stage();
    const good = randomBytes(1000, 1);
    await far.write(chunkName(1), Buffer.from("damaged"), never);
    assertBytes(await tier.read(chunkName(1), never), Buffer.from("damaged"));
    await far.write(chunkName(1), good, never);
    assertBytes(await tier.refetch(chunkName(1), never), good);
    await tier.flush();
    assertBytes(await near.read(chunkName(1), never), good, "the near copy");
    await tier.close();
  });

  test("readers who come during a refetch wait for it", async () => {
    const near = directory();
    await near.write(chunkName(1), Buffer.from("rotten"), never);
    const far = new ScriptedStore();
    const tier = new TierStore(near, far, { maxBytes: 1e9 });
    const again = tier.refetch(chunkName(1), never);
    const other = tier.read(chunkName(1), never);
    await waitFor("the far store was asked", () => far.requests.length > 0);
    far.requests[0]!.answer(Buffer.from("good"));
    for (const read of [again, other]) assertBytes(await read, Buffer.from("good"));
    await tier.close();
  });

  test("a refetch is not given what is under way, and its bytes are kept in the end", async () => {
    const [near, far] = [new ScriptedStore(), new ScriptedStore()];
    const tier = new TierStore(near, far, { maxBytes: 1e9 });
    const asked = async (store: ScriptedStore, count: number): Promise<Request> => {
      await waitFor(`there were ${count} requests`, () => store.requests.length === count);
      return store.requests[count - 1]!;
    };
    const [bad, good] = [Buffer.from("bad"), Buffer.from("good")];
    const first = tier.read(chunkName(1), never);
    (await asked(near, 1)).answer(null);
    const slow = await asked(far, 1);
    const again = tier.refetch(chunkName(1), never);
    (await asked(near, 2)).answer(null); // the near copy is removed
    const anew = await asked(far, 2);
    slow.answer(bad);
    assertBytes(await first, bad);
    const writesBad = await asked(near, 3);
    anew.answer(good);
    assertBytes(await again, good);
    writesBad.answer(null);
    const writesGood = await asked(near, 4);
    assert.deepEqual([writesBad.bytes, writesGood.bytes], [bad, good]);
    writesGood.answer(null);
    await tier.flush();
    await tier.close();
  });

  test("keeps what was written, whatever the writer does with its buffer then", async () => {
    const { near, tier } = stage();
    const bytes = Buffer.from("as it was");
    await tier.write(chunkName(1), bytes, never);
    bytes.fill(0);
    await tier.flush();
    assertBytes(await near.read(chunkName(1), never), Buffer.from("as it was"));
    await tier.close();
  });

  test("a copy of a removed object is removed too", async () => {
    const { near, tier } = stage();
    await tier.write(chunkName(1), Buffer.from("x"), never);
    await tier.flush();
    assert.deepEqual(await names(near, ""), [chunkName(1)]);
    await tier.remove(chunkName(1), never);
    assert.equal(await tier.read(chunkName(1), never), null);
    assert.deepEqual(await names(near, ""), []);
    await tier.close();
  });
});

describe("bounds", () => {
  test("the near store stays within its size, and keeps what is read often", async () => {
    const { near, far, tier } = stage(20_000);
    for (let number = 0; number < 100; number++) {
      await far.write(chunkName(number), randomBytes(1000, number), never);
    }
    const read = async (number: number): Promise<void> => {
      assertBytes(await tier.read(chunkName(number), never), randomBytes(1000, number));
      await tier.flush();
    };
    for (let round = 0; round < 3; round++) for (let hot = 0; hot < 5; hot++) await read(hot);
    for (let number = 5; number < 100; number++) await read(number);
    const kept = await names(near, "");
    assert.ok(kept.length <= 20, `${kept.length} objects of 1000 bytes`);
    assert.equal(tier.nearBytes, kept.length * 1000);
    for (let hot = 0; hot < 5; hot++) assert.ok(kept.includes(chunkName(hot)), `hot ${hot}`);
    await tier.close();
  });

  test("a new tier finds what an earlier one kept, and brings it within its size", async () => {
    const { near, far, tier } = stage();
    for (let number = 0; number < 10; number++) {
      await tier.write(chunkName(number), randomBytes(1000, number), never);
      await tier.flush();
    }
    await tier.close();
    const next = new TierStore(near, far, { maxBytes: 5500 });
    await next.flush();
    const kept = await names(near, "");
    assert.deepEqual([kept.length, next.nearBytes], [5, 5000]);
    far.reads = 0;
    for (const name of kept) assert.equal((await next.read(name, never))?.length, 1000);
    assert.equal(far.reads, 0);
    await next.close();
  });

  test("copies that come faster than they can be written are not kept", async () => {
    const near = new ScriptedStore();
    const far = directory();
    const tier = new TierStore(near, far, { maxBytes: 1e9, maxPendingBytes: 2500 });
    for (let number = 0; number < 5; number++) {
      await far.write(chunkName(number), randomBytes(1000, number), never);
      const read = tier.read(chunkName(number), never);
      await waitFor(
        "the near store was asked",
        () => near.requests.at(-1)?.name === chunkName(number),
      );
      near.requests.at(-1)!.answer(null);
      assertBytes(await read, randomBytes(1000, number));
    }
    assert.equal(tier.counters.skipped, 3);
    const closed = tier.close();
    for (const request of near.requests) request.fail(new Error("closed"));
    await closed;
  });

  test("leftovers and strangers in the near store are left alone", async () => {
    const near = directory();
    writeFileSync(`${near.path}/README`, "not a chunk");
    const tier = new TierStore(near, directory(), { maxBytes: 1 });
    await tier.flush();
    assert.deepEqual(await names(near, ""), ["README"]);
    assert.equal(tier.nearBytes, 0);
    await tier.close();
  });
});

describe("tiers that share their near store", () => {
  function sharing(maxBytes: number) {
    const store = new CountingStore(directory().path);
    const near = new NearChunks(store, { maxBytes });
    const fars = [0, 1].map(() => new CountingStore(directory().path));
    return { store, near, fars, tiers: fars.map((far) => new TierStore(near, far)) };
  }

  test("read each other's copies, also when one of them is closed", async () => {
    const { near, fars, tiers } = sharing(1e9);
    const bytes = randomBytes(1000, 1);
    await fars[0]!.write(chunkName(1), bytes, never);
    assertBytes(await tiers[0]!.read(chunkName(1), never), bytes);
    await near.flush();
    await tiers[0]!.close();
    assertBytes(await tiers[1]!.read(chunkName(1), never), bytes);
    assert.equal(fars[1]!.reads, 0);
    await tiers[1]!.close();
    await near.close();
  });

  test("keep one bound together", async () => {
    const { store, near, fars, tiers } = sharing(5500);
    for (let chunk = 0; chunk < 20; chunk++) {
      await fars[chunk % 2]!.write(chunkName(chunk), randomBytes(1000, chunk), never);
      await tiers[chunk % 2]!.read(chunkName(chunk), never);
      await near.flush();
    }
    assert.equal((await names(store, "")).length, 5);
    for (const tier of tiers) await tier.close();
    await near.close();
  });
});
