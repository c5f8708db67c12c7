/** The memory of decoded chunks: what is in use stays, what is there is whole, all is bounded. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { viewOf } from "../../src/linux/sys.ts";
import { Random } from "../../src/sim/random.ts";
import { ArenaReader } from "../../src/source/arena-reader.ts";
import { ChunkArena, MAX_CHUNK_BYTES } from "../../src/source/chunk-arena.ts";

const KIB = 1024;

function withArena(blocks: number, run: (arena: ChunkArena) => void): void {
  const arena = new ChunkArena(blocks * MAX_CHUNK_BYTES);
  try {
    run(arena);
  } finally {
    arena.close();
  }
}

/** Reserves, fills with the chunk's number, publishes. Returns whether there was room. */
function put(arena: ChunkArena, chunk: number, sizeBytes: number): boolean {
  const place = arena.reserve(sizeBytes);
  if (place < 0) return false;
  new Uint32Array(viewOf(arena.addressOf(place), sizeBytes)).fill(chunk);
  arena.publish(chunk, place);
  return true;
}

function contentAt(address: number, sizeBytes: number): Set<number> {
  return new Set(new Uint32Array(viewOf(address, sizeBytes)));
}

describe("the arena", () => {
  test("a reader finds what was published, and nothing before that", () => {
    withArena(1, (arena) => {
      const reader = new ArenaReader(arena.shared);
      assert.equal(reader.acquire(7), 0);
      const place = arena.reserve(256 * KIB);
      assert.equal(reader.acquire(7), 0);
      arena.publish(7, place);
      assert.equal(reader.acquire(7), arena.addressOf(place));
      reader.releaseAll();
    });
  });

  test("holds as many chunks as fit, then evicts the oldest that nobody used", () => {
    withArena(1, (arena) => {
      for (let chunk = 0; chunk < 16; chunk++) assert.ok(put(arena, chunk, 256 * KIB));
      assert.equal(arena.chunkCount, 16);
      const reader = new ArenaReader(arena.shared);
      reader.acquire(0);
      reader.releaseAll();
      assert.ok(put(arena, 16, 256 * KIB));
      assert.equal(arena.chunkCount, 16);
      assert.ok(arena.has(0), "used");
      assert.ok(!arena.has(1), "the oldest unused one");
      assert.equal(arena.evictions, 1);
    });
  });

  test("what a reader holds stays, with its bytes; if all is held, there is no room", () => {
    withArena(1, (arena) => {
      const reader = new ArenaReader(arena.shared);
      const addresses = Array.from({ length: 4 }, (_, chunk) => {
        put(arena, chunk, 1024 * KIB);
        return reader.acquire(chunk);
      });
      assert.equal(arena.reserve(1024 * KIB), -1);
      assert.ok(!arena.evict(2));
      for (const [chunk, address] of addresses.entries()) {
        assert.deepEqual(contentAt(address, 1024 * KIB), new Set([chunk]));
      }
      reader.releaseAll();
      assert.ok(put(arena, 9, 1024 * KIB));
    });
  });

  test("a pin keeps a chunk until it is given back", () => {
    withArena(1, (arena) => {
      put(arena, 1, MAX_CHUNK_BYTES);
      arena.pin(1);
      assert.equal(arena.reserve(4 * KIB), -1);
      arena.unpin(1);
      assert.ok(arena.reserve(4 * KIB) >= 0);
      assert.ok(!arena.has(1));
    });
  });

  test("blocks serve another size when they are empty again", () => {
    withArena(2, (arena) => {
      for (let chunk = 0; chunk < 2048; chunk++) assert.ok(put(arena, chunk, 4 * KIB));
      assert.ok(put(arena, 5000, MAX_CHUNK_BYTES));
      assert.ok(arena.has(5000));
      assert.ok(arena.chunkCount <= 1025);
    });
  });

  test("reserved memory that is given back can be reserved again", () => {
    withArena(1, (arena) => {
      for (let round = 0; round < 5; round++) {
        const places = Array.from({ length: 64 }, () => arena.reserve(64 * KIB));
        assert.equal(new Set(places).size, 64);
        assert.equal(arena.reserve(64 * KIB), -1);
        for (const place of places) arena.discard(place);
      }
    });
  });

  test("never gives one piece of memory to two, in thousands of random steps", () => {
    withArena(3, (arena) => {
      const random = new Random(1);
      const reader = new ArenaReader(arena.shared);
      const sizeOf = (chunk: number): number => 4 * KIB * 2 ** (chunk % 11) - 4 * (chunk % 3);
      for (let step = 0; step < 5000; step++) {
        const chunk = random.below(400);
        const address = reader.acquire(chunk);
        if (address !== 0) {
          const words = contentAt(address, 4 * Math.floor(sizeOf(chunk) / 4));
          assert.deepEqual(words, new Set([chunk]), `step ${step}`);
        } else if (!arena.has(chunk)) put(arena, chunk, sizeOf(chunk));
        if (random.chance(0.3)) reader.releaseAll();
      }
      assert.ok(arena.evictions > 500);
    });
  });
});
