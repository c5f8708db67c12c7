/** Faults on pages that a memfd holds already, and UFFDIO_CONTINUE. */
import assert from "node:assert/strict";
import { writeSync } from "node:fs";
import { describe, test } from "node:test";
import { decodeEvent } from "../../src/uffd/events.ts";
import type { RegisterMode } from "../../src/uffd/userfaultfd.ts";
import { requires } from "../support/requires.ts";
import { createSizedMemfd, PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd");
const SIZE_BYTES = 4 * PAGE;

/** A stage over a memfd. `cache` writes a byte to the file, so that its page is in the cache. */
function minorStage(modes: readonly RegisterMode[]): {
  stage: Stage;
  cache: (page: number, byte: number) => void;
} {
  const memfd = createSizedMemfd("minor", SIZE_BYTES);
  const stage = new Stage({ memfd, sizeBytes: SIZE_BYTES, modes });
  stage.own(memfd);
  return {
    stage,
    cache: (page, byte) => {
      writeSync(memfd.fd, Uint8Array.of(byte), 0, 1, page * PAGE);
    },
  };
}

describe("a memfd in minor mode", () => {
  test("a cached page raises a minor fault, and continue maps it", needs, async () => {
    const { stage, cache } = minorStage(["minor"]);
    await using _ = stage;
    cache(1, 0x42);
    const touch = stage.toucher().read(stage.page(1));
    const event = decodeEvent(await stage.drained(), 0, PAGE);
    assert.ok(event.type === "pagefault");
    assert.deepEqual([event.kind, event.isWrite], ["minor", false]);
    assert.equal(stage.uffd.continue(stage.page(1), PAGE), "installed");
    assert.equal(stage.uffd.doneBytes, PAGE);
    assert.equal(await touch.done(), 0x42);
  });

  test("a write to a cached page says so", needs, async () => {
    const { stage, cache } = minorStage(["minor"]);
    await using _ = stage;
    cache(0, 1);
    const touch = stage.toucher().write(stage.page(0), 7);
    const event = decodeEvent(await stage.drained(), 0, PAGE);
    assert.ok(event.type === "pagefault");
    assert.deepEqual([event.kind, event.isWrite], ["minor", true]);
    stage.uffd.continue(stage.page(0), PAGE);
    await touch.done();
    assert.equal(stage.presentByte(stage.page(0)), 7);
  });

  test("a hole raises nothing and reads zero", needs, async () => {
    const { stage } = minorStage(["minor"]);
    await using _ = stage;
    assert.equal(await stage.toucher().read(stage.page(0)).done(), 0);
    assert.equal(stage.uffd.drain(stage.batch), 0);
  });
});

describe("a memfd in missing mode", () => {
  test("a cached page raises nothing", needs, async () => {
    const { stage, cache } = minorStage(["missing"]);
    await using _ = stage;
    cache(0, 0x42);
    assert.equal(await stage.toucher().read(stage.page(0)).done(), 0x42);
    assert.equal(stage.uffd.drain(stage.batch), 0);
  });

  test("a hole is filled through the file, then mapped by continue", needs, async () => {
    const { stage, cache } = minorStage(["missing", "minor"]);
    await using _ = stage;
    const touch = stage.toucher().read(stage.page(0));
    const event = decodeEvent(await stage.drained(), 0, PAGE);
    assert.ok(event.type === "pagefault");
    assert.equal(event.kind, "missing");
    cache(0, 0x42);
    assert.equal(stage.uffd.copy(stage.page(0), stage.source(), PAGE), "alreadyPresent");
    assert.equal(stage.uffd.continue(stage.page(0), PAGE), "installed");
    assert.equal(await touch.done(), 0x42);
  });
});

describe("continue", () => {
  test("badSource: the file has no such page", needs, async () => {
    const { stage } = minorStage(["minor"]);
    await using _ = stage;
    assert.equal(stage.uffd.continue(stage.page(0), PAGE), "badSource");
  });

  test("alreadyPresent, and partial up to a page that is mapped", needs, async () => {
    const { stage, cache } = minorStage(["minor"]);
    await using _ = stage;
    for (const page of [0, 1, 2]) cache(page, page);
    assert.equal(stage.uffd.continue(stage.page(1), PAGE), "installed");
    assert.equal(stage.uffd.continue(stage.page(1), PAGE), "alreadyPresent");
    assert.equal(stage.uffd.continue(stage.page(0), 3 * PAGE), "partial");
    assert.equal(stage.uffd.doneBytes, PAGE);
  });

  test("dontWake: the thread goes on only after wake()", needs, async () => {
    const { stage, cache } = minorStage(["minor"]);
    await using _ = stage;
    cache(0, 0x42);
    const touch = stage.toucher().read(stage.page(0));
    await stage.drained();
    assert.equal(stage.uffd.continue(stage.page(0), PAGE, { dontWake: true }), "installed");
    assert.equal(touch.isDone, false);
    stage.uffd.wake(stage.page(0), PAGE);
    assert.equal(await touch.done(), 0x42);
  });
});
