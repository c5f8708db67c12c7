/** The working set of an image, through its life: shown, checked, copied, inherited, removed. */
import assert from "node:assert/strict";
import { cpSync, existsSync, readFileSync, rmSync, utimesSync, writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import type { WorkingSet } from "../../src/base/working-set.ts";
import type { GcReport } from "../../src/image/gc.ts";
import type { InspectReport } from "../../src/image/inspect.ts";
import type { TransferReport } from "../../src/image/transfer.ts";
import type { VerifyReport } from "../../src/image/verify.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { openStore } from "../../src/source/open-store.ts";
import { openImage } from "../../src/source/stored-image.ts";
import {
  imageWorkingSet,
  readWorkingSet,
  type WorkingSetFinding,
} from "../../src/source/working-set-place.ts";
import { ImageStage, writeDiff, writeMemory } from "../support/image-stage.ts";
import { Nginx } from "../support/nginx.ts";
import { requires } from "../support/requires.ts";
import { plantWorkingSet, type Row, setOf } from "../support/working-sets.ts";

const never = new AbortController().signal;
const PAGES = 1001;

/** 500 pages, of which every second is needed in at least three of four restores. */
function learntSet(restores: number): WorkingSet {
  const rows = Array.from(
    { length: 500 },
    (_, page): Row => [page, page % 2 ? 192 : 191, 9 * page],
  );
  return setOf(rows, PAGES, restores);
}

function pack(stage: ImageStage, name: string, seed: number): Buffer {
  const memory = writeMemory(stage.path("memory"), PAGES, seed);
  stage.json("pack", stage.path("memory"), "--name", name, "--chunk-size", "16K");
  return memory;
}

async function learn(path: string, name: string, restores: number): Promise<void> {
  await plantWorkingSet(path, name, learntSet(restores));
}

async function workingSetOf(path: string, name: string): Promise<WorkingSetFinding> {
  return await readWorkingSet(await openImage(DirectoryStore.open(path), name, never), never);
}

async function assertLearnt(path: string, name: string, restores: number): Promise<void> {
  const found = await workingSetOf(path, name);
  assert.ok(found.kind === "found", found.kind);
  assert.deepEqual(found.set, learntSet(restores));
}

describe("the working set of an image", () => {
  test("is shown by inspect and checked by verify", async () => {
    using stage = new ImageStage();
    pack(stage, "web", 1);
    assert.equal(stage.json<InspectReport>("inspect", "web").workingSet, null);
    assert.match(stage.run("inspect", "web").stdout, /\nworking set +none\n$/);
    assert.equal(stage.json<VerifyReport>("verify", "web").workingSet.kind, "none");
    await learn(stage.store, "web", 12);
    assert.deepEqual(stage.json<InspectReport>("inspect", "web").workingSet, {
      restores: 12,
      pages: 500,
      bytes: 500 * 4096,
      usualPages: 250,
      usualBytes: 250 * 4096,
      storedBytes: readFileSync(`${stage.store}/web.workingset`).length,
    });
    assert.match(
      stage.run("inspect", "web").stdout,
      /\nworking set +500 pages, 2 MiB, 50\.0 % of the memory, from 12 restores\nneeded +1000 KiB/,
    );
    assert.equal(stage.json<VerifyReport>("verify", "web").workingSet.kind, "found");
    assert.match(stage.run("verify", "web").stdout, /^web is whole: .*, and a working set\n$/);
  });

  test("that is damaged is told, and keeps nothing from working", async () => {
    using stage = new ImageStage();
    const memory = pack(stage, "web", 2);
    await learn(stage.store, "web", 12);
    const path = `${stage.store}/web.workingset`;
    const bytes = readFileSync(path);
    bytes[100]! ^= 1;
    writeFileSync(path, bytes);
    const { status, stdout } = stage.run("verify", "web");
    assert.equal(status, 3);
    assert.match(
      stdout,
      /^web is whole: .*\nNo working set is used\. web\.workingset in dir:.*dig/,
    );
    assert.match(stage.run("inspect", "web").stdout, /\nworking set +cannot be used: web\.work/);
    stage.json("extract", "web", stage.path("out"));
    assert.ok(readFileSync(stage.path("out")).equals(memory));
    const pushed = stage.json<TransferReport>("push", "web", stage.path("there"));
    assert.equal(pushed.workingSet.kind, "leftOut");
    assert.ok(!existsSync(stage.path("there/web.workingset")));
    writeDiff(stage.path("diff"), memory, 3);
    stage.json("pack", "--diff", stage.path("diff"), "--parent", "web", "--name", "web-2");
    assert.ok(!existsSync(`${stage.store}/web-2.workingset`));
  });

  test("goes where its image goes; the one from more restores stays", async () => {
    using stage = new ImageStage();
    pack(stage, "web", 4);
    await learn(stage.store, "web", 12);
    const there = stage.path("there");
    const push = (): TransferReport => stage.json<TransferReport>("push", "web", there);
    assert.equal(push().workingSet.kind, "copied");
    assert.ok(
      readFileSync(`${there}/web.workingset`).equals(readFileSync(`${stage.store}/web.workingset`)),
    );
    assert.equal(push().workingSet.kind, "kept");
    await learn(there, "web", 40);
    assert.equal(push().workingSet.kind, "kept");
    const back = ["pull", `dir:${there}/web`] as const;
    assert.equal(stage.json<TransferReport>(...back).workingSet.kind, "copied");
    await assertLearnt(stage.store, "web", 40);
    rmSync(`${there}/web.workingset`);
    assert.equal(stage.json<TransferReport>(...back).workingSet.kind, "none");
    await assertLearnt(stage.store, "web", 40);
    assert.match(stage.run("push", "web", there).stdout, /\nits working set was copied\n$/);
  });

  test("is inherited by an image packed over it, and is then its own", async () => {
    using stage = new ImageStage();
    const memory = pack(stage, "web", 5);
    await learn(stage.store, "web", 12);
    writeDiff(stage.path("diff"), memory, 6);
    stage.json("pack", "--diff", stage.path("diff"), "--parent", "web", "--name", "web-2");
    await assertLearnt(stage.store, "web-2", 12);
    await learn(stage.store, "web-2", 13);
    await assertLearnt(stage.store, "web", 12);
    writeMemory(stage.path("memory"), PAGES, 7);
    stage.json("pack", stage.path("memory"), "--parent", "web-2", "--name", "web-3");
    await assertLearnt(stage.store, "web-3", 13);
    writeMemory(stage.path("larger"), PAGES + 1, 8);
    stage.json("pack", stage.path("larger"), "--parent", "web", "--name", "larger");
    assert.equal((await workingSetOf(stage.store, "larger")).kind, "none");
  });

  test("is no other image's that was packed under the same name", async () => {
    using stage = new ImageStage();
    pack(stage, "web", 9);
    await learn(stage.store, "web", 12);
    rmSync(`${stage.store}/web.caibx`);
    pack(stage, "web", 10);
    const found = await workingSetOf(stage.store, "web");
    assert.ok(found.kind === "foreign");
    assert.match(found.reason, /learnt from another image of this name/);
    assert.equal(stage.run("verify", "web").status, 0);
  });

  test("stays while its image is there, and goes with it by gc, once it is old", async () => {
    using stage = new ImageStage();
    pack(stage, "keep", 11);
    pack(stage, "drop", 12);
    const paths = ["keep", "drop"].map((name) => `${stage.store}/${name}.workingset`);
    for (const name of ["keep", "drop"]) await learn(stage.store, name, 12);
    const then = new Date(Date.now() - 48 * 3_600_000);
    for (const path of paths) utimesSync(path, then, then);
    assert.equal(stage.json<GcReport>("gc").removedWorkingSets, 0);
    rmSync(`${stage.store}/drop.caibx`);
    await learn(stage.store, "keep", 13);
    const dry = stage.json<GcReport>("gc", "--dry-run");
    assert.deepEqual([dry.removedWorkingSets, existsSync(paths[1]!)], [1, true]);
    assert.match(stage.run("gc").stdout, /\nremoved 1 working sets of images that are gone\n/);
    assert.deepEqual(paths.map(existsSync), [true, false]);
    await assertLearnt(stage.store, "keep", 13);
    // A server that goes on writes it again: too young to go.
    writeFileSync(paths[1]!, "");
    for (const args of [["gc"], ["gc", "--dry-run"]]) {
      assert.equal(stage.json<GcReport>(...args).removedWorkingSets, 0);
    }
    assert.ok(existsSync(paths[1]!));
  });
});

describe("the working set of an image behind a web server", requires("nginx"), () => {
  test("is read, and cannot be written", async () => {
    using stage = new ImageStage();
    pack(stage, "web", 13);
    pack(stage, "new", 14);
    await learn(stage.store, "web", 12);
    await using nginx = await Nginx.start();
    cpSync(stage.store, `${nginx.path}/images/published`, { recursive: true });
    const store = await openStore(`${nginx.location}/published`);
    const image = await openImage(store, "web", never);
    const found = await readWorkingSet(image, never);
    assert.ok(found.kind === "found");
    assert.deepEqual(found.set, learntSet(12));
    const other = await openImage(store, "new", never);
    assert.deepEqual(await readWorkingSet(other, never), { kind: "none" });
    const writing = imageWorkingSet(image).write(learntSet(13), never);
    await assert.rejects(writing, { code: "store-refused" });
    await store.close();
  });
});
