/**
 * `serve --track-dirty` and `image pack --from-session`: what a VM has written is known, and an
 * image of the paused VM is, byte by byte, what the VM itself would write down.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { HUGE_PAGE_BYTES } from "../../src/base/units.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { Dirtier } from "../support/dirtier.ts";
import { PAGE_BYTES, TestFolder, writeFull } from "../support/fixtures.ts";
import { cliPath, ImageStage, writeDiff, writeMemory } from "../support/image-stage.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { assertSameMemory, differentPages, TrackedVm } from "../support/tracked-vm.ts";

const needs = requires("userfaultfd", "cc");
const needsHugePages = requires("userfaultfd", "cc", "hugepages");
/** 16 MiB: 8 huge pages, 64 chunks. */
const PAGE_COUNT = 4096;
const SEED = Number(process.env.FAULTLINE_DIRTY_SEED ?? 20_261_123);

type Option = string | number;

/** A stage whose store has the image `web-1`, and a VM restored from it. */
async function restoreImage(stage: ImageStage, ...options: readonly Option[]): Promise<TrackedVm> {
  writeMemory(stage.path("memory"), PAGE_COUNT, SEED);
  stage.json("pack", stage.path("memory"), "--name", "web-1");
  const served = ["--memory", `dir:${stage.store}/web-1`];
  return await TrackedVm.start(stage, served, stage.path("memory"), ...options);
}

describe(`images of a paused VM (seed ${SEED})`, needs, () => {
  const kinds: readonly (readonly [string, readonly Option[], typeof needs])[] = [
    ["small pages", [], needs],
    ["three regions", ["--regions", 3], needs],
    ["shared memory", ["--shared", "--regions", 2], needs],
    ["huge pages", ["--huge", "--regions", 2], needsHugePages],
  ];
  for (const [what, options, wants] of kinds) {
    test(`${what}: after random reads, writes and removes, three times`, wants, async () => {
      using stage = new ImageStage();
      await using tracked = await restoreImage(stage, ...options);
      for (let round = 0; round < 3; round++) {
        const operations = [150, 600, 2500][round]!;
        await tracked.vm.order(`random ${operations} 4 ${SEED + round}`);
        await tracked.vm.pause();
        const name = `live-${round}`;
        const report = tracked.pack(name, "--parent", "web-1");
        tracked.vm.resume();
        assertSameMemory(tracked.extract(name), await tracked.dump());
        const { dirtyBytes, processBytes } = report.session!;
        assert.ok(processBytes > 0 && processBytes <= dirtyBytes);
      }
    });
  }

  test("a VM of memory files and layers is packed whole, without a parent", async () => {
    using stage = new ImageStage();
    const memory = writeMemory(stage.path("memory"), PAGE_COUNT, SEED);
    writeDiff(stage.path("diff"), memory, SEED + 1);
    const served = ["--memory", stage.path("memory"), "--layer", stage.path("diff")];
    await using tracked = await TrackedVm.start(stage, served, stage.path("memory"));
    await tracked.vm.order(`random 500 3 ${SEED}`);
    await tracked.vm.pause();
    const report = tracked.pack("live");
    tracked.vm.resume();
    assertSameMemory(tracked.extract("live"), await tracked.dump());
    assert.ok(report.readBytes > report.session!.processBytes, "the rest comes from the files");
  });

  test("with a handler that has died: nobody could answer a fault", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage);
    await tracked.vm.order("write 0 100");
    await tracked.vm.order("remove 200 50");
    await tracked.vm.order("read 220 3");
    await tracked.vm.pause();
    const expected = readFileSync(stage.path("memory"));
    await killHandler(tracked);
    const report = tracked.pack("live", "--parent", "web-1");
    const live = tracked.extract("live");
    assert.deepEqual(differentPages(live, expected, 100), range(0, 100));
    expected.fill(0, 200 * PAGE_BYTES, 250 * PAGE_BYTES);
    live.copy(expected, 0, 0, 100 * PAGE_BYTES);
    assertSameMemory(live, expected);
    // 100 written, and 3 of those given back that were read again.
    assert.equal(report.session!.processBytes, 103 * PAGE_BYTES);
    assert.equal(report.session!.dirtyBytes, 150 * PAGE_BYTES);
  });

  test("… nor about shared memory that was taken out of its file", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage, "--shared");
    await tracked.vm.order("read 0 100");
    await tracked.vm.order("write 50 50");
    await tracked.vm.order("punch 20 60");
    await tracked.vm.pause();
    await killHandler(tracked);
    const report = tracked.pack("live", "--parent", "web-1");
    const expected = readFileSync(stage.path("memory"));
    const live = tracked.extract("live");
    expected.fill(0, 20 * PAGE_BYTES, 80 * PAGE_BYTES);
    assert.deepEqual(differentPages(live, expected, 100), range(80, 100));
    assert.equal(report.session!.processBytes, 20 * PAGE_BYTES);
  });

  test("of one after the other: each is the parent of the next restore", async () => {
    using stage = new ImageStage();
    {
      await using first = await restoreImage(stage);
      await first.vm.order("write 10 20");
      await first.vm.pause();
      first.pack("web-2", "--parent", "web-1");
    }
    const served = ["--memory", `dir:${stage.store}/web-2`];
    await using second = await TrackedVm.start(stage, served, stage.path("memory"));
    await second.vm.order("write 20 20");
    await second.vm.pause();
    second.pack("web-3", "--parent", "web-2");
    second.vm.resume();
    assertSameMemory(second.extract("web-3"), await second.dump());
  });
});

describe("what is recorded", needs, () => {
  test("writes, removes and nothing else; reads leave a page clean", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage);
    const { vm } = tracked;
    await vm.order("read 0 300");
    const untouched = await tracked.bits();
    assert.deepEqual([...untouched.written, ...untouched.removed], []);
    await vm.order("write 250 100");
    assert.deepEqual([...(await tracked.bits()).written], range(250, 350));
    await vm.order("remove 340 20");
    await vm.order("read 345 5");
    const { written, removed } = await tracked.bits();
    assert.deepEqual([...written], range(250, 350));
    assert.deepEqual([...removed], range(340, 360));
  });

  test("what the VM had before its handshake counts as written", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage, "--touched", 7);
    assert.deepEqual([...(await tracked.bits()).written], range(0, 7));
    await tracked.vm.pause();
    tracked.pack("live", "--parent", "web-1");
    tracked.vm.resume();
    assertSameMemory(tracked.extract("live"), await tracked.dump());
  });

  test("a huge page is written, and removed, as a whole", needsHugePages, async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage, "--huge");
    await tracked.vm.order("read 0 4096");
    await tracked.vm.order("write 700 1");
    await tracked.vm.order("remove 1024 512");
    const { written, removed, pageCount } = await tracked.bits();
    assert.deepEqual([[...written], [...removed], pageCount], [[1], [2], 8]);
    await tracked.vm.pause();
    const { session } = tracked.pack("live", "--parent", "web-1");
    assert.deepEqual(session, { dirtyBytes: 2 * HUGE_PAGE_BYTES, processBytes: HUGE_PAGE_BYTES });
    tracked.vm.resume();
    assertSameMemory(tracked.extract("live"), await tracked.dump());
  });

  test("the file tells whose it is, and goes with the VM", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage, "--regions", 3);
    const { pid, regions, imageBytes, served } = await tracked.bits();
    assert.equal(pid, tracked.vm.pid);
    assert.equal(imageBytes, PAGE_COUNT * PAGE_BYTES);
    assert.equal(regions.regions.length, 3);
    assert.equal(served.kind, "image");
    const { mode, size } = statSync(tracked.sessionFile);
    assert.equal(mode & 0o777, 0o600);
    // Nothing of it is a hole, which could find the disk full when it is mapped and written to.
    assert.ok(statSync(tracked.sessionFile).blocks * 512 >= size);
    await tracked.vm.kill();
    await tracked.serve.loggedFor(pid, "Detached a VM");
    assert.equal(existsSync(tracked.sessionFile), false);
  });

  test("it stays when the handler ends with the VM attached", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage);
    await tracked.vm.order("write 3 1");
    tracked.serve.kill("SIGTERM");
    tracked.serve.kill("SIGINT");
    await tracked.serve.ended(10_000);
    assert.deepEqual([...(await tracked.bits()).written], [3]);
  });

  // The control of all tests above: they would see it.
  test("a bit that is missing makes an image that differs, at that page", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage);
    await tracked.vm.order("write 50 30");
    await tracked.vm.pause();
    const bytes = readFileSync(tracked.sessionFile);
    const at = (await tracked.bits()).headerBytes + Math.floor(61 / 8);
    bytes[at] = bytes[at]! & ~(1 << (61 % 8));
    writeFileSync(tracked.sessionFile, bytes);
    tracked.pack("live", "--parent", "web-1");
    tracked.vm.resume();
    assert.deepEqual(differentPages(tracked.extract("live"), await tracked.dump()), [61]);
  });
});

describe("refusals", needs, () => {
  test("a VM that writes while it is packed", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage);
    await tracked.vm.order("read 0 4096");
    // Runs from before the pack begins until after it has ended.
    tracked.vm.say("random 100000000 2 1");
    await waitFor("it wrote", async () => (await tracked.bits()).written.size > 0);
    const message = stage.fails(1, ...packOf(tracked, "web-1"));
    assert.match(message, /ran while its memory was read.*Pause the VM/);
    assert.match(stage.fails(3, "inspect", "live"), /There is no image live/);
  });

  test("another parent, none, or one for a VM that was served files", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage);
    writeMemory(stage.path("other"), PAGE_COUNT, SEED + 9);
    stage.json("pack", stage.path("other"), "--name", "other");
    await tracked.vm.pause();
    assert.match(stage.fails(2, ...packOf(tracked, "other")), /the parent other is another/);
    const alone = ["pack", "--from-session", tracked.sessionFile, "--name", "live"];
    assert.match(stage.fails(2, ...alone), /from the image web-1 in .* give it as --parent/);
  });

  test("a parent for a VM of memory files, and files that have changed", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), PAGE_COUNT, SEED);
    stage.json("pack", stage.path("memory"), "--name", "web-1");
    const served = ["--memory", stage.path("memory")];
    await using tracked = await TrackedVm.start(stage, served, stage.path("memory"));
    await tracked.vm.pause();
    assert.match(stage.fails(2, ...packOf(tracked, "web-1")), /not from an image.*Leave --parent/);
    appendFileSync(stage.path("memory"), Buffer.alloc(PAGE_BYTES));
    const alone = ["pack", "--from-session", tracked.sessionFile, "--name", "live"];
    assert.match(stage.fails(3, ...alone), /no longer the file that the VM was restored from/);
  });

  test("a VM that is gone, and a process that is another", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage);
    const copy = stage.path("copy.session");
    const bytes = readFileSync(tracked.sessionFile);
    const pack = ["pack", "--from-session", copy, "--name", "live", "--parent", "web-1"];
    // The start time of another process.
    bytes.writeBigUInt64LE(bytes.readBigUInt64LE(24) + 1n, 24);
    writeFileSync(copy, bytes);
    assert.match(stage.fails(3, ...pack), /the process that is now \d+ is another/);
    bytes.writeBigUInt64LE(bytes.readBigUInt64LE(24) - 1n, 24);
    writeFileSync(copy, bytes);
    await tracked.vm.kill();
    assert.match(stage.fails(3, ...pack), /process \d+ has ended/);
  });

  test("a handler that died while it recorded: the file says so", async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage);
    await tracked.vm.pause();
    const copy = stage.path("copy.session");
    const bytes = readFileSync(tracked.sessionFile);
    bytes.writeUInt32LE(bytes.readUInt32LE(64) + 1, 64);
    writeFileSync(copy, bytes);
    const pack = ["pack", "--from-session", copy, "--name", "live", "--parent", "web-1"];
    assert.match(stage.fails(3, ...pack), /does not come to rest/);
  });

  test("what is no session file, and no file", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 64, SEED);
    stage.json("pack", stage.path("memory"), "--name", "web-1");
    const pack = (path: string) =>
      stage.fails(3, "pack", "--from-session", path, "--name", "x", "--parent", "web-1");
    assert.match(pack(stage.path("memory")), /is no session file/);
    assert.match(pack(stage.path("nothing")), /cannot be opened/);
    assert.match(pack(stage.folder), /cannot be read/);
    const two = ["pack", stage.path("memory"), "--from-session", "x", "--name", "x"];
    assert.match(stage.fails(2, ...two), /either a memory file/);
  });

  test("a user who may not read the VM's memory", requires("root"), async () => {
    using stage = new ImageStage();
    await using tracked = await restoreImage(stage);
    await tracked.vm.order("write 0 1");
    await tracked.vm.pause();
    const copy = stage.path("copy.session");
    writeFileSync(copy, readFileSync(tracked.sessionFile), { mode: 0o644 });
    const open = (path: string, mode: number): void => chmodSync(path, mode);
    open(stage.folder, 0o755);
    const { status, stderr } = spawnSync(
      process.execPath,
      [cliPath, "image", "pack", "--from-session", copy, "--name", "x", "--parent", "web-1"],
      {
        encoding: "utf8",
        cwd: "/",
        env: { ...process.env, FAULTLINE_STORE: stage.store },
        uid: UNPRIVILEGED_UID,
        gid: UNPRIVILEGED_UID,
      },
    );
    assert.equal(status, ExitCode.noAccess, stderr);
    assert.match(stderr, /may not be read.*CAP_SYS_PTRACE/);
  });

  test("a VM whose pages the handler may not look at", requires("root"), async () => {
    using folder = new TestFolder();
    chmodSync(folder.path, 0o777);
    writeFull(folder.at("memory"), 64);
    const flags = ["--memory", folder.at("memory"), "--socket", folder.at("socket")];
    const start = { uid: UNPRIVILEGED_UID };
    await using serve = await ServeProcess.start([...flags, "--track-dirty", folder.path], start);
    await using vm = await Dirtier.start(folder.at("socket"), folder.at("memory"));
    const { reason } = await serve.loggedFor(vm.pid, "Refused a VM");
    assert.match(String(reason), /memory of process \d+ may not be read.*CAP_SYS_PTRACE/);
    assert.deepEqual(readdirSync(folder.path).sort(), ["memory", "socket"]);
  });

  test("a folder that is not there", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), 64, SEED);
    const flags = ["--memory", stage.path("memory"), "--socket", stage.path("socket")];
    const start = ServeProcess.start([...flags, "--track-dirty", stage.path("nowhere")]);
    await assert.rejects(start, /--track-dirty .*nowhere cannot be written to/);
  });
});

/** Not in the middle of an event: what it had read and not recorded would be lost. */
async function killHandler(tracked: TrackedVm): Promise<void> {
  await tracked.bits();
  tracked.serve.kill("SIGKILL");
  await tracked.serve.exited;
}

function packOf(tracked: TrackedVm, parent: string): string[] {
  return ["pack", "--from-session", tracked.sessionFile, "--name", "live", "--parent", parent];
}

function range(first: number, end: number): number[] {
  return Array.from({ length: end - first }, (_, index) => first + index);
}
