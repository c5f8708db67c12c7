/** Copying an image between stores: what is copied, in which order, and what is never published. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { after, before, beforeEach, describe, test } from "node:test";
import { packImage } from "../../src/image/pack.ts";
import { type TransferReport, transferImage } from "../../src/image/transfer.ts";
import { verifyImage } from "../../src/image/verify.ts";
import { openImage, readImageFiles } from "../../src/source/stored-image.ts";
import { ImageStage, writeMemory } from "../support/image-stage.ts";
import { MemoryStore } from "../support/memory-store.ts";

const never = new AbortController().signal;
const STATE = Buffer.from("the state of a VMM");

describe("a transfer", () => {
  let stage: ImageStage;
  let packed: ReadonlyMap<string, Uint8Array>;
  let from: MemoryStore;
  let to: MemoryStore;

  before(async () => {
    stage = new ImageStage();
    writeMemory(stage.path("memory"), 1001, 1);
    writeFileSync(stage.path("state"), STATE);
    const store = new MemoryStore("test:packed");
    await packImage({
      store,
      name: "web",
      path: stage.path("memory"),
      isDiff: false,
      parent: null,
      chunkSizeBytes: 16_384,
      digest: "sha256",
      level: 1,
      jobs: 1,
      statePath: stage.path("state"),
      signal: never,
    });
    packed = store.objects;
  });
  after(() => stage[Symbol.dispose]());
  beforeEach(() => {
    from = new MemoryStore("test:from");
    to = new MemoryStore("test:to");
    for (const [name, bytes] of packed) from.objects.set(name, new Uint8Array(bytes));
  });

  const transfer = async (signal = never): Promise<TransferReport> =>
    await transferImage(await readImageFiles(from, "web", signal), { to, jobs: 2, signal });
  const chunks = (): string[] => [...packed.keys()].filter((name) => name.endsWith(".cacnk"));
  const writes = (): string[] =>
    to.diary.filter((line) => line.startsWith("write ")).map((line) => line.slice(6));

  test("copies every object byte by byte, the index last", async () => {
    const report = await transfer();
    assert.deepEqual([...to.objects.keys()].sort(), [...packed.keys()].sort());
    for (const [name, bytes] of packed) {
      assert.equal(Buffer.compare(to.objects.get(name)!, bytes), 0, name);
    }
    assert.deepEqual(writes().slice(-3), ["web.state", "web.json", "web.caibx"]);
    assert.equal(report.sentChunks, chunks().length);
    assert.equal(report.sharedChunks, 0);
    const image = await openImage(to, "web", never);
    assert.deepEqual((await verifyImage(image, { jobs: 1, signal: never })).damaged, []);
  });

  test("copies only what is missing, and nothing when it is run again", async () => {
    for (const name of chunks().slice(10)) to.objects.set(name, packed.get(name)!);
    const report = await transfer();
    assert.deepEqual([report.sentChunks, report.sharedChunks], [10, chunks().length - 10]);
    to.diary.length = 0;
    assert.equal((await transfer()).sentChunks, 0);
    assert.deepEqual(writes(), []);
  });

  test("brings back a chunk that an image which is there has lost", async () => {
    await transfer();
    to.objects.delete(chunks()[5]!);
    assert.equal((await transfer()).sentChunks, 1);
    assert.ok(to.objects.has(chunks()[5]!));
  });

  test("has a bounded number of requests under way", async () => {
    await transfer();
    assert.ok(from.mostAtOnce > 8, `${from.mostAtOnce} reads at once`);
    assert.ok(from.mostAtOnce <= 32, `${from.mostAtOnce} reads at once`);
    assert.ok(to.mostAtOnce <= 32, `${to.mostAtOnce} writes at once`);
  });

  test("tells how far it is, up to the whole", async () => {
    const seen: [done: number, total: number][] = [];
    const files = await readImageFiles(from, "web", never);
    const onProgress = (done: number, total: number): void => void seen.push([done, total]);
    await transferImage(files, { to, jobs: 2, onProgress, signal: never });
    assert.equal(seen.length, chunks().length);
    assert.ok(seen.every(([done], index) => index === 0 || done > seen[index - 1]![0]));
    assert.equal(seen.at(-1)![0], seen.at(-1)![1]);
  });

  const damages: [what: string, damage: (bytes: Uint8Array) => Uint8Array | null][] = [
    ["flipped", (bytes) => flipped(bytes)],
    ["cut", (bytes) => bytes.subarray(0, bytes.length - 1)],
    ["empty", () => new Uint8Array(0)],
    ["not there", () => null],
    ["another chunk's", () => packed.get(chunks()[8]!)!],
  ];
  for (const [what, damage] of damages) {
    test(`reads a chunk that is ${what} once more`, async () => {
      const victim = chunks()[3]!;
      let lies = 1;
      from.lie = (name, bytes) => (name === victim && lies-- > 0 ? damage(bytes!) : bytes);
      const report = await transfer();
      assert.equal(report.refetchedChunks, 1);
      assert.ok(from.diary.includes(`refetch ${victim}`), "past nearer copies");
      assert.equal(Buffer.compare(to.objects.get(victim)!, packed.get(victim)!), 0);
    });

    test(`publishes nothing if a chunk stays ${what}, and names it`, async () => {
      const victim = chunks()[3]!;
      from.lie = (name, bytes) => (name === victim ? damage(bytes!) : bytes);
      const id = victim.slice(-70, -6);
      await assert.rejects(transfer(), {
        code: "image-corrupt",
        message: new RegExp(`Chunk ${id} of web in test:from, at 0x.*Nothing was published`),
      });
      assert.ok(!to.objects.has(victim));
      assert.ok(!to.objects.has("web.caibx"));
      assert.equal(from.diary.filter((line) => line === `refetch ${victim}`).length, 1);
    });
  }

  test("refuses an image whose state is not the one packed, before it copies", async () => {
    from.objects.set("web.state", flipped(STATE));
    await assert.rejects(transfer(), { code: "image-corrupt", message: /state of web, .*digest/ });
    from.objects.delete("web.state");
    await assert.rejects(transfer(), { code: "image-corrupt", message: /web.state .* is missing/ });
    assert.deepEqual(writes(), []);
  });

  test("leaves another image of the same name alone", async () => {
    await transfer();
    const theirs = Buffer.from(to.objects.get("web.json")!);
    const older = theirs.toString().replace(/"created": "\d{4}/, '"created": "1999');
    to.objects.set("web.json", Buffer.from(older));
    to.diary.length = 0;
    await assert.rejects(transfer(), {
      code: "bad-option",
      message: /another image web in test:to/,
    });
    assert.deepEqual(writes(), []);
  });

  test("does not replace an image that somebody publishes meanwhile", async () => {
    const theirs = new Uint8Array(packed.get("web.caibx")!);
    theirs[64 + 8]! ^= 1;
    to.beforeWrite = (name) => {
      if (name === chunks()[0]) to.objects.set("web.caibx", theirs);
    };
    await assert.rejects(transfer(), { code: "bad-option", message: /another image web/ });
    assert.equal(to.objects.get("web.caibx"), theirs);
    assert.ok(!to.objects.has("web.json"));
  });

  test("copies an image without a companion, as casync makes it", async () => {
    from.objects.delete("web.json");
    from.objects.delete("web.state");
    await transfer();
    assert.deepEqual(writes().slice(-1), ["web.caibx"]);
    assert.ok(!to.objects.has("web.json"));
  });

  test("from a store into itself is refused", async () => {
    const files = await readImageFiles(from, "web", never);
    const options = { to: from, jobs: 1, signal: never };
    await assert.rejects(transferImage(files, options), { code: "bad-option" });
  });

  test("fails as the other store does, and goes on from there", async () => {
    let left = 20;
    to.beforeWrite = () => {
      if (left-- === 0) throw new Error("full");
    };
    await assert.rejects(transfer(), /full/);
    assert.ok(!to.objects.has("web.caibx"));
    to.beforeWrite = null;
    const report = await transfer();
    assert.ok(report.sharedChunks >= 20, `${report.sharedChunks}`);
  });

  test("ends with the reason of an abort", async () => {
    const stopped = new AbortController();
    const reason = new Error("enough");
    to.beforeWrite = () => stopped.abort(reason);
    await assert.rejects(transfer(stopped.signal), reason);
    assert.ok(!to.objects.has("web.caibx"));
  });
});

function flipped(bytes: Uint8Array): Uint8Array {
  const copy = new Uint8Array(bytes);
  copy[copy.length >> 1]! ^= 1;
  return copy;
}
