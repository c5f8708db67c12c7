/** epoll and eventfd: what a fault worker sleeps on. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SysError } from "../../src/base/errors.ts";
import { monotonicUs } from "../../src/linux/clock.ts";
import { Epoll } from "../../src/linux/epoll.ts";
import { drainEventFd, EventFd } from "../../src/linux/eventfd.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";

describe("epoll", () => {
  test("tells which descriptors are readable by their tags, both halves whole", () => {
    using epoll = Epoll.create(8);
    using quiet = EventFd.create();
    using loud = EventFd.create();
    using louder = EventFd.create();
    epoll.add(quiet.fd, 1, 2);
    epoll.add(loud.fd, 0xffffffff, 0x80000001);
    epoll.add(louder.fd, 7, 0);
    assert.equal(epoll.wait(0), 0);
    loud.signal();
    louder.signal();
    const count = epoll.wait(0);
    const tags = Array.from({ length: count }, (_, index) => [
      epoll.tagLow(index),
      epoll.tagHigh(index),
    ]);
    assert.deepEqual(tags, [
      [0xffffffff, 0x80000001],
      [7, 0],
    ]);
  });

  test("is level-triggered: it tells again until the descriptor is read", () => {
    using epoll = Epoll.create(1);
    using event = EventFd.create();
    epoll.add(event.fd, 0, 0);
    event.signal();
    assert.deepEqual([epoll.wait(0), epoll.wait(0)], [1, 1]);
    event.reset();
    assert.equal(epoll.wait(0), 0);
  });

  test("returns no more events than it has room for", () => {
    using epoll = Epoll.create(1);
    using first = EventFd.create();
    using second = EventFd.create();
    for (const event of [first, second]) {
      epoll.add(event.fd, event.fd, 0);
      event.signal();
    }
    assert.equal(epoll.wait(0), 1);
  });

  test("forgets what was removed", () => {
    using epoll = Epoll.create(1);
    using event = EventFd.create();
    epoll.add(event.fd, 0, 0);
    event.signal();
    epoll.remove(event.fd);
    assert.equal(epoll.wait(0), 0);
    assert.throws(() => epoll.remove(event.fd), /epoll_ctl\(DEL\) fd \d+: ENOENT/);
  });

  test("waits as long as it was told", () => {
    using epoll = Epoll.create(1);
    const startUs = monotonicUs();
    assert.equal(epoll.wait(20), 0);
    assert.ok(monotonicUs() - startUs >= 19_000);
  });

  test("refuses what cannot be watched", () => {
    using epoll = Epoll.create(1);
    using memfd = createMemfd("unwatchable");
    assert.throws(
      () => epoll.add(memfd.fd, 0, 0),
      (error) => error instanceof SysError && error.errnoName === "EPERM",
    );
  });

  test("sees a userfaultfd become readable", requires("userfaultfd"), async () => {
    await using stage = new Stage();
    using epoll = Epoll.create(1);
    epoll.add(stage.uffd.fd, 5, 0);
    assert.equal(epoll.wait(0), 0);
    const touch = stage.toucher().read(stage.page(0));
    await stage.readable();
    assert.equal(epoll.wait(0), 1);
    assert.equal(epoll.tagLow(0), 5);
    stage.uffd.zeropage(stage.page(0), PAGE);
    await touch.done();
  });
});

describe("eventfd", () => {
  test("any number of signals are one wake-up, taken back by one reset", () => {
    using epoll = Epoll.create(1);
    using event = EventFd.create();
    epoll.add(event.fd, 0, 0);
    for (let index = 0; index < 1000; index++) event.signal();
    assert.equal(epoll.wait(0), 1);
    drainEventFd(event.fd);
    assert.equal(epoll.wait(0), 0);
  });

  test("reset without a signal does not block", () => {
    using event = EventFd.create();
    event.reset();
  });
});

test("the clock is the system's monotonic one, in microseconds", () => {
  const before = Number(process.hrtime.bigint()) / 1000;
  const now = monotonicUs();
  const after = Number(process.hrtime.bigint()) / 1000;
  assert.ok(before <= now + 1 && now <= after + 1, `${before} ${now} ${after}`);
});
