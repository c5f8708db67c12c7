/** What `faultline serve` does when the host runs out of something, or takes something away. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readFileSync,
  readSync,
  truncateSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { overlay, PAGE_BYTES, TestFolder, writeFull, writeSparse } from "../support/fixtures.ts";
import { HandshakePeer } from "../support/handshake-peer.ts";
import { occupyPool } from "../support/huge-pool.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess, type ServeStart } from "../support/serve-process.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 64;
const CLEAN_EXIT = { code: ExitCode.ok, signal: null };
const END_BUDGET_MS = 5000;
const OUT_OF_FDS = "Cannot accept VMs for now. Raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=).";

/** A served memory file without holes, in a folder of its own. */
class Scene {
  readonly folder = new TestFolder();
  readonly memory = this.folder.at("memory");
  readonly socket = this.folder.at("socket");

  constructor(pageCount = PAGE_COUNT) {
    writeFull(this.memory, pageCount);
  }

  async serve(flags: readonly string[] = [], start: ServeStart = {}): Promise<ServeProcess> {
    const files = ["--memory", this.memory, "--socket", this.socket];
    return await ServeProcess.start([...files, ...flags], start);
  }

  async attach(serve: ServeProcess): Promise<HandshakePeer> {
    const peer = await this.peer();
    await peer.introduce();
    await serve.loggedFor(peer.pid, "Attached a VM");
    return peer;
  }

  async peer(): Promise<HandshakePeer> {
    return await HandshakePeer.start(this.socket, { pageCount: PAGE_COUNT });
  }

  [Symbol.dispose](): void {
    this.folder[Symbol.dispose]();
  }
}

/** Descriptors are numbers below the limit, whatever holes there are. */
function limitFds(serve: ServeProcess, count: number | string): void {
  execFileSync("prlimit", ["--pid", String(serve.pid), `--nofile=${count}:`]);
}

function softFdLimit(serve: ServeProcess): string {
  return /^Max open files +(\d+)/m.exec(readFileSync(serve.proc("limits"), "utf8"))![1]!;
}

describe("descriptors", needs, () => {
  test("a VM for which there are too few waits, and is taken when another has left", async () => {
    using scene = new Scene();
    await using serve = await scene.serve(["--stats-interval", "1"]);
    // Two VMs with three each, and three left, which is one less than a handshake needs.
    limitFds(serve, serve.fdCount + 9);
    await using first = await scene.attach(serve);
    await using second = await scene.attach(serve);
    await using third = await scene.peer();
    await third.introduce();
    const line = await serve.logged(OUT_OF_FDS);
    assert.equal(line.level, "error");
    assert.match(String(line.reason), /EMFILE/);
    // Accepting is tried again several times in this second.
    await serve.logged("Statistics", serve.lines("Statistics").length + 2);
    assert.notEqual(await first.read(1), "EFAULT");
    assert.notEqual(await second.read(2), "EFAULT");
    process.kill(first.pid, "SIGKILL");
    await serve.loggedFor(third.pid, "Attached a VM");
    assert.notEqual(await third.read(3), "EFAULT");
    assert.equal(serve.lines(OUT_OF_FDS).length, 1, "told again and again");
    assert.equal(serve.refusals, 0);
  });

  test("gone in the middle of a handshake: the reason names the limit", async () => {
    using scene = new Scene();
    await using serve = await scene.serve();
    const idle = serve.fdCount;
    const soft = softFdLimit(serve);
    await using attached = await scene.attach(serve);
    await using peer = await scene.peer();
    const json = JSON.stringify([peer.mapping()]);
    const before = serve.fdCount;
    const connection = await peer.connect();
    await peer.send(connection, json.slice(0, 20));
    await serve.fdsAbove(before + 1);
    limitFds(serve, 3);
    await peer.send(connection, json.slice(20), ["guest"]);
    const line = await serve.loggedFor(peer.pid, "Refused a VM");
    assert.match(String(line.reason), /kernel dropped descriptors.*Raise RLIMIT_NOFILE/);
    assert.notEqual(await attached.read(5), "EFAULT");
    limitFds(serve, soft);
    await runVmm(scene.socket, scene.memory);
    process.kill(attached.pid, "SIGKILL");
    await serve.fdsBackTo(idle);
  });
});

describe("the disk", needs, () => {
  test("no room for the log: VMs are served all the same", async () => {
    using scene = new Scene();
    const full = openSync("/dev/full", "w");
    try {
      await using serve = await scene.serve([], { stderr: full });
      await using stranger = await scene.peer();
      await stranger.introduce("[]");
      await runVmm(scene.socket, scene.memory);
      serve.kill("SIGTERM");
      assert.deepEqual(await serve.ended(END_BUDGET_MS), CLEAN_EXIT);
    } finally {
      closeSync(full);
    }
  });

  test(
    "no room for the socket: serve does not start, and says why",
    requires("root"),
    async (t) => {
      using scene = new Scene();
      const folder = scene.folder.at("full");
      mkdirSync(folder);
      try {
        execFileSync("mount", ["-t", "tmpfs", "-o", "nr_inodes=1", "none", folder], {
          stdio: "pipe",
        });
      } catch {
        return t.skip("this root may not mount");
      }
      try {
        const flags = ["--memory", scene.memory, "--socket", `${folder}/socket`];
        const serve = await ServeProcess.run(flags);
        assert.equal(serve.exit?.code, ExitCode.badSocket);
        assert.match(serve.errors, /socket .*ENOSPC/);
        assert.doesNotMatch(serve.errors, /internal error/);
      } finally {
        execFileSync("umount", [folder]);
      }
    },
  );
});

/** What a pipe holds that does not block. */
function readAll(pipe: number): string {
  const buffer = Buffer.alloc(64 * 1024);
  let text = "";
  for (;;) {
    try {
      text += buffer.toString("utf8", 0, readSync(pipe, buffer));
    } catch {
      return text;
    }
  }
}

test(
  "a log that nobody reads holds up no VM, and says later how much of it is missing",
  needs,
  async () => {
    using scene = new Scene();
    const path = scene.folder.at("log");
    execFileSync("mkfifo", [path]);
    const log = openSync(path, "r+");
    const filler = openSync(path, constants.O_WRONLY | constants.O_NONBLOCK);
    try {
      await using _serve = await scene.serve([], { stderr: log });
      const line = Buffer.alloc(4096, 10);
      assert.throws(() => {
        for (;;) writeSync(filler, line);
      }, /EAGAIN/);
      // Two lines each: attached and detached.
      await runVmm(scene.socket, scene.memory);
      await runVmm(scene.socket, scene.memory);
      await using attached = await scene.peer();
      await attached.introduce();
      assert.notEqual(await attached.read(1), "EFAULT");
      readAll(log);
      await attached[Symbol.asyncDispose]();
      let told = "";
      await waitFor("the log said more", () => {
        told += readAll(log);
        return told.includes("Detached");
      });
      const [loss, ...rest] = told.trim().split("\n");
      const [, count] = /"level":"warn".*"count":(\d),"msg":"Lines of this log/.exec(loss!)!;
      assert.ok(Number(count) >= 3, "those of the first two VMs are lost, but perhaps the last");
      assert.equal(Number(count) + rest.length, 6, "two for each VM");
    } finally {
      closeSync(filler);
      closeSync(log);
    }
  },
);

test("no huge pages left: the log names the cure, and --once ends with 1", {
  ...requires("userfaultfd", "cc", "hugepages"),
}, async () => {
  using scene = new Scene(12 * 512);
  using _occupied = occupyPool(4);
  await using serve = await scene.serve(["--once"]);
  await using vmm = new Vmm(scene.socket, scene.memory, ["--huge", "--threads", 4]);
  assert.equal((await vmm.ended()).signal, "SIGKILL");
  assert.deepEqual(await serve.ended(END_BUDGET_MS), { code: ExitCode.failed, signal: null });
  const [line] = serve.lines("A VM could not be served on: it was killed", vmm.pid);
  assert.equal(line?.level, "error");
  assert.match(String(line?.reason), /pool of 2 MiB pages is empty\. Raise vm\.nr_hugepages/);
});

describe("a memory file truncated while it is copied", () => {
  const HUGE_PAGES = 16;
  const pageCount = HUGE_PAGES * 512;
  const modes: readonly (readonly [
    what: string,
    options: { skip?: string },
    flag: readonly string[],
  ])[] = [
    ["small pages", requires("userfaultfd", "cc"), []],
    ["huge pages put together", requires("userfaultfd", "cc", "hugepages"), ["--huge"]],
  ];
  for (const [what, options, flag] of modes) {
    test(`${what}: the VM is killed, serve is not`, options, async () => {
      let killed = 0;
      for (let round = 0; round < 3; round++) {
        using scene = new Scene(pageCount);
        const layer = scene.folder.at("layer");
        // Every fourth page, so that no huge page lies in one file.
        const runs = Array.from({ length: pageCount / 4 }, (_, index) => ({
          first: 4 * index,
          end: 4 * index + 1,
        }));
        const diff = writeSparse(layer, pageCount, runs, round);
        const expected = scene.folder.at("expected");
        const content = readFileSync(scene.memory);
        overlay(content, diff, runs);
        writeFileSync(expected, content);
        await using serve = await scene.serve(["--layer", layer]);
        await using vmm = new Vmm(scene.socket, expected, [...flag, "--threads", 4]);
        await serve.loggedFor(vmm.pid, "Attached a VM");
        truncateSync(scene.memory, round * 512 * PAGE_BYTES);
        const { code, signal } = await vmm.ended();
        // On a busy machine it may have had all of its pages before.
        assert.ok(signal === "SIGKILL" || code === 0, `${code} ${signal}: ${vmm.errors}`);
        if (signal === "SIGKILL") killed += 1;
        await serve.loggedFor(vmm.pid, "Detached a VM");
        await using late = await HandshakePeer.start(scene.socket, { pageCount });
        await late.introduce();
        const line = await serve.loggedFor(late.pid, "Refused a VM");
        assert.match(String(line.reason), /changed its size/);
        serve.kill("SIGTERM");
        assert.deepEqual(await serve.ended(END_BUDGET_MS), CLEAN_EXIT);
      }
      assert.ok(killed > 0, "no VM was in the middle of it");
    });
  }
});
