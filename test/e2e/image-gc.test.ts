/** Garbage collection: what no index needs goes, and a pack beside it never loses a chunk. */
import assert from "node:assert/strict";
import { readdirSync, rmSync, utimesSync } from "node:fs";
import { describe, test } from "node:test";
import { collectGarbage, type GcReport } from "../../src/image/gc.ts";
import { packImage } from "../../src/image/pack.ts";
import { verifyImage } from "../../src/image/verify.ts";
import { CHUNK_TREE } from "../../src/snapshot/chunk-id.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { openImage } from "../../src/source/stored-image.ts";
import { ImageStage, writeMemory } from "../support/image-stage.ts";

const never = new AbortController().signal;
const HOUR_MS = 3_600_000;

function makeChunksOld(stage: ImageStage): void {
  const then = new Date(Date.now() - 48 * HOUR_MS);
  for (const path of chunkPaths(stage)) utimesSync(path, then, then);
}

function chunkPaths(stage: ImageStage): string[] {
  const tree = `${stage.store}/${CHUNK_TREE}`;
  return readdirSync(tree).flatMap((folder) =>
    readdirSync(`${tree}/${folder}`).map((name) => `${tree}/${folder}/${name}`),
  );
}

/** Two images that share nothing but zeroes. */
function twoImages(stage: ImageStage): void {
  for (const [name, seed] of [
    ["keep", 1],
    ["drop", 2],
  ] as const) {
    writeMemory(stage.path(name), 2000, seed);
    stage.json("pack", stage.path(name), "--name", name, "--chunk-size", "16K");
  }
}

async function assertWhole(stage: ImageStage, name: string): Promise<void> {
  const image = await openImage(DirectoryStore.open(stage.store), name, never);
  assert.deepEqual((await verifyImage(image, { jobs: 2, signal: never })).damaged, []);
}

describe("gc", () => {
  test("removes what no index needs, once it is old enough", async () => {
    using stage = new ImageStage();
    twoImages(stage);
    assert.equal(stage.json<GcReport>("gc", "--min-age", "0").removedChunks, 0);
    rmSync(stage.path("store/drop.caibx"));
    const before = chunkPaths(stage).length;
    const young = stage.json<GcReport>("gc");
    assert.ok(young.removedChunks === 0 && young.spared > 10);
    makeChunksOld(stage);
    const dry = stage.json<GcReport>("gc", "--dry-run");
    assert.deepEqual([dry.removedChunks, chunkPaths(stage).length], [young.spared, before]);
    const real = stage.json<GcReport>("gc");
    assert.deepEqual({ ...real, dryRun: true }, dry);
    assert.equal(chunkPaths(stage).length, before - real.removedChunks);
    assert.equal(real.usedChunks, before - real.removedChunks);
    await assertWhole(stage, "keep");
    assert.equal(stage.json<GcReport>("gc", "--min-age", "0").removedChunks, 0);
  });
});

describe("gc beside a pack", () => {
  /** What the next pack needs lies in the store without an index, and old. */
  function stageWithOldChunks(): ImageStage {
    const stage = new ImageStage();
    twoImages(stage);
    rmSync(stage.path("store/drop.caibx"));
    makeChunksOld(stage);
    return stage;
  }

  async function pack(stage: ImageStage, store: DirectoryStore): Promise<void> {
    await packImage({
      store,
      name: "again",
      path: stage.path("drop"),
      isDiff: false,
      parent: null,
      chunkSizeBytes: 16 * 1024,
      digest: "sha256",
      level: 1,
      jobs: 1,
      signal: never,
    });
    await store.close();
  }

  async function collect(store: DirectoryStore): Promise<number> {
    const options = { minAgeMs: HOUR_MS, dryRun: false, signal: never };
    return (await collectGarbage(store, options)).removedChunks;
  }

  test("before it publishes: chunks that it found are removed, it stores them again", async () => {
    using stage = stageWithOldChunks();
    const store = DirectoryStore.open(stage.store);
    const refresh = store.refresh.bind(store);
    let removed = 0;
    store.refresh = async (...args) => {
      removed += await collect(DirectoryStore.open(stage.store));
      return await refresh(...args);
    };
    await pack(stage, store);
    assert.ok(removed > 10);
    await assertWhole(stage, "again");
  });

  test("while it publishes: chunks that it found stay, however old they were", async () => {
    using stage = stageWithOldChunks();
    const store = DirectoryStore.open(stage.store);
    const refresh = store.refresh.bind(store);
    let removed = 0;
    store.refresh = async (...args) => {
      const missing = await refresh(...args);
      removed += await collect(DirectoryStore.open(stage.store));
      return missing;
    };
    await pack(stage, store);
    assert.equal(removed, 0);
    await assertWhole(stage, "again");
  });

  test("that began before it: what is marked for removal is young when it should go", async () => {
    using stage = stageWithOldChunks();
    const collecting = DirectoryStore.open(stage.store);
    const removeOlder = collecting.removeOlder.bind(collecting);
    let marked = 0;
    collecting.removeOlder = async (names, ...rest) => {
      marked += names.length;
      await pack(stage, DirectoryStore.open(stage.store));
      return await removeOlder(names, ...rest);
    };
    assert.equal(await collect(collecting), 0);
    assert.ok(marked > 10);
    await assertWhole(stage, "again");
  });
});
