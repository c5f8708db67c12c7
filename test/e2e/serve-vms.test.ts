/** Several VMs on one `faultline serve`: together, one after the other, and dying. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { getPriority } from "node:os";
import { after, before, describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { sliceOf } from "../../src/linux/scheduling.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { HandshakePeer } from "../support/handshake-peer.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 2048;

describe("several VMs on one socket", needs, () => {
  const folder = new TestFolder();
  const memory = folder.at("memory");
  const socket = folder.at("socket");
  const flags = ["--memory", memory, "--socket", socket];

  before(() => {
    writeFull(memory, PAGE_COUNT);
  });

  after(() => folder[Symbol.dispose]());

  for (const workers of [1, 3]) {
    test(`twelve at once on ${workers} fault threads, each with its own memory`, async () => {
      await using serve = await ServeProcess.start([...flags, "--workers", String(workers)]);
      const fds = serve.fdCount;
      const options = (index: number) => ["--regions", 1 + (index % 4), "--threads", 2];
      const all = Array.from({ length: 12 }, (_, index) =>
        runVmm(socket, memory, ...options(index), ...(index % 3 === 0 ? ["--balloon"] : [])),
      );
      await Promise.all(all);
      await serve.logged("Detached a VM", 12);
      await serve.fdsBackTo(fds);
      assert.deepEqual(serve.lines("Refused a VM"), []);
    });
  }

  test("one killed in the middle is detached, and the others go on", async () => {
    await using serve = await ServeProcess.start(flags);
    const fds = serve.fdCount;
    await using bystander = new Vmm(socket, memory, ["--linger", 60_000]);
    for (let round = 0; round < 4; round++) {
      await using victim = new Vmm(socket, memory, ["--die-mid"]);
      assert.equal((await victim.ended()).signal, "SIGKILL");
      const line = await serve.loggedFor(victim.pid, "Detached a VM");
      assert.equal(line.reason, "exited");
    }
    assert.equal((await bystander.result()).mismatches, 0);
    // Its uffd, its pidfd, and its connection.
    await serve.fdsBackTo(fds + 3);
    await runVmm(socket, memory, "--threads", 2);
    bystander.kill();
    await serve.loggedFor(bystander.pid, "Detached a VM");
    await serve.fdsBackTo(fds);
    assert.equal(serve.exit, null);
  });

  test("a VM killed while its thread waits for a page is detached", async () => {
    await using serve = await ServeProcess.start(flags);
    const fds = serve.fdCount;
    await using peer = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
    await peer.introduce();
    await serve.loggedFor(peer.pid, "Attached a VM");
    await serve.pause();
    peer.startTouching(0);
    await peer.waitUntilBlocked();
    process.kill(peer.pid, "SIGKILL");
    await peer.exited;
    serve.resume();
    const line = await serve.loggedFor(peer.pid, "Detached a VM");
    assert.equal(line.reason, "exited");
    await serve.fdsBackTo(fds);
    await runVmm(socket, memory);
  });

  test("a VM that died before anybody looked at its handshake leaves nothing behind", async () => {
    await using serve = await ServeProcess.start(flags);
    const fds = serve.fdCount;
    await using peer = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
    await serve.pause();
    await peer.introduce();
    process.kill(peer.pid, "SIGKILL");
    await peer.exited;
    serve.resume();
    // Whether it is refused or detached at once depends on the kernel: it is dead and reaped.
    const isOver = () => serve.lines("Refused a VM").length + serve.lines("Detached a VM").length;
    await serve.until("the end of the VM", () => isOver() === 1);
    await serve.fdsBackTo(fds);
    await runVmm(socket, memory);
  });

  test("a VMM that closes its connection is served on: only its death ends it", async () => {
    await using serve = await ServeProcess.start(flags);
    await using peer = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
    await peer.close(await peer.introduce());
    await serve.loggedFor(peer.pid, "Attached a VM");
    for (const page of [0, 7, PAGE_COUNT - 1]) assert.notEqual(await peer.read(page), "EFAULT");
    assert.deepEqual(serve.lines("Detached a VM"), []);
  });

  test("an idle VM costs no CPU", async () => {
    await using serve = await ServeProcess.start(flags);
    await using vmm = new Vmm(socket, memory, ["--linger", 60_000]);
    await vmm.result();
    // What was spun for must be over by then; one tick is 10 ms of CPU time.
    await waitFor("serve rested for 200 ms", async () => {
      const before = serve.cpuTicks;
      await new Promise((resolve) => setTimeout(resolve, 200));
      return serve.cpuTicks - before <= 1;
    });
  });
});

test("fault workers get a CPU sooner than the thread that shakes hands", needs, async () => {
  using folder = new TestFolder();
  writeFull(folder.at("memory"), PAGE_COUNT);
  const files = ["--memory", folder.at("memory"), "--socket", folder.at("socket")];
  await using serve = await ServeProcess.start([...files, "--workers", "3"]);
  const niceOf = (thread: string): number => {
    const stat = readFileSync(serve.proc(`task/${thread}/stat`), "utf8");
    return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[16]);
  };
  const own = getPriority();
  assert.equal(niceOf(String(serve.pid)), Math.min(19, own + 10));
  const threads = readdirSync(serve.proc("task"));
  const preferred = threads.filter((thread) => niceOf(thread) === own);
  const slices = preferred.map((thread) => sliceOf(Number(thread)));
  assert.ok(preferred.length >= 3, slices.join(" "));
  // Linux before 6.12 has no slices to ask for.
  const isTold = sliceOf(process.pid) > 0;
  if (isTold) assert.equal(slices.filter((slice) => slice === 100_000).length, 3);
});

describe("out of descriptors", needs, () => {
  test("VMs that run go on, new ones wait until there are some again", async () => {
    using folder = new TestFolder();
    const memory = folder.at("memory");
    const socket = folder.at("socket");
    writeFull(memory, PAGE_COUNT);
    await using serve = await ServeProcess.start(["--memory", memory, "--socket", socket]);
    await using early = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
    await early.introduce();
    await serve.loggedFor(early.pid, "Attached a VM");
    const limit = (count: number | string) =>
      execFileSync("prlimit", ["--pid", String(serve.pid), `--nofile=${count}:`]);
    const [, soft] = /^Max open files +(\d+)/m.exec(readFileSync(serve.proc("limits"), "utf8"))!;
    // Descriptors are numbers below the limit, whatever holes there are.
    limit(3);
    const run = runVmm(socket, memory);
    const line = await serve.logged(
      "Cannot accept VMs for now. Raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=).",
    );
    assert.match(String(line.reason), /EMFILE/);
    assert.notEqual(await early.read(1), "EFAULT");
    limit(soft!);
    await run;
  });
});

describe("--once and --max-vms", needs, () => {
  const folder = new TestFolder();
  const memory = folder.at("memory");
  const socket = folder.at("socket");
  const flags = ["--memory", memory, "--socket", socket];

  before(() => {
    writeFull(memory, PAGE_COUNT);
  });

  after(() => folder[Symbol.dispose]());

  test("--once ends with exit code 0 after its VM", async () => {
    await using serve = await ServeProcess.start([...flags, "--once"]);
    await runVmm(socket, memory);
    assert.deepEqual(await serve.ended(5000), { code: ExitCode.ok, signal: null });
    assert.equal(serve.lines("Detached a VM").length, 1);
  });

  test("--once is not used up by a handshake that is refused", async () => {
    await using serve = await ServeProcess.start([...flags, "--once"]);
    await using peer = await HandshakePeer.start(socket, { pageCount: 1 });
    await peer.introduce();
    await serve.loggedFor(peer.pid, "Refused a VM");
    await runVmm(socket, memory);
    assert.equal((await serve.ended(5000)).code, ExitCode.ok);
  });

  for (const limit of ["--once", "--max-vms"]) {
    test(`of three VMs that come at the same moment ${limit} takes one`, async () => {
      const option = limit === "--once" ? [limit] : [limit, "1"];
      await using serve = await ServeProcess.start([...flags, ...option]);
      const start = () => HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
      await using first = await start();
      await using second = await start();
      await using third = await start();
      await serve.pause();
      for (const peer of [first, second, third]) await peer.introduce();
      serve.resume();
      const refused = await serve.logged("Refused a VM", 2);
      assert.equal(serve.lines("Attached a VM").length, 1);
      assert.match(String(refused.reason), limit === "--once" ? /--once/ : /--max-vms/);
    });
  }

  test("--max-vms 1 refuses the second with the reason, and takes another later", async () => {
    await using serve = await ServeProcess.start([...flags, "--max-vms", "1"]);
    await using first = new Vmm(socket, memory, ["--linger", 60_000]);
    await first.result();
    await using second = new Vmm(socket, memory);
    const line = await serve.loggedFor(second.pid, "Refused a VM");
    assert.equal(line.level, "warn");
    assert.match(String(line.reason), /1 VMs are attached, and 1 may be\. Raise --max-vms\./);
    first.kill();
    await serve.loggedFor(first.pid, "Detached a VM");
    await runVmm(socket, memory);
  });
});

test("--stats-interval logs what happened since the last line", needs, async () => {
  using folder = new TestFolder();
  const memory = folder.at("memory");
  const socket = folder.at("socket");
  writeFull(memory, PAGE_COUNT);
  const flags = ["--memory", memory, "--socket", socket, "--stats-interval", "1"];
  await using serve = await ServeProcess.start(flags);
  await using vmm = new Vmm(socket, memory, ["--linger", 60_000]);
  await vmm.result();
  await serve.logged("Statistics", 3);
  const lines = serve.lines("Statistics");
  const sum = lines.reduce((total, line) => total + Number(line.installedPages), 0);
  assert.equal(sum, PAGE_COUNT);
  const last = lines.at(-1)!;
  assert.equal(last.vms, 1);
  assert.equal(last.faultsPerSecond, 0);
  assert.match(String(last.p50), /^\d+(\.\d+)? (µs|ms|s)$/);
});
