/** The counters of one VM: each call counts where it says, and sums and differences are exact. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { type CounterName, SessionStats } from "../../src/engine/session-stats.ts";

const calls: readonly (readonly [
  string,
  (stats: SessionStats) => void,
  Partial<Record<CounterName, number>>,
])[] = [
  ["addFault", (stats) => stats.addFault(), { faults: 1 }],
  ["addInstalled", (stats) => stats.addInstalled(7), { installedPages: 7, installs: 1 }],
  ["addZeroed", (stats) => stats.addZeroed(3), { zeroPages: 3, installs: 1 }],
  ["addRemoved", (stats) => stats.addRemoved(5), { removedPages: 5 }],
  ["addAlreadyPresent", (stats) => stats.addAlreadyPresent(), { alreadyPresent: 1 }],
  ["addDeferred", (stats) => stats.addDeferred(), { deferred: 1 }],
  ["addPoisoned", (stats) => stats.addPoisoned(), { poisonedPages: 1 }],
  ["addOverflowed", (stats) => stats.addOverflowed(), { overflowed: 1 }],
  ["addUnprotected", (stats) => stats.addUnprotected(2), { unprotectedPages: 2 }],
];

/** One of everything, `times` over, and a latency of `latencyUs` each. */
function filled(times: number, latencyUs: number): SessionStats {
  const stats = new SessionStats();
  for (let round = 0; round < times; round++) {
    for (const [, call] of calls) call(stats);
    stats.addLatency(latencyUs);
  }
  return stats;
}

function near(actual: number, expected: number): void {
  assert.ok(Math.abs(actual - expected) <= expected / 16, `${actual} is not about ${expected}`);
}

describe("counters", () => {
  const nothing = new SessionStats().counters();

  test("all begin at zero", () => {
    assert.deepEqual(new Set(Object.values(nothing)), new Set([0]));
  });

  for (const [name, call, expected] of calls) {
    test(`${name} counts ${Object.keys(expected).join(" and ")}, and nothing else`, () => {
      const stats = new SessionStats();
      call(stats);
      assert.deepEqual(stats.counters(), { ...nothing, ...expected });
    });
  }

  test("another thread's view of the buffer shows the same numbers", () => {
    const buffer = SessionStats.allocate();
    new SessionStats(buffer).add(filled(2, 40));
    const [writer, reader] = [filled(2, 40), new SessionStats(buffer)];
    assert.deepEqual(reader.counters(), writer.counters());
    assert.equal(reader.latencyUs(0.5), writer.latencyUs(0.5));
  });
});

describe("latencies", () => {
  test("are kept in microseconds, to 6 %", () => {
    const stats = new SessionStats();
    for (const value of [2, 20, 200, 2000]) stats.addLatency(value);
    for (const [quantile, expected] of [
      [0.25, 2],
      [0.5, 20],
      [0.75, 200],
      [1, 2000],
    ] as const) {
      near(stats.latencyUs(quantile), expected);
    }
  });

  test("of several faults at once count as often", () => {
    const stats = new SessionStats();
    stats.addLatency(2000);
    stats.addLatency(20, 3);
    near(stats.latencyUs(0.75), 20);
    near(stats.latencyUs(0.76), 2000);
  });

  test("without one, every quantile is 0", () => {
    assert.equal(new SessionStats().latencyUs(0.99), 0);
  });
});

describe("add and since", () => {
  test("add sums counters and latencies", () => {
    const total = filled(1, 10);
    total.add(filled(3, 1000));
    assert.deepEqual(total.counters(), filled(4, 1).counters());
    near(total.latencyUs(0.25), 10);
    near(total.latencyUs(0.5), 1000);
  });

  test("add leaves what it adds alone", () => {
    const part = filled(2, 5);
    const before = part.counters();
    new SessionStats().add(part);
    assert.deepEqual(part.counters(), before);
  });

  test("since is what was counted after the copy was made", () => {
    const stats = filled(2, 10);
    const earlier = new SessionStats();
    earlier.add(stats);
    stats.add(filled(3, 500));
    const difference = stats.since(earlier);
    assert.deepEqual(difference.counters(), filled(3, 1).counters());
    near(difference.latencyUs(0.01), 500);
    assert.deepEqual(stats.counters(), filled(5, 1).counters());
  });

  test("since itself is nothing", () => {
    const stats = filled(2, 10);
    assert.deepEqual(stats.since(stats).counters(), new SessionStats().counters());
    assert.equal(stats.since(stats).latencyUs(0.5), 0);
  });
});
