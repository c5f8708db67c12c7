/** Write protection: the way to learn which pages are written. See UFFDIO_WRITEPROTECT. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SysError } from "../../src/base/errors.ts";
import { UFFDIO_COPY_MODE_WP } from "../../src/linux/abi-userfaultfd.ts";
import { decodeEvent } from "../../src/uffd/events.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage, type StageOptions } from "../support/stage.ts";

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
