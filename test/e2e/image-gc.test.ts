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
    // biome-ignore format: a table
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
  /** Packs what lies in the store without an index, and old; runs gc at the given moment. */
  async function packBesideGc(
    stage: ImageStage,
    moment: "reading" | "publishing",
  ): Promise<number> {
    twoImages(stage);
    rmSync(stage.path("store/drop.caibx"));
    makeChunksOld(stage);
    const store = DirectoryStore.open(stage.store);
    let removed = 0;
    let collecting: Promise<void> | null = null;
    const collect = (): Promise<void> => {
      collecting ??= collectGarbage(DirectoryStore.open(stage.store), {
        minAgeMs: HOUR_MS,
        dryRun: false,
        signal: never,
      }).then((report) => {
        removed = report.removedChunks;
      });
      return collecting;
    };
    const refresh = store.refresh.bind(store);
    store.refresh = async (...args) => {
      // Whatever pace the two have: the one ends before the other begins to publish.
      if (moment === "reading") await collect();
      const missing = await refresh(...args);
      if (moment === "publishing") await collect();
      return missing;
    };
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
    return removed;
  }

  test("that reads: chunks that it found are removed, and it stores them again", async () => {
    using stage = new ImageStage();
    assert.ok((await packBesideGc(stage, "reading")) > 10);
    await assertWhole(stage, "again");
  });

  test("that publishes: chunks that it found stay, however old", async () => {
    using stage = new ImageStage();
    assert.equal(await packBesideGc(stage, "publishing"), 0);
    await assertWhole(stage, "again");
  });
});
