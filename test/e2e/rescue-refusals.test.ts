/** What `faultline rescue` refuses, and that the VM is as it was afterwards. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { HandshakePeer } from "../support/handshake-peer.ts";
import { runRescue, startHandler, startRescue } from "../support/orphans.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 64;
const BYTES = PAGE_COUNT * 4096;

const folder = new TestFolder();
const memory = folder.at("memory");
const socket = folder.at("socket");

before(() => {
  chmodSync(folder.path, 0o755);
  writeFull(memory, PAGE_COUNT);
});

after(() => folder[Symbol.dispose]());

/** A VM with 32 of its pages, and without a handler. */
async function orphan(): Promise<HandshakePeer> {
  await using handler = await startHandler("reference", socket, memory);
  const peer = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
  await peer.introduce();
  for (let page = 0; page < 32; page++) await peer.read(page);
  handler.kill();
  await handler.ended(5000);
  return peer;
}

describe("refused, with the reason and the cure", needs, () => {
  let peer: HandshakePeer;

  before(async () => {
    peer = await orphan();
  });

  /** After all refusals it is as it was. */
  after(async () => {
    await using rescue = await startRescue(peer.pid, memory, "--no-balloon");
    const page = await peer.read(50);
    assert.notEqual(page, "EFAULT");
    assert.deepEqual(page, readFileSync(memory).subarray(50 * 4096, 51 * 4096));
    assert.equal(rescue.exit, null);
    await peer[Symbol.asyncDispose]();
  });

  async function refused(flags: readonly string[], reason: RegExp, file = memory): Promise<void> {
    const { exit, errors } = await runRescue(peer.pid, file, flags);
    assert.match(errors, reason);
    assert.equal(exit?.code, ExitCode.failed);
  }

  test("a VMM that can give memory back, without --no-balloon", async () => {
    await refused([], /EVENT_REMOVE.*say so: --no-balloon/);
  });

  test("a memory file of another size", async () => {
    const larger = folder.at("larger");
    writeFull(larger, 2 * PAGE_COUNT);
    const found = new RegExp(`Registered is: 0x${peer.base.toString(16)}:0x${BYTES.toString(16)}`);
    await refused(["--no-balloon"], found, larger);
  });

  test("a memory file of the same size, but another VM's", async () => {
    const other = folder.at("other");
    writeFull(other, PAGE_COUNT, 2);
    await refused(["--no-balloon"], /Not one of 32 pages.*is as in the memory file/, other);
  });

  test("a region that is not registered", async () => {
    const region = `--region=0x1000:${BYTES}:0`;
    await refused(["--no-balloon", region], /0x1000:0x40000 is not registered/);
  });

  test("regions that leave some of the memory without a handler", async () => {
    const region = `--region=${peer.base}:${BYTES / 2}:0`;
    await refused(["--no-balloon", region], /have 131072 bytes and end at offset 0x20000/);
  });

  test("a descriptor that is none, or another thing", async () => {
    await refused(
      ["--no-balloon", "--fd", "9999"],
      /has no descriptor 9999. Its userfaultfds: \d+/,
    );
    await refused(["--no-balloon", "--fd", "0"], /Descriptor 0 of process \d+ is .*userfaultfds: /);
  });

  test("a region that cannot be read as one", async () => {
    const { exit, errors } = await runRescue(peer.pid, memory, ["--region", "0x1000:4096"]);
    assert.match(errors, /--region 0x1000:4096 cannot be used: give BASE:SIZE:OFFSET/);
    assert.equal(exit?.code, ExitCode.usage);
  });

  test("a user without the rights of a debugger", requires("unprivileged-user"), async () => {
    const identity = { uid: UNPRIVILEGED_UID };
    const { exit, errors } = await runRescue(peer.pid, memory, ["--no-balloon"], identity);
    assert.match(errors, /descriptors of process \d+ may not be taken.*CAP_SYS_PTRACE/);
    assert.equal(exit?.code, ExitCode.noAccess);
  });
});

test("a stated region is taken, where it is right", needs, async () => {
  await using peer = await orphan();
  const region = `--region=0x${peer.base.toString(16)}:${BYTES}:0x0`;
  await using _rescue = await startRescue(peer.pid, memory, "--no-balloon", region);
  assert.deepEqual(await peer.read(60), readFileSync(memory).subarray(60 * 4096, 61 * 4096));
});

test("a process without a userfaultfd, and one that is not there", needs, async () => {
  const child = spawn("sleep", ["60"]);
  try {
    const none = await runRescue(child.pid!, memory);
    assert.match(none.errors, /holds no userfaultfd/);
    assert.equal(none.exit?.code, ExitCode.failed);
  } finally {
    child.kill("SIGKILL");
    await once(child, "exit");
  }
  const gone = await runRescue(child.pid!, memory);
  assert.match(gone.errors, /There is no process \d+, or it has ended/);
});

test("a VM with a living handler, unless it never reads: --force", needs, async () => {
  await using handler = await startHandler("reference", socket, memory);
  await using peer = await HandshakePeer.start(socket, { pageCount: PAGE_COUNT });
  await peer.introduce();
  await peer.read(3);
  await handler.freeze();
  const { exit, errors } = await runRescue(peer.pid, memory, ["--no-balloon"]);
  const holder = new RegExp(`process ${handler.pid} holds it too .*end it first.*--force`);
  assert.match(errors, holder);
  assert.equal(exit?.code, ExitCode.failed);
  await using _rescue = await startRescue(peer.pid, memory, "--no-balloon", "--force");
  assert.deepEqual(await peer.read(9), readFileSync(memory).subarray(9 * 4096, 10 * 4096));
});
