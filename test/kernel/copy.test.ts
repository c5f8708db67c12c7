/** Every outcome of UFFDIO_COPY, UFFDIO_ZEROPAGE and UFFDIO_WAKE that can be provoked. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SysError } from "../../src/base/errors.ts";
import { MADV_DONTNEED, PROT_NONE, PROT_READ } from "../../src/linux/abi-posix.ts";
import { UFFDIO_COPY_MODE_DONTWAKE } from "../../src/linux/abi-userfaultfd.ts";
import { MappedRegion } from "../../src/linux/memory.ts";
import { requires } from "../support/requires.ts";
import { createSizedMemfd, PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd");

function isInvalid(error: unknown): boolean {
  return error instanceof SysError && error.errnoName === "EINVAL";
}

describe("copy", () => {
  test("installed: the blocked thread reads the copied byte", needs, async () => {
    await using stage = new Stage();
    const touch = stage.toucher().read(stage.page(3));
    const batch = await stage.drained();
    assert.equal(batch.faultAddress(0), stage.page(3));
    assert.equal(stage.uffd.copy(stage.page(3), stage.source(), PAGE), "installed");
    assert.equal(stage.uffd.doneBytes, PAGE);
    assert.equal(await touch.done(), 1);
  });

  test("installed: a range of pages at once, from an unaligned source", needs, async () => {
    await using stage = new Stage();
    assert.equal(stage.uffd.copy(stage.page(0), stage.source() + 1, 4 * PAGE), "installed");
    assert.equal(stage.uffd.doneBytes, 4 * PAGE);
    assert.equal(stage.presentByte(stage.page(3)), 4);
    assert.equal(stage.presentByte(stage.page(4) - 1), 5, "the last byte is from the next page");
  });

  test("installed: also into memory that may not be read", needs, async () => {
    await using stage = new Stage();
    stage.memory.protect(0, stage.memory.sizeBytes, PROT_NONE);
    assert.equal(stage.uffd.copy(stage.page(0), stage.source(), PAGE), "installed");
    stage.memory.protect(0, stage.memory.sizeBytes, PROT_READ);
    assert.equal(stage.presentByte(stage.page(0)), 1);
  });

  test("alreadyPresent: the page keeps its bytes, and nobody is woken", needs, async () => {
    await using stage = new Stage();
    const source = stage.source();
    const touch = stage.toucher().read(stage.page(0));
    await stage.drained();
    const quietly = UFFDIO_COPY_MODE_DONTWAKE;
    assert.equal(stage.uffd.copy(stage.page(0), source, PAGE, quietly), "installed");
    assert.equal(stage.uffd.copy(stage.page(0), source + PAGE, PAGE), "alreadyPresent");
    assert.equal(stage.uffd.doneBytes, 0);
    assert.equal(touch.isDone, false);
    stage.uffd.wake(stage.page(0), PAGE);
    assert.equal(await touch.done(), 1);
  });

  test("partial: doneBytes stops before the page that is present", needs, async () => {
    await using stage = new Stage();
    const source = stage.source();
    stage.uffd.copy(stage.page(2), source, PAGE);
    const first = stage.toucher().read(stage.page(1));
    await stage.drained();
    assert.equal(stage.uffd.copy(stage.page(0), source, 4 * PAGE), "partial");
    assert.equal(stage.uffd.doneBytes, 2 * PAGE);
    assert.equal(await first.done(), 2, "the waiters of the part that is done are awake");
    const rest = stage.uffd.copy(stage.page(2), source + 2 * PAGE, 2 * PAGE);
    assert.equal(rest, "alreadyPresent", "the next call tells why");
  });

  test("partial: doneBytes stops where the source ends; then badSource", needs, async () => {
    await using stage = new Stage();
    const source = stage.own(MappedRegion.anonymous(2 * PAGE));
    source.protect(PAGE, PAGE, PROT_NONE);
    assert.equal(stage.uffd.copy(stage.page(0), source.address, 2 * PAGE), "partial");
    assert.equal(stage.uffd.doneBytes, PAGE);
    assert.equal(stage.uffd.copy(stage.page(1), source.address + PAGE, PAGE), "badSource");
  });

  test("badSource: also over a page that is present, which is looked at last", needs, async () => {
    await using stage = new Stage();
    const source = stage.own(MappedRegion.anonymous(PAGE));
    source.protect(0, PAGE, PROT_NONE);
    stage.uffd.copy(stage.page(0), stage.source(), PAGE);
    assert.equal(stage.uffd.copy(stage.page(0), source.address, PAGE), "badSource");
    assert.equal(stage.presentByte(stage.page(0)), 1);
  });

  test("badSource: also for a target beyond the end of its memfd", needs, async () => {
    using memfd = createSizedMemfd("short", PAGE);
    await using stage = new Stage({ memfd, sizeBytes: 2 * PAGE });
    assert.equal(stage.uffd.copy(stage.page(1), stage.source(), PAGE), "badSource");
  });

  test("deferred while a REMOVE is unread, installed after it was drained", needs, async () => {
    await using stage = new Stage({ features: ["eventRemove"] });
    const source = stage.source();
    stage.uffd.copy(stage.page(0), source, PAGE);
    const removal = stage.toucher().start({
      what: "madvise",
      address: stage.page(0),
      lengthBytes: PAGE,
      advice: MADV_DONTNEED,
    });
    await stage.readable();
    assert.equal(stage.uffd.copy(stage.page(5), source, PAGE), "deferred");
    assert.equal(stage.uffd.doneBytes, 0);
    assert.equal(removal.isDone, false);
    stage.uffd.wake(stage.page(0), PAGE); // Never deferred.
    await stage.drained();
    await removal.done();
    assert.equal(stage.uffd.copy(stage.page(5), source, PAGE), "installed");
  });

  test("unregistered: outside of any registration, or across its end", needs, async () => {
    await using stage = new Stage();
    const stranger = stage.own(MappedRegion.anonymous(PAGE));
    assert.equal(stage.uffd.copy(stranger.address, stage.source(), PAGE), "unregistered");
    stage.memory.protect(8 * PAGE, 8 * PAGE, PROT_READ); // Splits the mapping in two.
    assert.equal(stage.uffd.copy(stage.page(7), stage.source(), 2 * PAGE), "unregistered");
    assert.equal(stage.uffd.copy(stage.page(7), stage.source(), PAGE), "installed");
  });

  test("throws EINVAL for what can only be a mistake", needs, async () => {
    await using stage = new Stage();
    const source = stage.source();
    assert.throws(() => stage.uffd.copy(stage.page(0) + 1, source, PAGE), isInvalid);
    assert.throws(() => stage.uffd.copy(stage.page(0), source, 100), isInvalid);
    assert.throws(() => stage.uffd.copy(stage.page(0), source, 0), isInvalid);
  });
});

describe("zeropage", () => {
  test("installed: the blocked thread reads zero", needs, async () => {
    await using stage = new Stage();
    const touch = stage.toucher().read(stage.page(0));
    await stage.drained();
    assert.equal(stage.uffd.zeropage(stage.page(0), PAGE), "installed");
    assert.equal(await touch.done(), 0);
  });

  test("dontWake: the thread goes on only after wake()", needs, async () => {
    await using stage = new Stage();
    const touch = stage.toucher().read(stage.page(0));
    await stage.drained();
    assert.equal(stage.uffd.zeropage(stage.page(0), PAGE, { dontWake: true }), "installed");
    assert.equal(touch.isDone, false);
    stage.uffd.wake(stage.page(0), PAGE);
    assert.equal(await touch.done(), 0);
  });

  test("partial before a present page, then alreadyPresent; copy agrees", needs, async () => {
    await using stage = new Stage();
    stage.uffd.copy(stage.page(1), stage.source(), PAGE);
    assert.equal(stage.uffd.zeropage(stage.page(0), 2 * PAGE), "partial");
    assert.equal(stage.uffd.doneBytes, PAGE);
    assert.equal(stage.uffd.zeropage(stage.page(1), PAGE), "alreadyPresent");
    assert.equal(stage.uffd.copy(stage.page(0), stage.source(), PAGE), "alreadyPresent");
  });

  test("unregistered outside of any registration", needs, async () => {
    await using stage = new Stage();
    const stranger = stage.own(MappedRegion.anonymous(PAGE));
    assert.equal(stage.uffd.zeropage(stranger.address, PAGE), "unregistered");
  });
});

describe("wake", () => {
  test("without a page: the thread faults again, and a fresh message comes", needs, async () => {
    await using stage = new Stage();
    const touch = stage.toucher().read(stage.page(0));
    await stage.drained();
    assert.equal(stage.uffd.drain(stage.batch), 0, "a message is delivered once");
    stage.uffd.wake(stage.memory.address, stage.memory.sizeBytes);
    const batch = await stage.drained();
    assert.equal(batch.faultAddress(0), stage.page(0));
    stage.uffd.zeropage(stage.page(0), PAGE);
    await touch.done();
  });

  test("of memory that is not registered is no error", needs, async () => {
    await using stage = new Stage();
    const stranger = stage.own(MappedRegion.anonymous(PAGE));
    stage.uffd.wake(stranger.address, PAGE);
  });
});
