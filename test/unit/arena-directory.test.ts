/** The arena that outlives its process: nothing it holds is believed, most of it is used again. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { fstatSync, ftruncateSync, readSync, writeSync } from "node:fs";
import { describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { MIB } from "../../src/base/units.ts";
import { duplicateFd, type OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { Random } from "../../src/sim/random.ts";
import { ArenaDirectory } from "../../src/source/arena-directory.ts";
import { arenaShape } from "../../src/source/chunk-arena.ts";
import { ArenaProcess, makeChunks } from "../support/arena-chunks.ts";

const ARENA_BYTES = 16 * MIB;
const shape = arenaShape(ARENA_BYTES);
const chunks = makeChunks(40);
const everyChunk = chunks.map((_, ordinal) => ordinal);

/** Keeps the memory as a supervisor does. */
async function during(
  memory: OwnedFd | null,
  work: (user: ArenaProcess) => Promise<void>,
  all = chunks,
): Promise<OwnedFd> {
  const kept = memory === null ? null : duplicateFd(memory.fd);
  memory?.close();
  const directory =
    kept === null ? ArenaDirectory.create(shape) : ArenaDirectory.adopt(kept, shape);
  assert.ok(directory !== null);
  const next = duplicateFd(directory.memory.fd);
  const user = new ArenaProcess(all, ARENA_BYTES, directory);
  try {
    await work(user);
  } finally {
    await user.close();
  }
  return next;
}

async function useAll(user: ArenaProcess): Promise<void> {
  for (const ordinal of everyChunk) await user.use(ordinal);
}

describe("an adopted arena", () => {
  test("serves what it holds without a fetch, through several processes", async () => {
    let memory = await during(null, useAll);
    for (let generation = 0; generation < 3; generation++) {
      memory = await during(memory, async (user) => {
        assert.equal(user.arena.candidateCount, chunks.length);
        assert.equal(user.arena.chunkCount, 0);
        // Some are asked for in this generation, all must be there in the next.
        for (let ordinal = generation; ordinal < chunks.length; ordinal += 3) {
          await user.use(ordinal);
        }
        assert.equal(user.fetches, 0);
        assert.equal(user.cache.statistics.adopted, user.arena.chunkCount);
      });
    }
    memory.close();
  });

  test("finds a bit that has flipped, and fetches that chunk", async () => {
    const memory = await during(null, useAll);
    const found = positionOf(memory, chunks[4]!.bytes);
    const byte = Buffer.alloc(1);
    readSync(memory.fd, byte, 0, 1, found + 1000);
    writeSync(memory.fd, Buffer.of(byte[0]! ^ 8), 0, 1, found + 1000);
    const next = await during(memory, async (user) => {
      await useAll(user);
      assert.deepEqual([user.fetches, user.cache.statistics.corrupt], [1, 1]);
      assert.equal(user.cache.statistics.adopted, chunks.length - 1);
    });
    const last = await during(next, async (user) => {
      await useAll(user);
      assert.equal(user.fetches, 0);
    });
    last.close();
  });

  test("gives up what nobody asks for, the oldest first", async () => {
    const memory = await during(null, useAll);
    const others = makeChunks(200);
    const next = await during(
      memory,
      async (user) => {
        await user.use(0);
        while (user.arena.evictions < 5) await user.use(40 + (user.fetches % 160));
        assert.equal(user.arena.candidateCount, chunks.length - 1 - user.arena.evictions);
        const { fetches } = user;
        await user.use(0);
        await user.use(39);
        assert.equal(user.fetches, fetches, "what is used, and what is young, is there");
      },
      others,
    );
    next.close();
  });

  test("whatever its directory says, gives right bytes only", async () => {
    const seed = Number(process.env.FAULTLINE_SEED ?? 1);
    const random = new Random(seed);
    const directoryBytes = fstatOf(shape) - ARENA_BYTES;
    for (let round = 0; round < 20; round++) {
      let memory = await during(null, useAll);
      for (let count = 0; count < 50; count++) {
        // Anywhere behind the header, and in the table of blocks more often than not.
        const limit = random.chance(0.5) ? 64 : directoryBytes - 4096 - 8;
        const garbage = random.chance(0.5) ? Buffer.of(random.below(256)) : Buffer.alloc(8, 0xff);
        writeSync(memory.fd, garbage, 0, garbage.length, 4096 + random.below(limit));
      }
      memory = await during(memory, async (user) => {
        await useAll(user);
        await useAll(user);
      });
      memory.close();
    }
  });

  test("is none if its shape, or what begins it, is another", async () => {
    using memory = await during(null, async () => {});
    const taken = duplicateFd(memory.fd);
    assert.equal(ArenaDirectory.adopt(taken, arenaShape(2 * ARENA_BYTES)), null);
    assert.ok(taken.isOpen);
    writeSync(memory.fd, Buffer.alloc(4), 0, 4, 0);
    assert.equal(ArenaDirectory.adopt(taken, shape), null);
    taken.close();
    using other = createMemfd("other");
    ftruncateSync(other.fd, fstatOf(shape));
    assert.equal(ArenaDirectory.adopt(other, shape), null);
  });
});

test("killed at any moment, leaves right bytes or none, and most of them", async (t) => {
  const seed = Number(process.env.FAULTLINE_KILLS_SEED ?? 1);
  const kills = Number(process.env.FAULTLINE_KILLS_COUNT ?? 30);
  const random = new Random(seed);
  // More than fit: places are given to other chunks all the time.
  const many = makeChunks(400);
  const program = new URL("../support/arena-program.js", import.meta.url).pathname;
  const made = ArenaDirectory.create(shape);
  const tally = { candidates: 0, fetches: 0, adopted: 0, corrupt: 0 };
  for (let kill = 0; kill < kills; kill++) {
    const args = [program, String(ARENA_BYTES), String(many.length), String(seed * 1000 + kill)];
    const stdio = ["ignore", "pipe", "inherit", made.memory.fd] as const;
    const child = spawn(process.execPath, args, { stdio: [...stdio] });
    const exited = once(child, "exit");
    try {
      await Promise.race([once(child.stdout!, "data"), exited]);
      await delay(random.below(40));
    } finally {
      child.kill("SIGKILL");
    }
    const [code, signal] = await exited;
    assert.deepEqual([code, signal], [null, "SIGKILL"], `seed ${seed}, kill ${kill}`);
    // A copy is looked at; the next process goes on with what this one has left.
    const directory = ArenaDirectory.adopt(copyOf(made.memory), shape);
    assert.ok(directory !== null);
    const user = new ArenaProcess(many, ARENA_BYTES, directory);
    const { candidateCount } = user.arena;
    const candidates = directory.readAll().map(({ id }) => many.findIndex((c) => c.id === id));
    assert.ok(candidates.every((ordinal) => ordinal >= 0));
    for (const ordinal of candidates) await user.use(ordinal);
    const { adopted, corrupt } = user.cache.statistics;
    tally.candidates += candidateCount;
    tally.fetches += user.fetches;
    tally.adopted += adopted;
    tally.corrupt += corrupt;
    await user.close();
  }
  made.close();
  t.diagnostic(`seed ${seed}: ${JSON.stringify(tally)}`);
  assert.ok(tally.candidates > kills * 10, "the children had loaded something");
  // Each would be found and fetched, but the order of what is written leaves none.
  assert.deepEqual([tally.corrupt, tally.fetches], [0, 0], "an entry named other bytes");
});

function fstatOf(like: typeof shape): number {
  const directory = ArenaDirectory.create(like);
  const { size } = fstatSync(directory.memory.fd);
  directory.close();
  return size;
}

function contentOf(memory: OwnedFd): Buffer {
  const bytes = Buffer.alloc(fstatSync(memory.fd).size);
  readSync(memory.fd, bytes, 0, bytes.length, 0);
  return bytes;
}

function positionOf(memory: OwnedFd, bytes: Uint8Array): number {
  const found = contentOf(memory).indexOf(bytes);
  assert.ok(found > 0);
  return found;
}

function copyOf(memory: OwnedFd): OwnedFd {
  const copy = createMemfd("copy");
  writeSync(copy.fd, contentOf(memory));
  return copy;
}
