/** Snapshot files that change while `faultline serve` serves them, and what becomes of the VMs. */
import assert from "node:assert/strict";
import { appendFileSync, chmodSync, closeSync, openSync, truncateSync, writeSync } from "node:fs";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { PAGE_BYTES, TestFolder, writeFull, writeSparse } from "../support/fixtures.ts";
import { HandshakePeer, type PeerOptions } from "../support/handshake-peer.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";
import { ServeProcess, type ServeStart } from "../support/serve-process.ts";

const needs = requires("userfaultfd");
const needsHugePages = requires("userfaultfd", "hugepages");
const PAGE_COUNT = 2048;
const HALF = PAGE_COUNT / 2;
const HUGE_PAGE_BYTES = 512 * PAGE_BYTES;
const KILLED = "A VM could not be served on: it was killed";

/** A served memory file without holes, in a folder of its own. */
class Scene {
  readonly folder = new TestFolder();
  readonly memory = this.folder.at("memory");
  readonly socket = this.folder.at("socket");
  readonly content = writeFull(this.memory, PAGE_COUNT);

  async serve(flags: readonly string[] = [], start: ServeStart = {}): Promise<ServeProcess> {
    const files = ["--memory", this.memory, "--socket", this.socket];
    return await ServeProcess.start([...files, ...flags], start);
  }

  /** A VM that is attached. */
  async attach(serve: ServeProcess, options?: PeerOptions): Promise<HandshakePeer> {
    const peer = await HandshakePeer.start(this.socket, options ?? { pageCount: PAGE_COUNT });
    await peer.introduce();
    await serve.loggedFor(peer.pid, "Attached a VM");
    return peer;
  }

  async assertReads(peer: HandshakePeer, page: number): Promise<void> {
    const expected = this.content.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES);
    const bytes = await peer.read(page);
    assert.ok(typeof bytes === "object" && bytes.equals(expected), `page ${page} is wrong`);
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
  }
}

describe("a snapshot file that was written to", needs, () => {
  const cases: readonly {
    readonly what: string;
    readonly change: (path: string) => void;
    readonly reason: RegExp;
  }[] = [
    {
      what: "grew",
      change: (path) => appendFileSync(path, Buffer.alloc(PAGE_BYTES)),
      reason: /memory changed its size from 8388608 to 8392704 bytes/,
    },
    {
      what: "shrank",
      change: (path) => truncateSync(path, HALF * PAGE_BYTES),
      reason: /memory changed its size from 8388608 to 4194304 bytes/,
    },
    {
      what: "got other bytes",
      change: (path) => {
        const fd = openSync(path, "r+");
        writeSync(fd, "x", 0);
        closeSync(fd);
      },
      reason: /memory was written to at \d{4}-\d\d-\d\dT/,
    },
  ];
  for (const { what, change, reason } of cases) {
    test(`${what}: no VM is attached to it any more, those that are go on`, async () => {
      using scene = new Scene();
      await using serve = await scene.serve();
      await using early = await scene.attach(serve);
      await scene.assertReads(early, 1);
      change(scene.memory);
      await using late = await HandshakePeer.start(scene.socket, { pageCount: PAGE_COUNT });
      await late.introduce();
      const line = await serve.loggedFor(late.pid, "Refused a VM");
      assert.match(String(line.reason), reason);
      assert.ok(line.reason?.includes(scene.memory), "the file is named");
      assert.match(String(line.reason), /write new snapshots to new files/);
      await scene.assertReads(early, 2);
    });
  }

  test("a layer counts as well", async () => {
    using scene = new Scene();
    const layer = scene.folder.at("layer");
    writeSparse(layer, PAGE_COUNT, [], 1);
    await using serve = await scene.serve(["--layer", layer]);
    appendFileSync(layer, Buffer.alloc(PAGE_BYTES));
    await using peer = await HandshakePeer.start(scene.socket, { pageCount: PAGE_COUNT });
    await peer.introduce();
    const line = await serve.loggedFor(peer.pid, "Refused a VM");
    assert.ok(line.reason?.includes(layer), line.reason);
  });
});

describe("a memory file that was truncated under running VMs", needs, () => {
  test("--on-error kill kills the VM that needs what is lost, and no other", async () => {
    using scene = new Scene();
    await using serve = await scene.serve();
    const fds = serve.fdCount;
    await using victim = await scene.attach(serve);
    await using bystander = await scene.attach(serve);
    await scene.assertReads(victim, PAGE_COUNT - 1);
    truncateSync(scene.memory, HALF * PAGE_BYTES);
    await scene.assertReads(victim, HALF - 1);
    victim.startTouching(HALF);
    assert.deepEqual(await victim.exited, { code: null, signal: "SIGKILL" });
    const line = await serve.loggedFor(victim.pid, KILLED);
    assert.equal(line.level, "error");
    const offset = (HALF * PAGE_BYTES).toString(16);
    assert.match(String(line.reason), new RegExp(`image offset 0x${offset} cannot be read`));
    assert.match(String(line.reason), /truncated while it was served, or has its disk failed\?/);
    await serve.loggedFor(victim.pid, "Detached a VM");
    for (const page of [0, 17, HALF - 1]) await scene.assertReads(bystander, page);
    process.kill(bystander.pid, "SIGKILL");
    await serve.loggedFor(bystander.pid, "Detached a VM");
    await serve.fdsBackTo(fds);
  });

  test("--on-error poison: SIGBUS for what is lost, everything else is right", async () => {
    using scene = new Scene();
    await using serve = await scene.serve(["--on-error", "poison"]);
    await using peer = await scene.attach(serve);
    await scene.assertReads(peer, HALF + 2);
    truncateSync(scene.memory, HALF * PAGE_BYTES);
    // Kernel-mode reads say EFAULT where a load would raise SIGBUS. Each page twice: poison stays.
    for (let round = 0; round < 2; round++) {
      assert.equal(await peer.read(HALF), "EFAULT");
      await scene.assertReads(peer, HALF - 1);
      assert.equal(await peer.read(HALF + 1), "EFAULT");
      await scene.assertReads(peer, HALF + 2);
    }
    await peer.remove(HALF, 1);
    const zeroes = await peer.read(HALF);
    assert.ok(typeof zeroes === "object" && zeroes.every((byte) => byte === 0));
    peer.startTouching(HALF + 1);
    assert.deepEqual(await peer.exited, { code: null, signal: "SIGBUS" });
    const line = await serve.loggedFor(peer.pid, "Detached a VM");
    assert.equal(line.poisonedPages, 2);
    assert.deepEqual(serve.lines(KILLED), []);
  });

  test("--once ends with exit code 1 if its VM had to be killed", async () => {
    using scene = new Scene();
    await using serve = await scene.serve(["--once"]);
    await using peer = await scene.attach(serve);
    truncateSync(scene.memory, HALF * PAGE_BYTES);
    peer.startTouching(HALF);
    assert.equal((await peer.exited).signal, "SIGKILL");
    assert.deepEqual(await serve.ended(5000), { code: ExitCode.failed, signal: null });
  });

  test(
    "a VM that this user may not kill stays frozen rather than reading zeroes",
    requires("unprivileged-user"),
    async () => {
      using scene = new Scene();
      chmodSync(scene.folder.path, 0o777);
      await using serve = await scene.serve([], { uid: UNPRIVILEGED_UID });
      await using peer = await scene.attach(serve);
      await scene.assertReads(peer, 3);
      truncateSync(scene.memory, HALF * PAGE_BYTES);
      peer.startTouching(HALF);
      const msg = "A VM could not be served on: it cannot be killed and stays frozen";
      await serve.loggedFor(peer.pid, msg);
      await peer.waitUntilBlocked();
      process.kill(peer.pid, "SIGKILL");
      await serve.loggedFor(peer.pid, "Detached a VM");
    },
  );
});

describe("huge pages of a file that was truncated", needsHugePages, () => {
  const huge: PeerOptions = {
    pageCount: (PAGE_COUNT * PAGE_BYTES) / HUGE_PAGE_BYTES,
    pageSizeBytes: HUGE_PAGE_BYTES,
  };
  const diffs: readonly (readonly [
    what: string,
    run: readonly { first: number; end: number }[],
  ])[] = [
    ["copied from one file", []],
    ["put together from two", [{ first: 1025, end: 1026 }]],
  ];
  for (const [what, runs] of diffs) {
    test(`${what}: poison stays poison, for the whole page and no other`, async () => {
      using scene = new Scene();
      const layer = scene.folder.at("layer");
      const diff = writeSparse(layer, PAGE_COUNT, runs, 77);
      for (const { first, end } of runs) {
        diff.copy(scene.content, first * PAGE_BYTES, first * PAGE_BYTES, end * PAGE_BYTES);
      }
      await using serve = await scene.serve(["--on-error", "poison", "--layer", layer]);
      await using peer = await scene.attach(serve, huge);
      // One and a half of four huge pages are lost: from the middle of the third on.
      truncateSync(scene.memory, 1280 * PAGE_BYTES);
      for (let round = 0; round < 3; round++) {
        for (const page of [0, 511, 512, 1023]) await scene.assertReads(peer, page);
        for (const page of [1024, 1025, 1279, 1280, 1535, 1536, 2047]) {
          assert.equal(await peer.read(page), "EFAULT", `page ${page}`);
        }
      }
      process.kill(peer.pid, "SIGKILL");
      const line = await serve.loggedFor(peer.pid, "Detached a VM");
      assert.equal(line.poisonedPages, 2);
      assert.equal(line.installedPages, 2);
    });

    test(`${what}: --on-error kill kills the VM`, async () => {
      using scene = new Scene();
      const layer = scene.folder.at("layer");
      writeSparse(layer, PAGE_COUNT, runs, 77);
      await using serve = await scene.serve(["--layer", layer]);
      await using peer = await scene.attach(serve, huge);
      await scene.assertReads(peer, 0);
      truncateSync(scene.memory, 1280 * PAGE_BYTES);
      peer.startTouching(1024);
      assert.equal((await peer.exited).signal, "SIGKILL");
      const line = await serve.loggedFor(peer.pid, KILLED);
      assert.match(String(line.reason), /image offset 0x400000 cannot be read/);
    });
  }
});
