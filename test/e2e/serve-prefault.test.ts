/** What one restore teaches the next; VMs that need nobody any more. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { PAGE_BYTES, Random, TestFolder, writeFull, writeSparse } from "../support/fixtures.ts";
import { HandshakePeer } from "../support/handshake-peer.ts";
import { ImageStage, writeMemory } from "../support/image-stage.ts";
import { requires } from "../support/requires.ts";
import { type LogLine, ServeProcess } from "../support/serve-process.ts";
import { runVmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 4096;
const ALL_THERE = "A VM has all of its memory, and needs no handler any more";
/** Far apart, so that the sample which is held back can be but a few of them. */
const usedPages = Array.from({ length: 64 }, (_, index) => index * 61 + 7);

class Scene {
  readonly folder = new TestFolder();
  readonly memory = this.folder.at("memory");
  readonly workingSet = this.folder.at("set");
  readonly socket = this.folder.at("socket");
  readonly bytes = writeFull(this.memory, PAGE_COUNT);

  async serve(...flags: readonly string[]): Promise<ServeProcess> {
    const files = ["--memory", this.memory, "--socket", this.socket];
    return await ServeProcess.start([...files, "--working-set", this.workingSet, ...flags]);
  }

  async attach(serve: ServeProcess): Promise<HandshakePeer> {
    const peer = await HandshakePeer.start(this.socket, { pageCount: PAGE_COUNT });
    await peer.introduce();
    await serve.loggedFor(peer.pid, "Attached a VM");
    return peer;
  }

  async check(peer: HandshakePeer, pages: readonly number[]): Promise<void> {
    for (const page of pages) {
      const expected = this.bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
      assert.deepEqual(await peer.read(page), expected, `page ${page}`);
    }
  }

  /** One VM reads `pages` and ends; what it needed is in the file afterwards. */
  async teach(pages: readonly number[]): Promise<void> {
    await using serve = await this.serve();
    await using peer = await this.attach(serve);
    await this.check(peer, pages);
    await this.end(serve, peer);
    serve.kill("SIGTERM");
    await serve.exited;
    assert.ok(existsSync(this.workingSet), "something was learnt");
  }

  /** Ends a VM, and returns what the log says of it. */
  async end(serve: ServeProcess, peer: HandshakePeer): Promise<LogLine> {
    process.kill(peer.pid, "SIGKILL");
    return await serve.loggedFor(peer.pid, "Detached a VM");
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
  }
}

describe("what one restore needed", needs, () => {
  test("is there before the next one asks, with the right bytes", async () => {
    using scene = new Scene();
    await scene.teach(usedPages);
    await using serve = await scene.serve();
    await using peer = await scene.attach(serve);
    const { pages } = await serve.loggedFor(peer.pid, "Prefaulted a VM");
    await scene.check(peer, usedPages);
    await scene.check(peer, [0, 1, PAGE_COUNT - 1]);
    const end = await scene.end(serve, peer);
    assert.equal(end.prefaulted, pages);
    assert.ok(Number(pages) > usedPages.length / 2, `${pages} pages ahead`);
    assert.equal(Number(pages) + Number(end.faults), usedPages.length + 3, "each once");
  });

  test("can be waited for before a VM is resumed; also where nothing is known", async () => {
    using scene = new Scene();
    for (const isKnown of [false, true]) {
      if (isKnown) await scene.teach(usedPages);
      await using serve = await scene.serve("--prefault", "before-resume", "--record-for", "0");
      await using peer = await scene.attach(serve);
      const line = new RegExp(`^prefaulted: ${peer.pid} has (\\d+) pages$`);
      await waitFor("it was told", () => serve.printed.some((printed) => line.test(printed)));
      const [, pages] = line.exec(serve.printed.at(-1)!)!;
      assert.equal(Number(pages) > usedPages.length / 2, isKnown);
      await scene.check(peer, usedPages);
    }
  });

  test("is not installed with --prefault off, and not learnt with --record-for 0", async () => {
    using scene = new Scene();
    await using ignorant = await scene.serve("--record-for", "0");
    await using first = await scene.attach(ignorant);
    await scene.check(first, usedPages);
    await scene.end(ignorant, first);
    ignorant.kill("SIGTERM");
    await ignorant.exited;
    assert.equal(existsSync(scene.workingSet), false);
    await scene.teach(usedPages);
    await using serve = await scene.serve("--prefault", "off");
    await using peer = await scene.attach(serve);
    await scene.check(peer, usedPages);
    const end = await scene.end(serve, peer);
    assert.equal(end.faults, usedPages.length);
    assert.equal(end.prefaulted, undefined);
  });

  test("is over when its time is: later demand is not learnt", async () => {
    using scene = new Scene();
    await using serve = await scene.serve("--record-for", "1");
    await using peer = await scene.attach(serve);
    await scene.check(peer, [5]);
    await waitFor("it was written", () => existsSync(scene.workingSet));
    const { mtimeMs, size } = statSync(scene.workingSet);
    await scene.check(peer, usedPages);
    await scene.end(serve, peer);
    serve.kill("SIGTERM");
    await serve.exited;
    const after = statSync(scene.workingSet);
    assert.deepEqual([after.mtimeMs, after.size], [mtimeMs, size]);
  });

  test("that another guest needs nothing of is given up, and does no harm", async () => {
    using scene = new Scene();
    const random = new Random(3);
    await scene.teach(Array.from({ length: 600 }, () => random.below(PAGE_COUNT / 2)));
    await using serve = await scene.serve();
    await runVmm(scene.socket, scene.memory, "--threads", 2);
    await using peer = await scene.attach(serve);
    await scene.check(
      peer,
      Array.from({ length: 400 }, (_, index) => PAGE_COUNT / 2 + index * 3),
    );
  });

  test("that is damaged is a warning: the VM is served, and the file written anew", async () => {
    using scene = new Scene();
    await scene.teach(usedPages);
    const bytes = readFileSync(scene.workingSet);
    bytes[bytes.length >> 1]! ^= 1;
    writeFileSync(scene.workingSet, bytes);
    await using serve = await scene.serve();
    assert.equal(serve.log.filter(({ level }) => level === "warn").length, 1);
    await using peer = await scene.attach(serve);
    await scene.check(peer, usedPages);
    const end = await scene.end(serve, peer);
    assert.equal(end.faults, usedPages.length);
    serve.kill("SIGTERM");
    await serve.exited;
    assert.notDeepEqual(readFileSync(scene.workingSet), bytes);
  });
});

describe("an image's working set", needs, () => {
  test("is kept beside it, and its chunks are fetched before a VM comes", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), PAGE_COUNT, 1);
    stage.json("pack", stage.path("memory"), "--name", "web");
    const place = ["--memory", "web", "--store", stage.store, "--socket", stage.path("socket")];
    for (const isKnown of [false, true]) {
      await using serve = await ServeProcess.start(place);
      if (isKnown) assert.ok(Number((await serve.logged("Prefetched what restores need")).parts));
      await runVmm(stage.path("socket"), stage.path("memory"), "--touch", "random:500");
      await runVmm(stage.path("socket"), stage.path("memory"), "--threads", 2, "--balloon");
      serve.kill("SIGTERM");
      await serve.exited;
      assert.ok(existsSync(join(stage.store, "web.workingset")));
    }
  });

  test("is neither read nor written with --working-set off", async () => {
    using stage = new ImageStage();
    writeMemory(stage.path("memory"), PAGE_COUNT, 1);
    stage.json("pack", stage.path("memory"), "--name", "web");
    const place = ["--memory", "web", "--store", stage.store, "--socket", stage.path("socket")];
    await using serve = await ServeProcess.start([...place, "--working-set", "off"]);
    await runVmm(stage.path("socket"), stage.path("memory"), "--touch", "random:500");
    serve.kill("SIGTERM");
    await serve.exited;
    assert.equal(existsSync(join(stage.store, "web.workingset")), false);
  });
});

describe("with --prefault all", needs, () => {
  test("a VM lives on when the handler is killed: every byte is there", async () => {
    using scene = new Scene();
    await using serve = await scene.serve("--prefault", "all");
    await using peer = await scene.attach(serve);
    await scene.check(peer, [17, 3000]);
    await serve.loggedFor(peer.pid, ALL_THERE);
    serve.kill("SIGKILL");
    await serve.exited;
    await peer.remove(100, 50);
    assert.deepEqual(await peer.read(120), Buffer.alloc(PAGE_BYTES), "given back: zero");
    const pages = Array.from({ length: PAGE_COUNT }, (_, page) => page);
    await scene.check(
      peer,
      pages.filter((page) => page < 100 || page >= 150),
    );
  });

  test("the handler lets go of it by itself, and others go on", async () => {
    using scene = new Scene();
    await using serve = await scene.serve("--prefault", "all");
    await using first = await scene.attach(serve);
    const end = await serve.loggedFor(first.pid, "Detached a VM");
    assert.equal(end.reason, "complete");
    await using second = await scene.attach(serve);
    await scene.check(first, usedPages);
    await scene.check(second, usedPages);
  });

  test("holes and diff layers too; what is given back meanwhile is zero", async () => {
    using scene = new Scene();
    rmSync(scene.memory);
    writeSparse(scene.memory, PAGE_COUNT, [{ first: 10, end: 510 }], 4);
    const layer = scene.folder.at("layer");
    writeSparse(layer, PAGE_COUNT, [{ first: 400, end: 1300 }], 5);
    await using serve = await scene.serve("--prefault", "all", "--layer", layer);
    await using peer = await scene.attach(serve);
    await peer.remove(450, 20);
    await serve.loggedFor(peer.pid, ALL_THERE);
    serve.kill("SIGKILL");
    await serve.exited;
    assert.deepEqual(await peer.read(455), Buffer.alloc(PAGE_BYTES));
    assert.deepEqual(await peer.read(5), Buffer.alloc(PAGE_BYTES));
    assert.deepEqual(await peer.read(4000), Buffer.alloc(PAGE_BYTES));
    const upper = readFileSync(layer).subarray(1200 * PAGE_BYTES, 1201 * PAGE_BYTES);
    assert.deepEqual(await peer.read(1200), upper);
    const lower = readFileSync(scene.memory).subarray(30 * PAGE_BYTES, 31 * PAGE_BYTES);
    assert.deepEqual(await peer.read(30), lower);
  });
});

test(
  "a VM whose memory is unmapped meanwhile is kept, and what it does is read",
  needs,
  async () => {
    using scene = new Scene();
    await using serve = await scene.serve("--prefault", "all");
    await serve.pause();
    await using peer = await HandshakePeer.start(scene.socket, { pageCount: PAGE_COUNT });
    await peer.introduce();
    await peer.unmap();
    serve.resume();
    const { end } = await serve.loggedFor(peer.pid, "Prefaulted a VM");
    assert.equal(end, "kept");
    process.kill(peer.pid, "SIGKILL");
    assert.equal((await serve.loggedFor(peer.pid, "Detached a VM")).reason, "exited");
  },
);

test("the kit finds nothing wrong with pages that come unasked", needs, () => {
  const main = join(builtRoot, "src/cli/main.js");
  const serve = `${process.execPath} ${main} serve --memory {memory} --socket {socket}`;
  const kit = ["conformance", "--many-vms", "--handler", `${serve} --prefault all`];
  // Those that need a thread to wait for a page do not come to that here.
  const asked = [
    ...["handshake", "hotplug", "huge-pages", "sequential-read", "random-read", "holes"],
    ...["kernel-mode-read", "kernel-mode-write", "writes-survive", "neighbours-present"],
    ...["remove-populated", "remove-missing", "remove-mixed", "remove-again", "remove-all"],
    ...["remove-scattered", "remove-across-regions", "remove-flood", "remove-race"],
    ...["remove-balloon", "vms-at-once", "vm-after-vm", "flood-next-door"],
  ];
  const { status, stdout } = spawnSync(process.execPath, [main, ...kit, ...asked], {
    encoding: "utf8",
  });
  assert.equal(status, 0, stdout);
});

test("--collapse makes huge pages of a complete VM, with the same bytes", needs, async () => {
  using scene = new Scene();
  await using serve = await scene.serve("--prefault", "all", "--collapse");
  await using peer = await scene.attach(serve);
  const { memory } = await serve.logged("Made huge pages of small ones");
  assert.match(String(memory), /MiB$/);
  const anonymous = /^AnonHugePages: +([1-9]\d*) kB/m;
  assert.match(readFileSync(`/proc/${peer.pid}/smaps_rollup`, "utf8"), anonymous);
  await scene.check(peer, usedPages);
});

test("what cannot be done is refused at the start", needs, async () => {
  using scene = new Scene();
  const files = ["--memory", scene.memory, "--socket", scene.socket];
  const refused = [
    [["--prefault", "all", "--track-dirty", scene.folder.at("dirty")], /Use --prefault concurrent/],
    [["--prefault", "before-resume"], /Name one: --working-set FILE/],
    [["--working-set", "/nowhere/set"], /create \/nowhere first/],
    [["--prefault", "sometimes"], /off or before-resume or concurrent or all/],
    [["--record-for", "-1"], /--record-for -1 cannot be used: give a whole number/],
  ] as const;
  for (const [flags, message] of refused) {
    const serve = await ServeProcess.run([...files, ...flags]);
    assert.match(serve.errors, message);
    assert.equal(serve.exit?.code, ExitCode.usage);
  }
});
