/** Chunks come once, verified, whoever asks and whatever the stores do. */
import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { afterEach, describe, test } from "node:test";
import { setImmediate as nextTurn } from "node:timers/promises";
import { FaultlineError } from "../../src/base/errors.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { viewOf } from "../../src/linux/sys.ts";
import { Random } from "../../src/sim/random.ts";
import { type ChunkId, chunkId } from "../../src/snapshot/chunk-id.ts";
import { ArenaReader } from "../../src/source/arena-reader.ts";
import { ChunkArena, MAX_CHUNK_BYTES } from "../../src/source/chunk-arena.ts";
import { ChunkCache, type ChunkOrigin, type DecodeChunk } from "../../src/source/chunk-cache.ts";
import type { Urgency } from "../../src/source/object-store.ts";

const SIZE = 64 * 1024;
const arenas: ChunkArena[] = [];
afterEach(() => {
  for (const arena of arenas.splice(0)) arena.close();
});

function digestOf(bytes: Uint8Array): ChunkId {
  return chunkId(createHash("sha256").update(bytes).digest("hex"));
}

/** As the real one, but for the compression. */
const decode: DecodeChunk = async (stored, chunk, address) => {
  await nextTurn();
  const target = new Uint8Array(viewOf(address, chunk.sizeBytes));
  if (stored !== null) {
    target.fill(0);
    target.set(stored.subarray(0, chunk.sizeBytes));
  }
  return digestOf(target) === chunk.id ? null : "the digest differs";
};

class FakeOrigin implements ChunkOrigin {
  readonly location: string;
  readonly chunks = new Map<ChunkId, Uint8Array>();
  fetches = 0;
  fetchedAgain = 0;
  readonly urgencies: Urgency[] = [];
  readonly hurried: ChunkId[] = [];
  /** May replace an answer, or throw. */
  spoil: (stored: Uint8Array) => Uint8Array | null = (stored) => stored;

  constructor(location = "dir:/images") {
    this.location = location;
  }

  add(bytes: Uint8Array): ChunkId {
    const id = digestOf(bytes);
    this.chunks.set(id, bytes);
    return id;
  }

  hurry(id: ChunkId): void {
    this.hurried.push(id);
  }

  async fetch(id: ChunkId, isAgain: boolean, urgency: Urgency): Promise<Uint8Array | null> {
    this.fetches += 1;
    this.urgencies.push(urgency);
    if (isAgain) this.fetchedAgain += 1;
    await nextTurn();
    const stored = this.chunks.get(id);
    return stored === undefined ? null : this.spoil(stored);
  }
}

function newCache(blocks = 1): ChunkCache {
  const arena = new ChunkArena(blocks * MAX_CHUNK_BYTES);
  arenas.push(arena);
  return new ChunkCache({ arena, decode });
}

function describeChunk(id: ChunkId) {
  return { id, digest: "sha256", sizeBytes: SIZE } as const;
}

function flipped(bytes: Uint8Array): Uint8Array {
  const copy = Uint8Array.from(bytes); // A Buffer's slice() would be a view.
  copy[copy.length >>> 1]! ^= 1;
  return copy;
}

function bytesOf(cache: ChunkCache, number: number): Buffer {
  const reader = new ArenaReader(cache.arena.shared);
  const address = reader.acquire(number);
  assert.notEqual(address, 0);
  const bytes = Buffer.from(new Uint8Array(viewOf(address, SIZE)));
  reader.releaseAll();
  return bytes;
}

describe("the chunk cache", () => {
  test("brings a chunk in once for all that ask, pinned for each of them", async () => {
    const cache = newCache();
    const origin = new FakeOrigin();
    const bytes = randomBytes(SIZE);
    const number = cache.register(describeChunk(origin.add(bytes)), origin);
    await Promise.all(Array.from({ length: 20 }, () => cache.demand(number)));
    assert.equal(origin.fetches, 1);
    assert.equal(cache.statistics.joined, 19);
    assert.deepEqual(bytesOf(cache, number), bytes);
    for (let pin = 0; pin < 20; pin++) {
      assert.ok(!cache.arena.evict(number), `pin ${pin}`);
      cache.arena.unpin(number);
    }
    assert.ok(cache.arena.evict(number));
  });

  test("has one number for a chunk, in whatever image it lies", () => {
    const cache = newCache();
    const [one, two] = [new FakeOrigin(), new FakeOrigin()];
    const id = one.add(randomBytes(SIZE));
    assert.equal(cache.register(describeChunk(id), one), cache.register(describeChunk(id), two));
    assert.throws(
      () => cache.register({ ...describeChunk(id), sizeBytes: SIZE / 2 }, two),
      /65536 \(sha256\)/,
    );
  });

  test("drops damaged bytes, and fetches the original", async () => {
    const cache = newCache();
    const origin = new FakeOrigin();
    const bytes = randomBytes(SIZE);
    const id = origin.add(bytes);
    const number = cache.register(describeChunk(id), origin);
    origin.spoil = (stored) => (origin.fetches === 1 ? flipped(stored) : stored);
    await cache.demand(number);
    assert.equal(origin.fetchedAgain, 1);
    assert.equal(cache.statistics.corrupt, 1);
    assert.deepEqual(bytesOf(cache, number), bytes);
  });

  test("asks every origin that knows it", async () => {
    const cache = newCache();
    const [empty, broken, good] = [new FakeOrigin(), new FakeOrigin(), new FakeOrigin()];
    const bytes = randomBytes(SIZE);
    const id = good.add(bytes);
    broken.spoil = () => assert.fail("the store is down");
    broken.add(bytes);
    const numbers = [empty, broken, good].map((origin) =>
      cache.register(describeChunk(id), origin),
    );
    await cache.demand(numbers[0]!);
    assert.equal(good.fetches, 1);
    assert.deepEqual(bytesOf(cache, numbers[0]!), bytes);
  });

  test("asks an origin that fails once: it has tried for long enough itself", async () => {
    const [failing, good] = [new FakeOrigin("s3://far"), new FakeOrigin("dir:/near")];
    const cache = newCache();
    const id = failing.add(randomBytes(SIZE));
    good.chunks.set(id, failing.chunks.get(id)!);
    for (const origin of [failing, good]) {
      cache.register(describeChunk(id), origin);
      origin.spoil = (stored) => flipped(stored);
    }
    failing.spoil = () => {
      throw new FaultlineError("store-failed", "It is out of reach.");
    };
    await assert.rejects(cache.demand(0));
    assert.deepEqual([failing.fetches, good.fetches], [1, 3]);
  });

  test("says so if nobody has it whole, and can be asked again", async () => {
    const cache = newCache();
    const origin = new FakeOrigin("s3://bucket/images");
    const id = origin.add(randomBytes(SIZE));
    const number = cache.register(describeChunk(id), origin);
    origin.spoil = flipped;
    const waiting = [cache.demand(number), cache.demand(number)];
    for (const each of waiting) {
      await assert.rejects(each, (error: FaultlineError) => {
        assert.equal(error.code, "unresolvable-page");
        assert.match(error.message, new RegExp(`chunk ${id}`));
        assert.match(String((error.cause as Error).message), /s3:\/\/bucket\/images gave damaged/);
        return true;
      });
    }
    assert.ok(!cache.arena.has(number));
    origin.spoil = (stored) => stored;
    await cache.demand(number);
    assert.ok(cache.arena.has(number));
  });

  test("refuses chunks that no block could hold", () => {
    const cache = newCache();
    const origin = new FakeOrigin();
    const id = origin.add(randomBytes(8));
    for (const sizeBytes of [0, MAX_CHUNK_BYTES + 1]) {
      const chunk = { ...describeChunk(id), sizeBytes };
      assert.throws(() => cache.register(chunk, origin), FaultlineError);
    }
  });

  test("never shows a wrong byte: stores lie, fail and forget, the arena is tiny", async () => {
    const cache = newCache();
    const random = new Random(3);
    const origin = new FakeOrigin();
    const contents = Array.from({ length: 200 }, () => randomBytes(SIZE));
    const numbers = contents.map((bytes) =>
      cache.register(describeChunk(origin.add(bytes)), origin),
    );
    origin.spoil = (stored) => {
      const chance = random.next();
      if (chance < 0.1) return flipped(stored);
      if (chance < 0.2) return stored.subarray(0, random.below(SIZE));
      if (chance < 0.3) return null;
      assert.ok(chance < 0.9, "an error of the store");
      return stored;
    };
    let served = 0;
    const askOne = async (): Promise<void> => {
      for (let round = 0; round < 200; round++) {
        const which = random.below(numbers.length);
        const number = numbers[which]!;
        try {
          await cache.demand(number);
        } catch {
          continue;
        }
        assert.deepEqual(bytesOf(cache, number), contents[which]);
        cache.arena.unpin(number);
        served += 1;
      }
    };
    await Promise.all(Array.from({ length: 8 }, askOne));
    assert.ok(served > 1000 && cache.arena.evictions > 500 && cache.statistics.corrupt > 50);
  });
});

describe("a chunk that is fetched ahead", () => {
  function scene() {
    const origin = new FakeOrigin();
    const cache = newCache();
    const number = cache.register(describeChunk(origin.add(randomBytes(SIZE))), origin);
    return { origin, cache, number };
  }

  test("is there when somebody needs it, and may go until then", async () => {
    const { origin, cache, number } = scene();
    cache.prefetch(number);
    cache.prefetch(number);
    await waitFor("it was there", () => cache.arena.has(number));
    assert.deepEqual(origin.urgencies, ["prefetch"]);
    await cache.demand(number);
    cache.arena.unpin(number);
    assert.equal(origin.fetches, 1);
    assert.deepEqual([cache.statistics.loads, cache.statistics.prefetches], [1, 1]);
  });

  test("is hurried when somebody comes to wait for it", async () => {
    const { origin, cache, number } = scene();
    cache.prefetch(number);
    await cache.demand(number);
    cache.arena.unpin(number);
    assert.equal(origin.fetches, 1);
    assert.equal(origin.hurried.length, 1);
  });

  test("is fetched anew, as demanded, if that failed for those who wait", async () => {
    const { origin, cache, number } = scene();
    origin.spoil = (stored) => {
      if (origin.urgencies.at(-1) === "prefetch") throw new Error("the queue is full");
      return stored;
    };
    cache.prefetch(number);
    await cache.demand(number);
    cache.arena.unpin(number);
    assert.equal(origin.urgencies.at(-1), "demand");
  });

  test("that cannot be had is nobody's loss", async () => {
    const { origin, cache, number } = scene();
    origin.spoil = () => null;
    cache.prefetch(number);
    await waitFor("all was tried", () => origin.fetches === 3);
    await nextTurn();
    assert.equal(cache.statistics.failed, 0);
    origin.spoil = (stored) => stored;
    await cache.demand(number);
    cache.arena.unpin(number);
  });
});
