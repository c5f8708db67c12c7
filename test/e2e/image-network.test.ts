/** The image commands on stores behind a network: a real S3 server, a real web server. */
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import type { GcReport } from "../../src/image/gc.ts";
import type { InspectReport, ListedImage } from "../../src/image/inspect.ts";
import { type PackReport, packImage } from "../../src/image/pack.ts";
import { type TransferReport, transferImage } from "../../src/image/transfer.ts";
import { type VerifyReport, verifyImage } from "../../src/image/verify.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { CollectableS3Store } from "../../src/source/collectable-s3-store.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { openStore } from "../../src/source/open-store.ts";
import { S3Store } from "../../src/source/s3-store.ts";
import { openImage, readImageFiles } from "../../src/source/stored-image.ts";
import { TierStore } from "../../src/source/tier-store.ts";
import { ImageStage, writeDiff, writeMemory } from "../support/image-stage.ts";
import { Nginx } from "../support/nginx.ts";
import { chunkName, names } from "../support/object-store-suite.ts";
import { credentials, RadosGateway } from "../support/radosgw.ts";
import { requires } from "../support/requires.ts";
import { plantWorkingSet, setOf } from "../support/working-sets.ts";

const never = new AbortController().signal;
const BUCKET = "images";
const DEADLINE_MS = 30_000;

function pack(stage: ImageStage, name: string, pages: number, seed: number): Buffer {
  const memory = writeMemory(stage.path("memory"), pages, seed);
  writeFileSync(stage.path("state"), "the state of a VMM");
  const files = [stage.path("memory"), "--state", stage.path("state")];
  stage.json("pack", ...files, "--name", name, "--chunk-size", "16K");
  return memory;
}

describe("images in S3", requires("radosgw"), () => {
  let gateway: RadosGateway;
  let places = 0;
  before(async () => {
    gateway = await RadosGateway.start();
    await gateway.makeBucket(BUCKET);
    process.env.AWS_ACCESS_KEY_ID = credentials.accessKeyId;
    process.env.AWS_SECRET_ACCESS_KEY = credentials.secretAccessKey;
  });
  after(async () => {
    delete process.env.AWS_ACCESS_KEY_ID;
    delete process.env.AWS_SECRET_ACCESS_KEY;
    await gateway?.[Symbol.asyncDispose]();
  });
  const newPlace = (): string => `s3+${gateway.endpoint}/${BUCKET}/place-${places++}`;

  test("are pushed, looked at, verified, compared, extracted and pulled", async () => {
    using stage = new ImageStage();
    const memory = pack(stage, "web", 2001, 1);
    await plantWorkingSet(stage.store, "web", setOf([[7, 255, 80]], 2001));
    const there = newPlace();
    const pushed = stage.json<TransferReport>("push", "web", there);
    assert.equal(pushed.sentChunks, pushed.chunks);
    assert.equal(stage.json<TransferReport>("push", "web", there).sentChunks, 0);
    const { images } = stage.json<{ images: ListedImage[] }>("ls", "--store", there);
    assert.deepEqual(
      images.map(({ name, damage }) => [name, damage]),
      [["web", null]],
    );
    const { inStore } = stage.json<InspectReport>("inspect", `${there}/web`);
    assert.ok("missingChunks" in inStore && inStore.missingChunks === 0);
    assert.deepEqual(stage.json<VerifyReport>("verify", `${there}/web`).damaged, []);
    const compared = stage.json<{ differentPages: number }>("diff", "web", `${there}/web`);
    assert.equal(compared.differentPages, 0);
    stage.json("extract", `${there}/web`, stage.path("out"));
    assert.ok(readFileSync(stage.path("out")).equals(memory));
    const back = stage.path("back");
    const pulled = stage.json<TransferReport>("pull", `${there}/web`, back);
    assert.equal(pulled.sentBytes, pushed.sentBytes);
    for (const name of ["web.caibx", "web.json", "web.state", "web.workingset"]) {
      assert.ok(readFileSync(`${back}/${name}`).equals(readFileSync(`${stage.store}/${name}`)));
    }
  });

  test("are packed there, a diff over a parent too; gc removes what no image needs", () => {
    using stage = new ImageStage();
    const memory = writeMemory(stage.path("memory"), 1001, 2);
    const there = ["--store", newPlace()] as const;
    stage.json("pack", stage.path("memory"), "--name", "web", "--chunk-size", "16K", ...there);
    writeDiff(stage.path("diff"), memory, 3);
    const diff = ["--diff", stage.path("diff"), "--parent", "web", "--name", "web-2"];
    const second = stage.json<PackReport>("pack", ...diff, ...there);
    assert.ok(second.sharedChunks > 0 && second.newChunks > 0, JSON.stringify(second));
    stage.json("extract", "web-2", stage.path("out"), ...there);
    assert.ok(readFileSync(stage.path("out")).equals(memory));
    const young = stage.json<GcReport>("gc", ...there);
    assert.deepEqual([young.removedChunks, young.spared], [0, 0]);
    assert.deepEqual(stage.json<VerifyReport>("verify", "web-2", ...there).damaged, []);
  });

  const openS3 = async (place: string, youngMs?: number): Promise<CollectableS3Store> => {
    const s3 = { endpoint: gateway.endpoint, credentials };
    const store = await S3Store.open(place, { bucket: BUCKET, prefix: `${place}/` }, s3);
    return new CollectableS3Store(store, {}, youngMs);
  };

  test("lose only the chunks that no image needs and that are old enough", async () => {
    using stage = new ImageStage();
    pack(stage, "web", 500, 4);
    const there = newPlace();
    stage.json("push", "web", there);
    const store = await openStore(there);
    await store.write(chunkName(1), Buffer.from("nobody's"), never);
    await store.write("gone.workingset", Buffer.from("nobody's"), never);
    const spared = stage.json<GcReport>("gc", "--store", there);
    assert.deepEqual([spared.removedChunks, spared.spared], [0, 1]);
    // S3 tells ages in seconds.
    const isOld = async (): Promise<boolean> => {
      const dry = stage.json<GcReport>("gc", "--store", there, "--min-age", "0", "--dry-run");
      return dry.removedChunks === 1 && dry.removedWorkingSets === 1;
    };
    await waitFor("both were old", isOld, DEADLINE_MS);
    const swept = stage.json<GcReport>("gc", "--store", there, "--min-age", "0");
    assert.deepEqual([swept.removedChunks, swept.spared], [1, 0]);
    assert.equal(swept.removedWorkingSets, 1);
    assert.equal(await store.exists(chunkName(1), never), false);
    assert.deepEqual(stage.json<VerifyReport>("verify", `${there}/web`).damaged, []);
    await store.close();
  });

  test("a refresh makes old chunks young, keeps their bytes, tells which are gone", async () => {
    const store = await openS3("refreshed", 1000);
    const all = Array.from({ length: 40 }, (_, index) => chunkName(index));
    for (const name of all) await store.write(name, Buffer.from(name), never);
    const ages = async (): Promise<number[]> => {
      const found: number[] = [];
      for await (const { modifiedMs } of store.list("default", never)) found.push(modifiedMs);
      return found;
    };
    const before = Math.max(...(await ages()));
    const isOld = async (): Promise<boolean> => {
      assert.deepEqual(await store.refresh([...all, chunkName(99)], never), [chunkName(99)]);
      return Math.min(...(await ages())) > before;
    };
    await waitFor("all were old, and then young", isOld, DEADLINE_MS);
    for (const name of all) assert.deepEqual(await store.read(name, never), Buffer.from(name));
    assert.deepEqual(await store.removeOlder(all, before, never), []);
    assert.deepEqual((await store.removeOlder(all, before + 1e7, never)).sort(), all.sort());
    assert.deepEqual(await names(store, ""), ["faultline.lock"]);
    await store.close();
  });

  test("refreshing and removing from many places at once lose nothing", async () => {
    const stores = await Promise.all(Array.from({ length: 4 }, () => openS3("contended", 0)));
    const all = Array.from({ length: 32 }, (_, index) => chunkName(index));
    for (const name of all) await stores[0]!.write(name, Buffer.from(name), never);
    const results = await Promise.all(
      stores.map(async (store, index) =>
        index % 2 === 0
          ? await store.refresh(all, never)
          : await store.removeOlder(all, Date.now() - 60_000, never),
      ),
    );
    assert.deepEqual(results, [[], [], [], []]);
    for (const store of stores) await store.close();
  });
});

describe("images behind a web server", requires("nginx"), () => {
  let nginx: Nginx;
  before(async () => {
    nginx = await Nginx.start();
  });
  after(async () => {
    await nginx?.[Symbol.asyncDispose]();
  });

  test("are verified, compared, looked at, extracted and pulled; not listed or written", () => {
    using stage = new ImageStage();
    const memory = pack(stage, "web", 1001, 5);
    cpSync(stage.store, `${nginx.path}/images/published`, { recursive: true });
    const there = `${nginx.location}/published`;
    assert.deepEqual(stage.json<VerifyReport>("verify", `${there}/web`).damaged, []);
    const compared = stage.json<{ differentPages: number }>("diff", `${there}/web`, "web");
    assert.equal(compared.differentPages, 0);
    const { inStore } = stage.json<InspectReport>("inspect", `${there}/web`);
    assert.match("unknown" in inStore ? inStore.unknown : "", /is a web server/);
    assert.match(stage.run("inspect", `${there}/web`).stdout, /stored +unknown: Cannot list/);
    stage.json("extract", "web", stage.path("out"), "--store", there);
    assert.ok(readFileSync(stage.path("out")).equals(memory));
    const back = `dir:${stage.path("back")}`;
    stage.json("pull", `${there}/web`, back);
    assert.deepEqual(stage.json<VerifyReport>("verify", `${back}/web`).damaged, []);

    const refused: [status: number, args: readonly string[], message: RegExp][] = [
      [5, ["ls", "--store", there], /is a web server, .* use the directory or bucket behind it/],
      [5, ["push", "web", `${nginx.location}/other`], /can only be read\. Write to the directory/],
      [
        5,
        ["pack", stage.path("memory"), "--name", "x", "--store", there],
        /can only be read\. Write to the directory/,
      ],
      [5, ["gc", "--store", there], /a web server, which can only be read.*folder or the bucket/],
      [3, ["verify", `${there}/none`], /There is no image none in http/],
    ];
    for (const [status, args, message] of refused) {
      assert.match(stage.fails(status, ...args), message, args.join(" "));
    }
  });
});

describe("an image behind a tier", () => {
  test("is verified, transferred, and healed where the near copy is damaged", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 500, 6);
    const far = DirectoryStore.open(stage.path("far"), { create: true });
    await packImage({
      store: far,
      name: "web",
      path: stage.path("memory"),
      isDiff: false,
      parent: null,
      chunkSizeBytes: 16_384,
      digest: "sha256",
      level: 1,
      jobs: 1,
      signal: never,
    });
    const near = DirectoryStore.open(stage.path("near"), { create: true });
    const tier = new TierStore(near, far, { maxBytes: 1e9 });
    const image = await openImage(tier, "web", never);
    const verify = async (): Promise<unknown> =>
      (await verifyImage(image, { jobs: 2, signal: never })).damaged;
    assert.deepEqual(await verify(), []);
    await tier.flush();
    const [victim, other] = await names(near, "");
    writeFileSync(near.pathOf(victim!), "rotten");
    assert.deepEqual(await verify(), []);
    await tier.flush();
    assert.deepEqual(await near.read(victim!, never), await far.read(victim!, never), "healed");
    writeFileSync(near.pathOf(other!), "rotten");
    const to = DirectoryStore.open(stage.path("to"), { create: true });
    const files = await readImageFiles(tier, "web", never);
    const report = await transferImage(files, { to, jobs: 2, signal: never });
    assert.equal(report.refetchedChunks, 1);
    for (const store of [tier, to]) await store.close();
  });
});
