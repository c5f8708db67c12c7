/** Packing and extracting: the same bytes come out, what is known is not stored again. */
import assert from "node:assert/strict";
import {
  closeSync,
  existsSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { describe, test } from "node:test";
import { diffImages } from "../../src/image/diff.ts";
import { extractImage } from "../../src/image/extract.ts";
import { type PackOptions, type PackReport, packImage } from "../../src/image/pack.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { openImage } from "../../src/source/stored-image.ts";
import { ImageStage, writeDiff, writeMemory } from "../support/image-stage.ts";

const KIB = 1024;
const PAGE = 4 * KIB;
const never = new AbortController().signal;
/** Of the seeded rounds; more of them by the environment. */
const SEED = Number(process.env.FAULTLINE_SEED ?? 1);
const ROUNDS = Number(process.env.FAULTLINE_SEEDS ?? 4);

const defaults = {
  isDiff: false,
  parent: null,
  chunkSizeBytes: 64 * KIB,
  digest: "sha256",
  level: 1,
  jobs: 2,
  signal: never,
} as const;

/** Packs in this process. */
async function pack(
  stage: ImageStage,
  name: string,
  file: string,
  options: Partial<PackOptions> = {},
): Promise<PackReport> {
  const store = DirectoryStore.open(stage.store, { create: true });
  try {
    return await packImage({ ...defaults, store, name, path: stage.path(file), ...options });
  } finally {
    await store.close();
  }
}

async function assertExtracts(stage: ImageStage, name: string, wanted: Buffer): Promise<void> {
  const image = await openImage(DirectoryStore.open(stage.store), name, never);
  const path = stage.path(`${name}.out`);
  await extractImage(image, { path, force: false, jobs: 2, signal: never });
  assert.ok(readFileSync(path).equals(wanted), `${name} comes out as it went in`);
}

describe("what is packed comes out again", () => {
  for (let seed = SEED; seed < SEED + ROUNDS; seed++) {
    test(`random memory, a diff over it, the same once more (FAULTLINE_SEED=${seed})`, async () => {
      using stage = new ImageStage();
      const chunkSizeBytes = [4 * KIB, 16 * KIB, 256 * KIB, 4096 * KIB][seed % 4]!;
      const digest = seed % 2 === 0 ? "sha256" : "sha512-256";
      const memory = writeMemory(stage.path("memory"), 1500 + (seed % 7), seed);
      const base = await pack(stage, "base", "memory", { chunkSizeBytes, digest });
      assert.equal(base.chunks, Math.ceil(memory.length / chunkSizeBytes));
      assert.equal(base.zeroChunks + base.sharedChunks + base.newChunks, base.chunks);
      await assertExtracts(stage, "base", memory);

      const parent = await openImage(DirectoryStore.open(stage.store), "base", never);
      writeDiff(stage.path("diff"), memory, seed + 1000);
      const options = { chunkSizeBytes, digest, parent } as const;
      await pack(stage, "changed", "diff", { ...options, isDiff: true });
      await assertExtracts(stage, "changed", memory);

      writeFileSync(stage.path("whole"), memory);
      const whole = await pack(stage, "whole", "whole", options);
      assert.equal(whole.newChunks, 0, "the diff has stored all that is new");
      const indexes = ["changed", "whole"].map((name) =>
        readFileSync(stage.path(`store/${name}.caibx`)),
      );
      assert.ok(indexes[0]!.equals(indexes[1]!), "both ways to the same image give one index");
    });
  }

  test("a diff over an image in chunks of another size", async () => {
    using stage = new ImageStage();
    const memory = writeMemory(stage.path("memory"), 700, 7);
    await pack(stage, "base", "memory", { chunkSizeBytes: 128 * KIB });
    const parent = await openImage(DirectoryStore.open(stage.store), "base", never);
    writeDiff(stage.path("diff"), memory, 8);
    await pack(stage, "small", "diff", { chunkSizeBytes: 16 * KIB, parent, isDiff: true });
    await assertExtracts(stage, "small", memory);
  });

  test("memory without any data, and a last chunk that is short", async () => {
    using stage = new ImageStage();
    writeFileSync(stage.path("empty"), "");
    truncateSync(stage.path("empty"), 3 * 64 * KIB + PAGE);
    const report = await pack(stage, "empty", "empty");
    assert.deepEqual([report.chunks, report.zeroChunks, report.readBytes], [4, 4, 0]);
    await assertExtracts(stage, "empty", Buffer.alloc(3 * 64 * KIB + PAGE));
    assert.equal(statSync(stage.path("empty.out")).blocks, 0, "the output is all hole");
  });
});

describe("packing", () => {
  test("never reads holes, nor what a diff leaves out", async () => {
    using stage = new ImageStage();
    writeFileSync(stage.path("memory"), "");
    truncateSync(stage.path("memory"), 1024 * KIB);
    const fd = openSync(stage.path("memory"), "r+");
    writeSync(fd, Buffer.alloc(2 * PAGE, 7), 0, 2 * PAGE, 200 * KIB);
    closeSync(fd);
    const report = await pack(stage, "sparse", "memory");
    assert.equal(report.readBytes, 2 * PAGE);
    const parent = await openImage(DirectoryStore.open(stage.store), "sparse", never);
    const diff = await pack(stage, "again", "memory", { parent, isDiff: true });
    assert.equal(diff.readBytes, 2 * PAGE);
  });

  test("stores a chunk once, whoever has it", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 1000, 3);
    const first = await pack(stage, "one", "memory");
    const second = await pack(stage, "two", "memory");
    assert.ok(first.newChunks > 0 && first.storedBytes > 0);
    assert.deepEqual([second.newChunks, second.storedBytes], [0, 0]);
  });

  test("keeps the state file with the image", () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 100, 4);
    writeFileSync(stage.path("state"), "devices and registers");
    const file = stage.path("memory");
    stage.json("pack", file, "--name", "web", "--state", stage.path("state"));
    assert.equal(readFileSync(stage.path("store/web.state"), "utf8"), "devices and registers");
    const info = JSON.parse(readFileSync(stage.path("store/web.json"), "utf8")) as {
      readonly state: { readonly sizeBytes: number };
    };
    assert.equal(info.state.sizeBytes, 21);
  });

  test("refuses a memory file that changes meanwhile, and publishes nothing", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 1000, 5);
    let isChanged = false;
    const onProgress = (): void => {
      if (isChanged) return;
      isChanged = true;
      const fd = openSync(stage.path("memory"), "r+");
      writeSync(fd, "x", 4000 * KIB - 1);
      closeSync(fd);
    };
    await assert.rejects(pack(stage, "torn", "memory", { onProgress }), { code: "memory-changed" });
    assert.ok(!existsSync(stage.path("store/torn.caibx")));
  });

  test("leaves nothing but objects in the store", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 300, 6);
    await pack(stage, "web", "memory");
    const names = readdirSync(stage.store).sort();
    assert.deepEqual(names, [".staging", "default.castr", "web.caibx", "web.json"]);
    assert.deepEqual(readdirSync(`${stage.store}/.staging`), ["lock"]);
  });
});

describe("comparing", () => {
  test("finds exactly the pages that differ, across chunk sizes and digests", async () => {
    using stage = new ImageStage();
    const before = writeMemory(stage.path("memory"), 900, 20);
    await pack(stage, "a", "memory");
    const after = Buffer.from(before);
    for (const page of [0, 17, 18, 500, 899]) after[page * PAGE + 123]! ^= 1;
    rmSync(stage.path("memory"));
    writeFileSync(stage.path("memory"), after);
    await pack(stage, "b", "memory", { chunkSizeBytes: 16 * KIB, digest: "sha512-256" });
    const store = DirectoryStore.open(stage.store);
    const [a, b] = [await openImage(store, "a", never), await openImage(store, "b", never)];
    const report = await diffImages(a, b, { signal: never });
    assert.deepEqual(
      report.extents.map(({ start, end }) => [start / PAGE, end / PAGE]),
      [
        [0, 1],
        [17, 19],
        [500, 501],
        [899, 900],
      ],
    );
    assert.equal(report.differentPages, 5);
  });
});
