/** What is left when packing ends before its time: whole images or none, nothing half-written. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import type { GcReport } from "../../src/image/gc.ts";
import type { PackReport } from "../../src/image/pack.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { CHUNK_TREE } from "../../src/snapshot/chunk-id.ts";
import { atExit } from "../support/end-cleanly.ts";
import { Random } from "../support/fixtures.ts";
import { assertAllWhole, cliPath, ImageStage, writeMemory } from "../support/image-stage.ts";
import { requires } from "../support/requires.ts";

const KILLS = Number(process.env.FAULTLINE_KILLS ?? 8);
const SEED = Number(process.env.FAULTLINE_SEED ?? 1);
const DEADLINE_MS = 30_000;
const ROUNDS_PER_STORE = 20;

function startPack(stage: ImageStage, name: string): ChildProcess {
  return start(stage, "pack", stage.path("memory"), "--name", name, "--chunk-size", "16K");
}

function start(stage: ImageStage, ...args: readonly string[]): ChildProcess {
  const argv = [cliPath, "image", ...args, "--store", stage.store];
  const child = spawn(process.execPath, argv, { stdio: "ignore" });
  const forget = atExit(() => child.kill("SIGKILL"));
  child.once("exit", forget);
  return child;
}

describe("packing that is killed", () => {
  test(`${KILLS} times at any moment leaves whole images or none (FAULTLINE_KILLS)`, async (t) => {
    using stage = new ImageStage();
    const random = new Random(SEED);
    writeMemory(stage.path("memory"), 6000, SEED);
    const startMs = performance.now();
    stage.json("pack", stage.path("memory"), "--name", "v0", "--chunk-size", "16K");
    const wholeMs = performance.now() - startMs;
    let done = 0;
    for (let round = 1; round <= KILLS; round++) {
      // New content each time: there is always something to store.
      writeMemory(stage.path("memory"), 6000, SEED + round);
      const child = startPack(stage, `v${round}`);
      const exited = once(child, "exit");
      await Promise.race([delay(random.below(Math.ceil(wholeMs * 1.2))), exited]);
      child.kill("SIGKILL");
      await exited;
      if ((await assertAllWhole(stage.store)).includes(`v${round}`)) done += 1;
      // A store that only grew would take longer each time to verify.
      if (round % ROUNDS_PER_STORE === 0) rmSync(stage.store, { recursive: true });
    }
    stage.json("pack", stage.path("memory"), "--name", "last", "--chunk-size", "16K");
    assert.ok((await assertAllWhole(stage.store)).includes("last"));
    t.diagnostic(`${done} of ${KILLS} were done before they were killed`);
    assert.deepEqual(readdirSync(`${stage.store}/.staging`), ["lock"], "leftovers are cleared");
    stage.json("extract", "last", stage.path("out"));
    assert.ok(readFileSync(stage.path("out")).equals(readFileSync(stage.path("memory"))));
  });

  test("goes on where it was: chunks that have their names are not written again", async () => {
    using stage = new ImageStage();
    // More than one group of chunks (chunk-sink.ts), so that some are named before the end.
    writeMemory(stage.path("memory"), 24_000, SEED);
    const child = startPack(stage, "web");
    const exited = once(child, "exit");
    const tree = `${stage.store}/${CHUNK_TREE}`;
    const hasSome = (): boolean => existsSync(tree) && readdirSync(tree).length > 100;
    await waitFor("some chunks had names", hasSome, DEADLINE_MS);
    child.kill("SIGKILL");
    await exited;
    assert.ok(!existsSync(`${stage.store}/web.caibx`), "it was killed in time");
    const args = ["pack", stage.path("memory"), "--name", "web", "--chunk-size", "16K"] as const;
    const again = stage.json<PackReport>(...args);
    assert.ok(again.sharedChunks > 100, JSON.stringify(again));
    assert.deepEqual(await assertAllWhole(stage.store), ["web"]);
  });
});

describe("collecting garbage that is killed", () => {
  test(`${KILLS} times at any moment costs no image a chunk (FAULTLINE_KILLS)`, async (t) => {
    using stage = new ImageStage();
    const random = new Random(SEED);
    const pack = (name: string, seed: number): void => {
      writeMemory(stage.path("memory"), 1500, seed);
      stage.json("pack", stage.path("memory"), "--name", name, "--chunk-size", "4K");
    };
    const leaveGarbage = (round: number): void => {
      pack("old", SEED + round);
      for (const extension of ["caibx", "json"]) rmSync(`${stage.store}/old.${extension}`);
    };
    pack("kept", SEED);
    leaveGarbage(KILLS + 1);
    const startMs = performance.now();
    stage.json("gc", "--min-age", "0");
    const wholeMs = performance.now() - startMs;
    let unfinished = 0;
    for (let round = 1; round <= KILLS; round++) {
      leaveGarbage(round);
      const child = start(stage, "gc", "--min-age", "0");
      const exited = once(child, "exit");
      await Promise.race([delay(random.below(Math.ceil(wholeMs * 1.2))), exited]);
      child.kill("SIGKILL");
      if ((await exited)[0] !== 0) unfinished += 1;
      assert.deepEqual(await assertAllWhole(stage.store), ["kept"]);
    }
    t.diagnostic(`${unfinished} of ${KILLS} were killed before they were done`);
    assert.ok(unfinished > 0);
    stage.json("gc", "--min-age", "0");
    const again = stage.json<GcReport>("gc", "--min-age", "0");
    assert.equal(again.removedChunks, 0, "the last one left garbage");
    assert.deepEqual(await assertAllWhole(stage.store), ["kept"]);
  });
});

describe("packing that is interrupted", () => {
  for (const [signal, status] of [
    ["SIGINT", 130],
    ["SIGTERM", 143],
  ] as const) {
    test(`by ${signal} leaves no image and no file of its own`, async () => {
      using stage = new ImageStage();
      writeMemory(stage.path("memory"), 24_000, SEED);
      const child = startPack(stage, "web");
      const exited = once(child, "exit");
      const staging = `${stage.store}/.staging`;
      const hasBegun = (): boolean =>
        existsSync(staging) &&
        readdirSync(staging).some(
          (name) => name !== "lock" && readdirSync(`${staging}/${name}`).length > 2,
        );
      await waitFor("chunks were staged", hasBegun, DEADLINE_MS);
      child.kill(signal);
      assert.deepEqual(await exited, [status, null]);
      assert.deepEqual(readdirSync(staging), ["lock"]);
      assert.deepEqual(await assertAllWhole(stage.store), []);
    });
  }
});

describe("a full disk", requires("root"), () => {
  test("is an error with a cure; no image, and no file but whole chunks", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 6000, SEED);
    mkdirSync(stage.store);
    // The mount is seen by this child only, and ends with it.
    const script =
      `mount -t tmpfs -o size=2m none ${stage.store}; ` +
      '"$@"; status=$?; cd store; echo "status $status"; find . -type f | grep -v cacnk; ' +
      `cp -a . ${stage.path("copy")}`;
    const pack = ["image", "pack", stage.path("memory"), "--name", "web", "--chunk-size", "16K"];
    const { stdout, stderr } = spawnSync(
      "unshare",
      ["--mount", "sh", "-c", script, "sh", process.execPath, cliPath, ...pack, "--store", "store"],
      { cwd: stage.folder, encoding: "utf8", timeout: DEADLINE_MS },
    );
    assert.match(stderr, /^faultline: .* cannot be read or written: make room on its disk: ENOSPC/);
    assert.equal(stdout, "status 1\n./.staging/lock\n");
  });
});
