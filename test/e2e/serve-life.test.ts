/** How `faultline serve` begins and ends: readiness, socket file, signals. */
import assert from "node:assert/strict";
import { chmodSync, existsSync, lstatSync, rmSync, statSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { after, before, describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { HandshakePeer } from "../support/handshake-peer.ts";
import { NotifySocket } from "../support/notify-socket.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 1024;
/** Promised: without VMs, or without patience for them, SIGTERM ends serve within this. */
const PROMPT_MS = 2000;
/** Handshakes at the same time (docs/LIMITS.md); more wait in the backlog. */
const MAX_HANDSHAKES = 64;
const CLEAN_EXIT = { code: ExitCode.ok, signal: null };

const folder = new TestFolder();
const memory = folder.at("memory");
const socket = folder.at("socket");
const flags = ["--memory", memory, "--socket", socket];

before(() => {
  writeFull(memory, PAGE_COUNT);
  chmodSync(folder.path, 0o755);
});

after(() => folder[Symbol.dispose]());

describe("readiness", needs, () => {
  test("the ready line comes when VMs can connect, and says what is served", async () => {
    await using serve = await ServeProcess.start(flags);
    const line = await serve.ready();
    assert.equal(line, `ready: ${socket} serves 4 MiB of guest memory, 4 MiB of it data`);
    await runVmm(socket, memory);
  });

  test("--json prints it as JSON", async () => {
    await using serve = await ServeProcess.start([...flags, "--json"]);
    const sizeBytes = PAGE_COUNT * 4096;
    const ready = { event: "ready", socket, sizeBytes, dataBytes: sizeBytes };
    assert.deepEqual(JSON.parse(await serve.ready()), ready);
  });

  test("a service manager is told READY=1, and STOPPING=1 at the end", async () => {
    using manager = new NotifySocket(folder.at("notify"));
    const environment = { NOTIFY_SOCKET: folder.at("notify") };
    await using serve = await ServeProcess.start(flags, { environment });
    assert.equal(await manager.next(), "READY=1");
    await runVmm(socket, memory);
    assert.equal(manager.take(), null);
    serve.kill("SIGTERM");
    assert.equal(await manager.next(), "STOPPING=1");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
  });

  test("a service manager that is gone does not keep VMs from being served", async () => {
    const environment = { NOTIFY_SOCKET: folder.at("nobody-here") };
    await using serve = await ServeProcess.start(flags, { environment });
    await runVmm(socket, memory);
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT, serve.describeLog());
  });
});

describe("the socket file", needs, () => {
  test("is for the own user only, from the start, whatever the umask", async () => {
    const umask = process.umask(0);
    try {
      await using _serve = await ServeProcess.start(flags);
      const stats = lstatSync(socket);
      assert.ok(stats.isSocket());
      assert.equal(stats.mode & 0o777, 0o600);
    } finally {
      process.umask(umask);
    }
  });

  test("--owner gives it to another user", requires("root"), async () => {
    const owner = `${UNPRIVILEGED_UID}:4321`;
    await using serve = await ServeProcess.start([...flags, "--owner", owner]);
    const stats = statSync(socket);
    assert.deepEqual([stats.uid, stats.gid, stats.mode & 0o777], [UNPRIVILEGED_UID, 4321, 0o600]);
    // Root may still connect.
    await runVmm(socket, memory);
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
  });

  test("one that nobody listens on any more is replaced", async () => {
    const first = await ServeProcess.start(flags);
    await first[Symbol.asyncDispose]();
    assert.ok(existsSync(socket), "SIGKILL leaves the socket behind");
    await using serve = await ServeProcess.start(flags);
    await runVmm(socket, memory);
    serve.kill("SIGTERM");
    await serve.ended(PROMPT_MS);
    assert.equal(existsSync(socket), false);
  });

  test("one that another program listens on is left alone", async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(socket, resolve));
    try {
      const serve = await ServeProcess.run(flags);
      assert.equal(serve.exit?.code, ExitCode.badSocket);
      assert.match(serve.errors, /Another process serves on/);
      assert.ok(existsSync(socket));
    } finally {
      await new Promise((resolve) => other.close(resolve));
    }
  });

  test("what has taken its place meanwhile is not removed at the end", async () => {
    await using serve = await ServeProcess.start(flags);
    rmSync(socket);
    writeFileSync(socket, "somebody else's");
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
    assert.ok(existsSync(socket));
    rmSync(socket);
  });
});

describe("signals", needs, () => {
  for (const signal of ["SIGTERM", "SIGINT"] as const) {
    test(`${signal} without VMs: exit code 0 at once, and the socket is gone`, async () => {
      await using serve = await ServeProcess.start(flags);
      await runVmm(socket, memory);
      serve.kill(signal);
      assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
      assert.equal(existsSync(socket), false);
    });
  }

  test("a peer that connected and says nothing does not hold the end up", async () => {
    await using serve = await ServeProcess.start(flags);
    await using peer = await HandshakePeer.start(socket, { pageCount: 1 });
    const fds = serve.fdCount;
    await peer.connect();
    await serve.fdsAbove(fds);
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
  });

  test("--drain-timeout 0 does not wait for a VM, and says that it freezes", async () => {
    await using serve = await ServeProcess.start([...flags, "--drain-timeout", "0"]);
    await using vmm = new Vmm(socket, memory, ["--linger", 60_000]);
    await vmm.result();
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
    assert.equal(existsSync(socket), false);
    const [line] = serve.lines("Ends with VMs attached: they freeze at their next missing page");
    assert.equal(line?.pids, String(vmm.pid));
  });

  test("--drain-timeout 30 serves on until the VM ends, and takes no other", async () => {
    await using serve = await ServeProcess.start([...flags, "--drain-timeout", "30"]);
    await using peer = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
    await using late = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
    await peer.introduce();
    await serve.loggedFor(peer.pid, "Attached a VM");
    const half = JSON.stringify([late.mapping()]);
    const fds = serve.fdCount;
    const connection = await late.connect();
    await late.send(connection, half.slice(0, 40), ["guest"]);
    await serve.fdsAbove(fds);
    serve.kill("SIGTERM");
    await serve.logged("SIGTERM: waits for the attached VMs to end; a second signal ends at once");
    assert.equal(existsSync(socket), false);
    assert.notEqual(await peer.read(0), "EFAULT");
    await late.send(connection, half.slice(40));
    await serve.loggedFor(late.pid, "Refused a VM");
    assert.equal(serve.exit, null);
    process.kill(peer.pid, "SIGKILL");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
    assert.deepEqual(serve.lines("Attached a VM", late.pid), []);
  });

  test("a VM that waits in the backlog is refused with a reason", async () => {
    // As many silent peers as there may be handshakes; their deadline is not what ends this.
    const patient = [...flags, "--handshake-timeout", "600000"];
    await using serve = await ServeProcess.start(patient);
    await using silent = await HandshakePeer.start(socket, { pageCount: 1 });
    await using late = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
    const fds = serve.fdCount;
    for (let each = 0; each < MAX_HANDSHAKES; each++) await silent.connect();
    // Each has a connection and a pidfd.
    await serve.fdsAbove(fds + 2 * MAX_HANDSHAKES - 1);
    await late.introduce();
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
    const [line] = serve.lines("Refused a VM", late.pid);
    assert.match(String(line?.reason), /No more VMs are taken: this handler is about to end\./);
    assert.equal(serve.lines("Refused a VM", silent.pid).length, MAX_HANDSHAKES);
    assert.deepEqual(serve.lines("Attached a VM"), []);
  });

  test("--drain-timeout 1 gives a VM up after a second", async () => {
    await using serve = await ServeProcess.start([...flags, "--drain-timeout", "1"]);
    await using vmm = new Vmm(socket, memory, ["--linger", 60_000]);
    await vmm.result();
    const start = performance.now();
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(1000 + PROMPT_MS), CLEAN_EXIT);
    assert.ok(performance.now() - start >= 990);
  });

  test("a second SIGTERM ends at once", async () => {
    await using serve = await ServeProcess.start([...flags, "--drain-timeout", "30"]);
    await using vmm = new Vmm(socket, memory, ["--linger", 60_000]);
    await vmm.result();
    serve.kill("SIGTERM");
    await serve.logged("SIGTERM: waits for the attached VMs to end; a second signal ends at once");
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
  });
});

describe("as an unprivileged user", requires("unprivileged-user", "userfaultfd", "cc"), () => {
  test("serve starts, and serves a VM of root", async () => {
    using own = new TestFolder();
    chmodSync(own.path, 0o777);
    const ownSocket = own.at("socket");
    const start = { uid: UNPRIVILEGED_UID };
    const ownFlags = ["--memory", memory, "--socket", ownSocket];
    await using serve = await ServeProcess.start(ownFlags, start);
    assert.equal(statSync(ownSocket).uid, UNPRIVILEGED_UID);
    await runVmm(ownSocket, memory, "--balloon", "--threads", 2, "--touch", "random:500");
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(PROMPT_MS), CLEAN_EXIT);
  });

  test("a user that may connect, but is not the owner, is refused by its uid", async () => {
    await using serve = await ServeProcess.start(flags);
    chmodSync(socket, 0o666);
    await using peer = await HandshakePeer.start(socket, {
      pageCount: 1,
      uid: UNPRIVILEGED_UID,
    });
    await peer.introduce("[]", ["null"]);
    const line = await serve.logged("Refused a VM");
    assert.match(String(line.reason), /runs as uid 65534; this socket serves only uid 0\./);
    assert.match(String(line.reason), /--owner/);
    await runVmm(socket, memory);
  });
});
