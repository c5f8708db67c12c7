/** `image push` and `image pull` between folders: whole images, also after kills at any moment. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import type { TransferReport } from "../../src/image/transfer.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { CHUNK_TREE } from "../../src/snapshot/chunk-id.ts";
import { atExit } from "../support/end-cleanly.ts";
import { Random } from "../support/fixtures.ts";
import {
  assertAllWhole,
  cliPath,
  ImageStage,
  writeDiff,
  writeMemory,
} from "../support/image-stage.ts";

const KILLS = Number(process.env.FAULTLINE_KILLS ?? 20);
const SEED = Number(process.env.FAULTLINE_SEED ?? 1);
const DEADLINE_MS = 30_000;

/** Packs `web` into the stage's store. */
function pack(stage: ImageStage, pages: number): Buffer {
  const memory = writeMemory(stage.path("memory"), pages, SEED);
  writeFileSync(stage.path("state"), "the state of a VMM");
  const files = [stage.path("memory"), "--state", stage.path("state")];
  stage.json("pack", ...files, "--name", "web", "--chunk-size", "16K");
  return memory;
}

function startPull(stage: ImageStage, to: string): ChildProcess {
  const args = ["image", "pull", `dir:${stage.store}/web`, "--store", to];
  const child = spawn(process.execPath, [cliPath, ...args], { stdio: "ignore" });
  const forget = atExit(() => child.kill("SIGKILL"));
  child.once("exit", forget);
  return child;
}

describe("an image", () => {
  test("is pushed to a folder and pulled from there, byte by byte", () => {
    using stage = new ImageStage();
    const memory = pack(stage, 2001);
    const [there, back] = [stage.path("there"), stage.path("back")];
    const pushed = stage.json<TransferReport>("push", "web", there);
    assert.deepEqual([pushed.from, pushed.to], [`dir:${stage.store}`, `dir:${there}`]);
    assert.equal(pushed.sentChunks, pushed.chunks);
    const pulled = stage.json<TransferReport>("pull", `dir:${there}/web`, "--store", back);
    assert.equal(pulled.sentBytes, pushed.sentBytes);
    for (const name of ["web.caibx", "web.json", "web.state"]) {
      assert.ok(readFileSync(`${back}/${name}`).equals(readFileSync(`${stage.store}/${name}`)));
    }
    stage.json("extract", `dir:${back}/web`, stage.path("out"));
    assert.ok(readFileSync(stage.path("out")).equals(memory));
  });

  test("brings only chunks that are not there", () => {
    using stage = new ImageStage();
    const memory = pack(stage, 2001);
    const there = `dir:${stage.path("there")}`;
    stage.json("push", "web", there);
    writeDiff(stage.path("diff"), memory, SEED);
    const diff = ["--diff", stage.path("diff"), "--parent", "web"];
    stage.json("pack", ...diff, "--name", "web-2");
    const report = stage.json<TransferReport>("push", "web-2", there);
    assert.ok(report.sentChunks > 0 && report.sharedChunks > 0, JSON.stringify(report));
    assert.equal(stage.json<TransferReport>("push", "web-2", there).sentChunks, 0);
    stage.json("extract", `${there}/web-2`, stage.path("out"));
    assert.ok(readFileSync(stage.path("out")).equals(memory));
  });

  test("says what it did, in words", () => {
    using stage = new ImageStage();
    pack(stage, 100);
    const { status, stdout, stderr } = stage.run("push", "web", stage.path("there"));
    assert.deepEqual([status, stderr], [0, ""]);
    assert.match(
      stdout,
      /^pushed web to dir:.*there: 400 KiB of memory in .* s\n\d+ chunks: 0 were/,
    );
  });
});

describe("a transfer is refused", () => {
  test("if it makes no sense, with the reason", () => {
    using stage = new ImageStage();
    pack(stage, 100);
    const there = stage.path("there");
    const wrong: [status: number, args: readonly string[], message: RegExp][] = [
      [2, ["push", "web", stage.store], /is in dir:.* already: give two different stores/],
      [2, ["pull", "web"], /is in dir:.* already: give two different stores/],
      [3, ["push", "none", there], /There is no image none/],
      [2, ["push", "web", "ftp://host"], /The store ftp:\/\/host cannot be used/],
      [2, ["push", "web"], /missing required argument 'to'/],
    ];
    for (const [status, args, message] of wrong) {
      assert.match(stage.fails(status, ...args), message, args.join(" "));
    }
    assert.ok(!existsSync(there), "nothing was made in vain");
    stage.json("push", "web", there);
    rmSync(`${stage.store}/web.caibx`);
    writeMemory(stage.path("memory"), 101, SEED + 1);
    stage.json("pack", stage.path("memory"), "--name", "web");
    assert.match(stage.fails(2, "push", "web", there), /There is another image web in dir:.*there/);
  });

  test("if a chunk is damaged: it is named, and nothing is published", async () => {
    using stage = new ImageStage();
    pack(stage, 500);
    const tree = `${stage.store}/${CHUNK_TREE}`;
    const [folder] = readdirSync(tree);
    const [file] = readdirSync(`${tree}/${folder}`);
    const whole = readFileSync(`${tree}/${folder}/${file}`);
    truncateSync(`${tree}/${folder}/${file}`, whole.length - 1);
    const message = stage.fails(3, "push", "web", stage.path("there"));
    assert.match(message, new RegExp(`Chunk ${file!.slice(0, 64)} of web in dir:.*read again`));
    assert.deepEqual(await assertAllWhole(stage.path("there")), []);
    writeFileSync(`${tree}/${folder}/${file}`, whole);
    stage.json("push", "web", stage.path("there"));
    assert.deepEqual(await assertAllWhole(stage.path("there")), ["web"]);
  });
});

describe("pulling that is killed", () => {
  test(`${KILLS} times at any moment goes on and ends well (FAULTLINE_KILLS)`, async (t) => {
    using stage = new ImageStage();
    const random = new Random(SEED);
    const memory = pack(stage, 6000);
    const startMs = performance.now();
    stage.json("pull", `dir:${stage.store}/web`, "--store", stage.path("timed"));
    const wholeMs = performance.now() - startMs;
    const to = stage.path("to");
    let done = 0;
    for (let round = 1; round <= KILLS; round++) {
      const child = startPull(stage, to);
      const exited = once(child, "exit");
      await Promise.race([delay(random.below(Math.ceil(wholeMs * 0.9))), exited]);
      child.kill("SIGKILL");
      await exited;
      if ((await assertAllWhole(to)).length === 0) continue;
      done++;
      rmSync(to, { recursive: true });
    }
    t.diagnostic(`${done} of ${KILLS} were done before they were killed`);
    stage.json("pull", `dir:${stage.store}/web`, "--store", to);
    assert.deepEqual(await assertAllWhole(to), ["web"]);
    assert.deepEqual(readdirSync(`${to}/.staging`), ["lock"], "leftovers are cleared");
    stage.json("extract", `dir:${to}/web`, stage.path("out"));
    assert.ok(readFileSync(stage.path("out")).equals(memory));
  });

  test("does not copy again what has its name", async () => {
    using stage = new ImageStage();
    pack(stage, 24_000);
    const to = stage.path("to");
    const child = startPull(stage, to);
    const exited = once(child, "exit");
    const tree = `${to}/${CHUNK_TREE}`;
    const hasSome = (): boolean => existsSync(tree) && readdirSync(tree).length > 100;
    await waitFor("some chunks had names", hasSome, DEADLINE_MS);
    child.kill("SIGKILL");
    await exited;
    assert.ok(!existsSync(`${to}/web.caibx`), "it was killed in time");
    const again = stage.json<TransferReport>("pull", `dir:${stage.store}/web`, to);
    assert.ok(again.sharedChunks > 100, JSON.stringify(again));
    assert.deepEqual(await assertAllWhole(to), ["web"]);
  });

  test("or interrupted leaves no image and no file of its own", async () => {
    using stage = new ImageStage();
    pack(stage, 24_000);
    const to = stage.path("to");
    const child = startPull(stage, to);
    const exited = once(child, "exit");
    const hasBegun = (): boolean => existsSync(`${to}/${CHUNK_TREE}`);
    await waitFor("chunks were copied", hasBegun, DEADLINE_MS);
    child.kill("SIGINT");
    assert.deepEqual(await exited, [130, null]);
    assert.deepEqual(readdirSync(`${to}/.staging`), ["lock"]);
    assert.deepEqual(await assertAllWhole(to), []);
  });
});
