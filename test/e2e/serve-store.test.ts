/** VMs restored from images: chunks come when faults need them, and nothing wrong is installed. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { CHUNK_TREE } from "../../src/snapshot/chunk-id.ts";
import { ImageStage, writeDiff, writeMemory } from "../support/image-stage.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

const PAGE_COUNT = 4096;
const needs = requires("userfaultfd", "cc");

/** A stage with an image `web` of a memory file with holes. */
function packed(...flags: readonly string[]): ImageStage {
  const stage = new ImageStage();
  writeMemory(stage.path("memory"), PAGE_COUNT, 1);
  stage.json("pack", stage.path("memory"), "--name", "web", ...flags);
  return stage;
}

async function serve(stage: ImageStage, image = "web", ...flags: readonly string[]) {
  const place = ["--memory", image, "--store", stage.store, "--socket", stage.path("socket")];
  return await ServeProcess.start([...place, ...flags]);
}

function chunkFiles(stage: ImageStage): string[] {
  const tree = join(stage.store, CHUNK_TREE);
  return readdirSync(tree, { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".cacnk"))
    .map((name) => join(tree, name));
}

describe("an image", needs, () => {
  for (const chunkSize of ["4K", "64K", "256K", "4M"]) {
    test(`in chunks of ${chunkSize} restores every byte, also of memory given back`, async () => {
      using stage = packed("--chunk-size", chunkSize);
      await using handler = await serve(stage, "web", "--cache-size", "8");
      const options = ["--threads", 3, "--balloon", "--touch", "random:1500"];
      await Promise.all([
        runVmm(stage.path("socket"), stage.path("memory"), ...options),
        runVmm(stage.path("socket"), stage.path("memory"), "--regions", 3, "--kernel-touch"),
      ]);
      const line = await handler.logged("Detached a VM", 2);
      assert.ok(Number(line.awaitedPages) > 0);
    });
  }

  test("says with --stats-interval how its cache does", async () => {
    using stage = packed();
    await using handler = await serve(stage, "web", "--stats-interval", "1");
    await runVmm(stage.path("socket"), stage.path("memory"), "--threads", 2);
    await handler.logged("Statistics", handler.lines("Statistics").length + 1);
    const line = handler.lines("Statistics").at(-1)!;
    assert.ok(Number(line.chunks) > 0 && Number(line.loads) >= Number(line.chunks));
    assert.match(String(line.fetched), /^[\d.]+ [KM]iB$/);
    assert.equal(line.corrupt, undefined);
  });

  test("of a diff over another is served whole", async () => {
    using stage = packed();
    writeDiff(stage.path("diff"), readFileSync(stage.path("memory")), 2);
    stage.json("pack", "--diff", stage.path("diff"), "--parent", "web", "--name", "next");
    stage.json("extract", "next", stage.path("expected"));
    await using _ = await serve(stage, "next");
    await runVmm(stage.path("socket"), stage.path("expected"), "--threads", 2);
  });

  test("that needs more chunks than the cache holds goes on evicting", async () => {
    using stage = packed("--chunk-size", "1M");
    await using _ = await serve(stage, "web", "--cache-size", "4");
    const run = () =>
      runVmm(stage.path("socket"), stage.path("memory"), "--touch", "random:1000", "--threads", 4);
    await Promise.all([run(), run(), run()]);
  });
});

describe("an image on huge pages", requires("userfaultfd", "cc", "hugepages"), () => {
  for (const chunkSize of ["256K", "4M"]) {
    test(`is put together from chunks of ${chunkSize}`, async () => {
      using stage = packed("--chunk-size", chunkSize);
      await using _ = await serve(stage);
      await runVmm(stage.path("socket"), stage.path("memory"), "--huge", "--threads", 2);
    });
  }
});

describe("an image that casync made", requires("userfaultfd", "cc", "casync"), () => {
  test("is served, although its chunks end inside of pages", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), PAGE_COUNT, 3);
    mkdirSync(stage.store);
    const args = ["make", "--chunk-size=65536", "made.caibx", stage.path("memory")];
    execFileSync("casync", args, { cwd: stage.store, timeout: 60_000, stdio: "pipe" });
    await using _ = await serve(stage, "made");
    await runVmm(stage.path("socket"), stage.path("memory"), "--threads", 3);
  });
});

describe("a chunk that nobody has whole", needs, () => {
  const spoilers: readonly (readonly [string, (path: string) => void])[] = [
    ["is missing", (path) => rmSync(path)],
    ["has a flipped bit", flipBit],
    ["is cut short", (path) => writeFileSync(path, readFileSync(path).subarray(0, 100))],
    ["is empty", (path) => writeFileSync(path, "")],
  ];
  for (const [what, spoil] of spoilers) {
    test(`${what}: the VM is killed before it reads a wrong byte; the log has it`, async () => {
      using stage = packed();
      for (const path of chunkFiles(stage)) spoil(path);
      await using handler = await serve(stage);
      await using vmm = new Vmm(stage.path("socket"), stage.path("memory"));
      assert.equal((await vmm.ended()).signal, "SIGKILL");
      const line = await handler.loggedFor(vmm.pid, "A VM could not be served on: it was killed");
      assert.match(String(line.reason), /cannot be had: No store has chunk [0-9a-f]{64} whole/);
      if (what !== "is missing") assert.ok(handler.lines("A chunk is damaged").length > 0);
      assert.equal(handler.exit, null);
    });
  }

  test("--on-error wait: the VM waits, the log says for what, and it goes on", async () => {
    using stage = packed("--chunk-size", "4M");
    const kept = chunkFiles(stage).map((path) => [path, readFileSync(path)] as const);
    for (const [path] of kept) rmSync(path);
    await using handler = await serve(stage, "web", "--on-error", "wait");
    await using vmm = new Vmm(stage.path("socket"), stage.path("memory"), ["--threads", 2]);
    const line = await handler.loggedFor(vmm.pid, "A VM waits for a page that cannot be had now");
    assert.equal(line.level, "error");
    assert.match(String(line.reason), /cannot be had: No store has chunk [0-9a-f]{64} whole/);
    for (const [path, bytes] of kept) writeFileSync(path, bytes);
    assert.equal((await vmm.result()).mismatches, 0);
    assert.equal(handler.lines("A VM could not be served on").length, 0);
  });

  test("costs only the VMs that need it", async () => {
    using stage = packed("--chunk-size", "4K");
    await using handler = await serve(stage);
    await using bystander = new Vmm(stage.path("socket"), stage.path("memory"), [
      ...["--touch", "random:50", "--linger", 60_000],
    ]);
    assert.equal((await bystander.result()).mismatches, 0);
    for (const path of chunkFiles(stage)) rmSync(path);
    await using victim = new Vmm(stage.path("socket"), stage.path("memory"));
    assert.equal((await victim.ended()).signal, "SIGKILL");
    assert.equal(handler.lines("Detached a VM", bystander.pid).length, 0);
  });
});

describe("images that cannot be served", () => {
  const refused = async (stage: ImageStage, args: readonly string[]) => {
    await using handler = await ServeProcess.run([...args, "--socket", stage.path("socket")]);
    return handler;
  };

  test("are told by name and place", async () => {
    using stage = packed();
    const handler = await refused(stage, ["--memory", "wbe", "--store", stage.store]);
    assert.equal(handler.exit?.code, ExitCode.badSnapshot);
    assert.match(handler.errors, /There is no image wbe in dir:.*store/);
  });

  test("have no layers above them", async () => {
    using stage = packed();
    const memory = `dir:${stage.store}/web`;
    const handler = await refused(stage, ["--memory", memory, "--layer", stage.path("memory")]);
    assert.equal(handler.exit?.code, ExitCode.usage);
    assert.match(handler.errors, /--layer cannot be used with the image dir:/);
  });

  test("a name is a file if there is one", async () => {
    using stage = packed();
    const handler = await refused(stage, ["--memory", "./web", "--store", stage.store]);
    assert.match(handler.errors, /memory file \.\/web cannot be opened/);
  });
});

function flipBit(path: string): void {
  const bytes = readFileSync(path);
  bytes[bytes.length >>> 1]! ^= 1;
  writeFileSync(path, bytes);
}
