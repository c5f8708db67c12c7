/** What a userfaultfd tells: batches, their order, and events (fork: other-process.test.ts). */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  PROT_READ,
  PROT_WRITE,
} from "../../src/linux/abi-posix.ts";
import * as sys from "../../src/linux/sys.ts";
import { decodeEvent, EventBatch, type UffdEvent } from "../../src/uffd/events.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd");

function decoded(batch: EventBatch): UffdEvent[] {
  return Array.from({ length: batch.length }, (_, index) => decodeEvent(batch, index, PAGE));
}

describe("drain", () => {
  test("brings every pending fault in one read", needs, async () => {
    await using stage = new Stage();
    const touches = [0, 1, 2, 3].map((page) => stage.toucher().read(stage.page(page)));
    await stage.pendingFaults(4);
    assert.equal(stage.uffd.drain(stage.batch), 4);
    const addresses = [0, 1, 2, 3].map((index) => stage.batch.faultAddress(index));
    assert.deepEqual(
      addresses.sort((a, b) => a - b),
      [0, 1, 2, 3].map((page) => stage.page(page)),
    );
    assert.equal(stage.uffd.copy(stage.page(0), stage.source(), 4 * PAGE), "installed");
    assert.deepEqual(await Promise.all(touches.map((touch) => touch.done())), [1, 2, 3, 4]);
  });

  test("brings no more than the batch holds, and the rest next time", needs, async () => {
    await using stage = new Stage();
    const touches = [0, 1, 2].map((page) => stage.toucher().read(stage.page(page)));
    await stage.pendingFaults(3);
    const small = new EventBatch(2);
    assert.equal(stage.uffd.drain(small), 2);
    assert.equal(stage.uffd.drain(small), 1);
    assert.equal(stage.uffd.drain(small), 0);
    assert.equal(small.length, 0);
    stage.uffd.zeropage(stage.page(0), 3 * PAGE);
    await Promise.all(touches.map((touch) => touch.done()));
  });

  test("two threads on one page are two messages, and one copy wakes both", needs, async () => {
    await using stage = new Stage();
    const touches = [0, 8].map((offset) => stage.toucher().read(stage.page(0) + offset));
    await stage.pendingFaults(2);
    assert.equal(stage.uffd.drain(stage.batch), 2);
    assert.equal(stage.batch.faultAddress(0), stage.batch.faultAddress(1));
    stage.uffd.copy(stage.page(0), stage.source(), PAGE);
    assert.deepEqual(await Promise.all(touches.map((touch) => touch.done())), [1, 1]);
  });

  test("a fault that was resolved before it was read is never told", needs, async () => {
    await using stage = new Stage();
    const touch = stage.toucher().read(stage.page(0));
    await stage.pendingFaults(1);
    stage.uffd.copy(stage.page(0), stage.source(), PAGE);
    await touch.done();
    assert.equal(stage.uffd.drain(stage.batch), 0);
  });

  test("a write fault says so; a thread id comes only if asked for", needs, async () => {
    for (const features of [[], ["threadId"]] as const) {
      await using stage = new Stage({ features });
      const touch = stage.toucher().write(stage.page(1) + 12, 7);
      const event = decoded(await stage.drained())[0]!;
      assert.ok(event.type === "pagefault");
      assert.equal(event.address, stage.page(1));
      assert.deepEqual([event.kind, event.isWrite], ["missing", true]);
      assert.equal(event.threadId > 0, features.length > 0);
      stage.uffd.zeropage(stage.page(1), PAGE);
      await touch.done();
    }
  });

  test("with exactAddress the raw address is the byte's; decoded, the page's", needs, async () => {
    await using stage = new Stage({ features: ["exactAddress"] });
    const touch = stage.toucher().read(stage.page(1) + 123);
    const batch = await stage.drained();
    assert.equal(batch.faultAddress(0), stage.page(1) + 123);
    const event = decoded(batch)[0]!;
    assert.ok(event.type === "pagefault");
    assert.equal(event.address, stage.page(1));
    stage.uffd.zeropage(stage.page(1), PAGE);
    await touch.done();
  });
});

describe("remove", () => {
  function dontNeed(stage: Stage, page: number, pageCount: number) {
    return stage.toucher().start({
      what: "madvise",
      address: stage.page(page),
      lengthBytes: pageCount * PAGE,
      advice: MADV_DONTNEED,
    });
  }

  test(
    "MADV_DONTNEED blocks until the event is read; the pages are missing then",
    needs,
    async () => {
      await using stage = new Stage({ features: ["eventRemove"] });
      stage.uffd.copy(stage.page(0), stage.source(), 4 * PAGE);
      const removal = dontNeed(stage, 1, 2);
      await stage.readable();
      assert.equal(removal.isDone, false);
      const events = decoded(await stage.drained());
      assert.deepEqual(events, [{ type: "remove", start: stage.page(1), end: stage.page(3) }]);
      await removal.done();
      const touch = stage.toucher().read(stage.page(1));
      await stage.drained();
      assert.equal(stage.batch.faultAddress(0), stage.page(1));
      stage.uffd.zeropage(stage.page(1), PAGE);
      assert.equal(await touch.done(), 0);
      assert.equal(stage.presentByte(stage.page(3)), 4, "the neighbour is untouched");
    },
  );

  test("is read after a fault that was raised later", needs, async () => {
    await using stage = new Stage({ features: ["eventRemove"] });
    const removal = dontNeed(stage, 0, 1);
    await stage.readable();
    const touch = stage.toucher().read(stage.page(5));
    await stage.pendingFaults(1);
    const events = decoded(await stage.drained());
    assert.deepEqual(
      events.map((event) => event.type),
      ["pagefault", "remove"],
    );
    await removal.done();
    stage.uffd.zeropage(stage.page(5), PAGE);
    await touch.done();
  });

  test("is not told without the feature", needs, async () => {
    await using stage = new Stage();
    await dontNeed(stage, 0, 1).done();
    assert.equal(stage.uffd.drain(stage.batch), 0);
  });
});

/** Memory that the test itself unmaps or moves: MappedRegion would unmap what lies there later. */
function mapPages(pageCount: number): number {
  const [prot, flags] = [PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS];
  return sys.check(sys.mmap(null, pageCount * PAGE, prot, flags, -1, 0), "mmap");
}

describe("unmap and remap", () => {
  test("munmap blocks until the event is read; the range is unregistered then", needs, async () => {
    await using stage = new Stage({ features: ["eventUnmap"] });
    const address = mapPages(4);
    stage.uffd.register(address, 4 * PAGE, ["missing"]);
    const lengthBytes = 4 * PAGE;
    const unmapping = stage.toucher().start({ what: "munmap", address, lengthBytes });
    await stage.readable();
    assert.equal(unmapping.isDone, false);
    const events = decoded(await stage.drained());
    assert.deepEqual(events, [{ type: "unmap", start: address, end: address + lengthBytes }]);
    await unmapping.done();
    assert.equal(stage.uffd.zeropage(address, PAGE), "unregistered");
  });

  test("mremap tells from where to where, and faults name the new place", needs, async () => {
    await using stage = new Stage({ features: ["eventRemap"] });
    const address = mapPages(2);
    stage.uffd.register(address, 2 * PAGE, ["missing"]);
    // Whatever lies behind the range, 64 MiB do not fit in place.
    const newLengthBytes = 64 * 1024 * 1024;
    const mover = stage.toucher();
    const lengthBytes = 2 * PAGE;
    const moving = mover.start({ what: "mremap", address, lengthBytes, newLengthBytes });
    const event = decoded(await stage.drained())[0]!;
    assert.ok(event.type === "remap");
    const target = await moving.done();
    assert.deepEqual(event, { type: "remap", from: address, to: target, lengthBytes });
    const touch = mover.read(target);
    await stage.drained();
    assert.equal(stage.batch.faultAddress(0), target);
    stage.uffd.copy(target, stage.source(), PAGE);
    assert.equal(await touch.done(), 1);
    stage.uffd.unregister(target, newLengthBytes);
    sys.munmap(target, newLengthBytes);
  });
});
