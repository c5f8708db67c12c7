/** Damaged chunks are found by verify, and never come out of extract. */
import assert from "node:assert/strict";
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { describe, test } from "node:test";
import { verifyImage } from "../../src/image/verify.ts";
import { type ChunkId, chunkObjectName } from "../../src/snapshot/chunk-id.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { openImage, type StoredImage } from "../../src/source/stored-image.ts";
import { Random } from "../support/fixtures.ts";
import { ImageStage, writeMemory } from "../support/image-stage.ts";

const never = new AbortController().signal;

interface Packed {
  readonly image: StoredImage;
  readonly path: (id: ChunkId) => string;
  readonly ids: readonly ChunkId[];
}

async function packed(stage: ImageStage): Promise<Packed> {
  writeMemory(stage.path("memory"), 1001, 1);
  stage.json("pack", stage.path("memory"), "--name", "web", "--chunk-size", "16K");
  const image = await openImage(DirectoryStore.open(stage.store), "web", never);
  const all = Array.from({ length: image.index.chunkCount }, (_, chunk) => image.index.id(chunk));
  // The zero chunk is the one that occurs most; nobody here looks at it but the last test.
  const ids = [...new Set(all)].filter((id) => all.filter((other) => other === id).length < 5);
  return { image, ids, path: (id) => stage.path(`store/${chunkObjectName(id)}`) };
}

async function damages(image: StoredImage): Promise<[id: string, reason: string][]> {
  const { damaged } = await verifyImage(image, { jobs: 2, signal: never });
  return damaged.map(({ id, reason }) => [id, reason]);
}

/** Extracting fails, names the chunk, and leaves no file. */
function assertRefused(stage: ImageStage, message: RegExp): void {
  assert.match(stage.fails(3, "extract", "web", stage.path("out")), message);
  assert.ok(!existsSync(stage.path("out")));
  assert.deepEqual(readdirSync(stage.folder).sort(), ["memory", "store"]);
}

describe("a chunk", () => {
  const kinds: [what: string, damage: (path: string, other: string) => void, reason: RegExp][] = [
    ["that is missing", (path) => rmSync(path), /^is missing$/],
    ["that is cut", (path) => truncateSync(path, 20), /^cannot be decompressed \(/],
    ["that is empty", (path) => truncateSync(path, 0), /^has 0 bytes instead of 16384$/],
    ["in the place of another", (path, other) => renameSync(other, path), /^does not match its/],
    ["with more behind it", (path) => appendFileSync(path, "more"), /^cannot be decompressed \(/],
    ["that is a folder", (path) => replaceByFolder(path), /^cannot be read \(EISDIR\)$/],
    ["that is huge", (path) => truncateSync(path, 2 ** 40), /^is far too large for a chunk \(/],
  ];
  for (const [what, damage, reason] of kinds) {
    test(what, async () => {
      using stage = new ImageStage();
      const { image, ids, path } = await packed(stage);
      assert.deepEqual(await damages(image), []);
      const [damagedId, otherId] = [ids[3]!, ids[7]!];
      damage(path(damagedId), path(otherId));
      const found = new Map(await damages(image));
      assert.match(found.get(damagedId) ?? "", reason);
      assertRefused(stage, /Chunk [0-9a-f]{64} of web, at 0x.*Nothing was extracted/);
      const { status, stdout } = stage.run("verify", "web");
      assert.equal(status, 3);
      assert.match(stdout, new RegExp(`${damagedId} .*; it is needed at 0x`));
    });
  }

  test("with any bit flipped is found, or still gives the same bytes", async () => {
    using stage = new ImageStage();
    const { image, ids, path } = await packed(stage);
    const random = new Random(2);
    const flipped = new Map<string, Buffer>();
    for (const id of ids) {
      const stored = readFileSync(path(id));
      flipped.set(id, stored);
      const damaged = Buffer.from(stored);
      const bit = random.below(stored.length * 8);
      damaged[bit >> 3]! ^= 1 << (bit & 7);
      writeFileSync(path(id), damaged);
    }
    // Some bits of a frame's header mean nothing to its content: those chunks verify.
    const found = new Map(await damages(image));
    assert.ok(found.size > 0.9 * flipped.size, `${found.size} of ${flipped.size}`);
    for (const [id, stored] of flipped)
      if (found.has(id)) writeFileSync(path(id as ChunkId), stored);
    stage.json("extract", "web", stage.path("out"));
    assert.ok(readFileSync(stage.path("out")).equals(readFileSync(stage.path("memory"))));
  });
});

describe("an index", () => {
  test("that is damaged is refused, and does not hide other images", async () => {
    using stage = new ImageStage();
    await packed(stage);
    stage.json("pack", stage.path("memory"), "--name", "other");
    truncateSync(stage.path("store/web.caibx"), 500);
    assert.match(stage.fails(3, "extract", "web", stage.path("out")), /web\.caibx .*at byte 500/);
    const { images } = stage.json<{ images: { name: string; damage: string | null }[] }>("ls");
    assert.deepEqual(
      images.map(({ name, damage }) => [name, damage === null]),
      [
        ["other", true],
        ["web", false],
      ],
    );
    assert.match(stage.fails(3, "gc", "--min-age", "0"), /web\.caibx in dir:.* is damaged/);
  });

  test("whose companion belongs to another is read without it", async () => {
    using stage = new ImageStage();
    await packed(stage);
    stage.json("pack", stage.path("memory"), "--name", "other", "--chunk-size", "32K");
    renameSync(stage.path("store/other.json"), stage.path("store/web.json"));
    assert.equal(stage.json<{ created: string | null }>("inspect", "web").created, null);
  });

  test("that gives one id to chunks of two sizes is refused", async () => {
    using stage = new ImageStage();
    const { image, ids } = await packed(stage);
    const whole = readFileSync(stage.path("store/web.caibx"));
    const last = image.index.chunkCount - 1;
    assert.ok(image.index.size(last) < image.index.size(0), "the last chunk is short");
    const all = Array.from({ length: last }, (_, chunk) => image.index.id(chunk));
    const zero = all.find((id) => !ids.includes(id))!;
    for (const [id, message] of [
      [ids[3]!, /The index of web is damaged: chunk \d+, [0-9a-f]{64}, has 4096 bytes, and 16384/],
      // The zero chunk of another size is no zero chunk.
      [zero, /Chunk [0-9a-f]{64} of web, at 0x.* cannot be decompressed/],
    ] as const) {
      const bytes = Buffer.from(whole);
      Buffer.from(id, "hex").copy(bytes, 64 + 40 * last + 8);
      writeFileSync(stage.path("store/web.caibx"), bytes);
      assertRefused(stage, message);
    }
  });
});

function replaceByFolder(path: string): void {
  rmSync(path);
  mkdirSync(path);
}
