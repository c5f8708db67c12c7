/** Userfaultfd.events(): events on Node's event loop. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { waitFor, within } from "../../src/kit/wait.ts";
import { OwnedFd } from "../../src/linux/fd.ts";
import type { UffdEvent } from "../../src/uffd/events.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd");

/** Consumes events in the background; `ended` settles when the stream does. */
function consume(
  stage: Stage,
  onEvent: (event: UffdEvent) => void,
  signal?: AbortSignal,
): { ended: Promise<void> } {
  const run = async (): Promise<void> => {
    for await (const event of stage.uffd.events(signal)) onEvent(event);
  };
  return { ended: run() };
}

describe("the event stream", () => {
  test("serves a thread that walks over the memory", needs, async () => {
    await using stage = new Stage();
    const source = stage.source();
    const pages: number[] = [];
    const stop = new AbortController();
    const { ended } = consume(
      stage,
      (event) => {
        assert.ok(event.type === "pagefault");
        const page = (event.address - stage.memory.address) / PAGE;
        pages.push(page);
        stage.uffd.copy(event.address, source + page * PAGE, PAGE);
      },
      stop.signal,
    );
    const toucher = stage.toucher();
    for (let page = 0; page < 16; page++) {
      assert.equal(await toucher.read(stage.page(page) + 5).done(), page + 1);
    }
    assert.deepEqual(
      pages,
      Array.from({ length: 16 }, (_, index) => index),
    );
    stop.abort();
    await within("the stream ended", ended);
  });

  test("brings what was pending before it began", needs, async () => {
    await using stage = new Stage();
    const touch = stage.toucher().read(stage.page(2));
    await stage.pendingFaults(1);
    for await (const event of stage.uffd.events()) {
      assert.ok(event.type === "pagefault");
      assert.equal(event.address, stage.page(2));
      stage.uffd.zeropage(event.address, PAGE);
      break;
    }
    await touch.done();
    assert.equal(stage.uffd.isOpen, true, "leaving the loop does not close the descriptor");
  });

  test(
    "leaves the event loop free while it waits, and while the consumer is busy",
    needs,
    async () => {
      await using stage = new Stage();
      let ticks = 0;
      const timer = setInterval(() => ticks++, 1);
      const stop = new AbortController();
      const seen: UffdEvent[] = [];
      const { ended } = consume(stage, (event) => seen.push(event), stop.signal);
      await waitFor("timers ran while the stream was waiting", () => ticks >= 5);
      stage.toucher().read(stage.page(0));
      await waitFor("the event came", () => seen.length === 1);
      const before = ticks;
      await waitFor("timers ran while the fault was unanswered", () => ticks >= before + 5);
      clearInterval(timer);
      stop.abort();
      await within("the stream ended", ended);
    },
  );

  test("ends when it is aborted, before or while it waits", needs, async () => {
    await using stage = new Stage();
    await within("the stream ended", consume(stage, () => {}, AbortSignal.abort()).ended);
    const stop = new AbortController();
    const { ended } = consume(stage, () => {}, stop.signal);
    await new Promise(setImmediate);
    stop.abort();
    await within("the stream ended", ended);
    assert.equal(stage.uffd.isOpen, true);
  });

  test("ends when the descriptor is closed while it waits", needs, async () => {
    await using stage = new Stage();
    const { ended } = consume(stage, () => {});
    await new Promise(setImmediate);
    stage.uffd.close();
    await within("the stream ended", ended);
  });

  test("ends when the descriptor is given away while it waits", needs, async () => {
    await using stage = new Stage();
    const { ended } = consume(stage, () => {});
    await new Promise(setImmediate);
    using moved = new OwnedFd(stage.uffd.intoRawFd());
    await within("the stream ended", ended);
    assert.equal(moved.isOpen, true);
  });

  test("is one at a time: a second one fails, and the first goes on", needs, async () => {
    await using stage = new Stage();
    const seen: UffdEvent[] = [];
    const { ended } = consume(stage, (event) => seen.push(event));
    await assert.rejects(consume(stage, () => {}).ended, /is watched already/);
    const touch = stage.toucher().read(stage.page(0));
    await waitFor("the first stream brought the event", () => seen.length === 1);
    stage.uffd.zeropage(stage.page(0), PAGE);
    await touch.done();
    stage.uffd.close();
    await within("the stream ended", ended);
  });

  test("leaves the number of its descriptor free for the next one", needs, async () => {
    for (let round = 0; round < 3; round++) {
      await using stage = new Stage();
      const { ended } = consume(stage, () => {});
      await new Promise(setImmediate);
      stage.uffd.close();
      // Before the stream has noticed: the next descriptor usually gets the same number.
      await using next = new Stage();
      const other = consume(next, (event) => {
        if (event.type === "pagefault") next.uffd.zeropage(event.address, PAGE);
      });
      assert.equal(await next.toucher().read(next.page(0)).done(), 0);
      next.uffd.close();
      await within("both streams ended", Promise.all([ended, other.ended]));
    }
  });
});
