/** Write protection: the way to learn which pages are written. See UFFDIO_WRITEPROTECT. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SysError } from "../../src/base/errors.ts";
import { HUGE_PAGE_BYTES } from "../../src/base/units.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { MADV_DONTNEED } from "../../src/linux/abi-posix.ts";
import { UFFDIO_COPY_MODE_WP } from "../../src/linux/abi-userfaultfd.ts";
import { PagePresence, readProcess } from "../../src/linux/process-memory.ts";
import { decodeEvent, EventBatch } from "../../src/uffd/events.ts";
import { MemoryPeer } from "../support/memory-peer.ts";
import { requires } from "../support/requires.ts";
import { createSizedMemfd, PAGE, Stage, type StageOptions } from "../support/stage.ts";

const needs = requires("userfaultfd");
const protecting: StageOptions = {
  features: ["pagefaultFlagWp"],
  modes: ["missing", "writeProtect"],
};

describe("writeProtect", () => {
  test(
    "a write to a protected page blocks, and lifting the protection wakes it",
    needs,
    async () => {
      await using stage = new Stage(protecting);
      stage.uffd.copy(stage.page(0), stage.source(), PAGE);
      assert.equal(stage.uffd.writeProtect(stage.page(0), PAGE, true), "installed");
      assert.equal(stage.presentByte(stage.page(0)), 1, "reading is free");
      const touch = stage.toucher().write(stage.page(0), 9);
      const event = decodeEvent(await stage.drained(), 0, PAGE);
      assert.ok(event.type === "pagefault");
      assert.deepEqual([event.kind, event.isWrite], ["write-protect", true]);
      assert.equal(stage.presentByte(stage.page(0)), 1);
      assert.equal(stage.uffd.writeProtect(stage.page(0), PAGE, false), "installed");
      await touch.done();
      assert.equal(stage.presentByte(stage.page(0)), 9);
    },
  );

  test("copy can bring a page protected from the start", needs, async () => {
    await using stage = new Stage(protecting);
    const touch = stage.toucher().write(stage.page(0), 9);
    await stage.drained();
    stage.uffd.copy(stage.page(0), stage.source(), PAGE, UFFDIO_COPY_MODE_WP);
    const event = decodeEvent(await stage.drained(), 0, PAGE);
    assert.ok(event.type === "pagefault");
    assert.equal(event.kind, "write-protect");
    stage.uffd.writeProtect(stage.page(0), PAGE, false);
    await touch.done();
  });

  test("dontWake: the writer goes on only after wake()", needs, async () => {
    await using stage = new Stage(protecting);
    stage.uffd.copy(stage.page(0), stage.source(), PAGE, UFFDIO_COPY_MODE_WP);
    const touch = stage.toucher().write(stage.page(0), 9);
    await stage.drained();
    stage.uffd.writeProtect(stage.page(0), PAGE, false, { dontWake: true });
    assert.equal(touch.isDone, false);
    stage.uffd.wake(stage.page(0), PAGE);
    await touch.done();
  });

  test("unregistered: the range was not registered for it", needs, async () => {
    await using stage = new Stage({ features: ["pagefaultFlagWp"], modes: ["missing"] });
    assert.equal(stage.uffd.writeProtect(stage.page(0), PAGE, true), "unregistered");
  });

  test("copy with UFFDIO_COPY_MODE_WP throws where it was not registered", needs, async () => {
    await using stage = new Stage();
    const source = stage.source();
    assert.throws(
      () => stage.uffd.copy(stage.page(0), source, PAGE, UFFDIO_COPY_MODE_WP),
      (error) => error instanceof SysError && error.errnoName === "EINVAL",
    );
  });
});

/** What dirty tracking rests on: the creator of the userfaultfd asked for none of it. */
describe("protection that is added later", needs, () => {
  const batch = new EventBatch();

  async function nextKind(peer: MemoryPeer): Promise<string> {
    await waitFor("the userfaultfd had an event", () => peer.uffd.drain(batch) > 0);
    const event = decodeEvent(batch, 0, PAGE);
    assert.ok(event.type === "pagefault");
    return event.kind;
  }

  async function protectedPeer(stage: Stage): Promise<MemoryPeer> {
    const peer = await MemoryPeer.start();
    const offered = peer.uffd.register(peer.address, peer.sizeBytes, ["missing", "writeProtect"]);
    assert.ok(offered.has("writeProtect"));
    const source = stage.source();
    assert.equal(peer.uffd.copy(peer.address, source, PAGE, UFFDIO_COPY_MODE_WP), "installed");
    return peer;
  }

  test("works from another process: reads are free, a write waits for us", async () => {
    await using stage = new Stage();
    await using peer = await protectedPeer(stage);
    peer.say("read 0");
    assert.equal(await peer.answer(), "1");
    peer.say("write 0");
    assert.equal(await nextKind(peer), "write-protect");
    assert.equal(peer.uffd.writeProtect(peer.address, PAGE, false), "installed");
    assert.equal(await peer.answer(), "written");
  });

  test("missing pages are still missing, and say who wants to write", async () => {
    await using stage = new Stage();
    await using peer = await protectedPeer(stage);
    peer.say(`write ${3 * PAGE}`);
    assert.equal(await nextKind(peer), "missing");
    assert.ok((batch.faultFlags(0) & 1) === 1);
    const target = peer.address + 3 * PAGE;
    assert.equal(peer.uffd.copy(target, stage.source(), PAGE), "installed");
    assert.equal(await peer.answer(), "written", "installed unprotected: no second fault");
  });

  test("stays when the process forks", async () => {
    await using stage = new Stage();
    await using peer = await protectedPeer(stage);
    peer.say("fork");
    assert.equal(await peer.answer(), "forked");
    peer.say("write 0");
    assert.equal(await nextKind(peer), "write-protect");
    assert.equal(peer.uffd.writeProtect(peer.address, PAGE, false), "installed");
    assert.equal(await peer.answer(), "written");
  });

  test("deferred: it cannot be lifted while an event is unread", async () => {
    await using stage = new Stage({ ...protecting, features: ["pagefaultFlagWp", "eventRemove"] });
    stage.uffd.copy(stage.page(0), stage.source(), PAGE, UFFDIO_COPY_MODE_WP);
    const lengthBytes = PAGE;
    const madvise = { what: "madvise", address: stage.page(5), lengthBytes } as const;
    const given = stage.toucher().start({ ...madvise, advice: MADV_DONTNEED });
    await stage.readable();
    assert.equal(stage.uffd.writeProtect(stage.page(0), PAGE, false), "deferred");
    await stage.drained();
    await given.done();
    assert.equal(stage.uffd.writeProtect(stage.page(0), PAGE, false), "installed");
  });

  test("shared memory can be protected too", async () => {
    using memfd = createSizedMemfd("shared", 16 * PAGE);
    await using stage = new Stage({ modes: ["missing", "writeProtect"], memfd });
    stage.uffd.copy(stage.page(0), stage.source(), PAGE, UFFDIO_COPY_MODE_WP);
    const touch = stage.toucher().write(stage.page(0), 9);
    const event = decodeEvent(await stage.drained(), 0, PAGE);
    assert.ok(event.type === "pagefault");
    assert.equal(event.kind, "write-protect");
    stage.uffd.writeProtect(stage.page(0), PAGE, false);
    await touch.done();
  });

  test("huge pages too, as a whole", requires("userfaultfd", "hugepages"), async () => {
    const sizeBytes = HUGE_PAGE_BYTES;
    const modes = ["missing", "writeProtect"] as const;
    await using stage = new Stage({ modes, hugePages: true, sizeBytes });
    const source = stage.source(512);
    stage.uffd.copy(stage.page(0), source, sizeBytes, UFFDIO_COPY_MODE_WP);
    const touch = stage.toucher().write(stage.page(7), 9);
    const event = decodeEvent(await stage.drained(), 0, HUGE_PAGE_BYTES);
    assert.ok(event.type === "pagefault");
    assert.deepEqual([event.kind, event.address], ["write-protect", stage.page(0)]);
    assert.equal(stage.uffd.writeProtect(stage.page(0), sizeBytes, false), "installed");
    await touch.done();
  });
});

describe("the memory of a process, from outside", needs, () => {
  test("pages that are there are told and read; others raise no fault", async () => {
    await using stage = new Stage();
    await using peer = await MemoryPeer.start();
    const { pid } = peer.process;
    peer.uffd.copy(peer.address + PAGE, stage.source(), 2 * PAGE);
    using presence = PagePresence.open(pid!);
    const present: number[] = [];
    presence.forEachPage(peer.address, peer.sizeBytes, (at, isPresent) => {
      if (isPresent) present.push(at);
    });
    assert.deepEqual(present, [peer.address + PAGE, peer.address + 2 * PAGE]);
    assert.equal(presence.isReadable(peer.address + PAGE), true);
    assert.equal(presence.isReadable(peer.address), false);
    assert.equal(peer.uffd.drain(new EventBatch()), 0, "nobody waits for the missing page");
    const bytes = new Uint8Array(2 * PAGE);
    readProcess(pid!, bytes, peer.address + PAGE);
    assert.deepEqual([bytes[0], bytes[PAGE]], [1, 2]);
  });

  test("a process that has ended is told as such", async () => {
    await using peer = await MemoryPeer.start();
    const pid = peer.process.pid!;
    using presence = PagePresence.open(pid);
    peer.process.kill("SIGKILL");
    await peer.exited();
    const gone = /no memory any more/;
    const look = (): void => presence.forEachPage(peer.address, PAGE, () => undefined);
    assert.throws(look, gone);
    assert.throws(() => readProcess(pid, new Uint8Array(8), peer.address), gone);
    assert.throws(() => PagePresence.open(pid), gone);
  });
});
