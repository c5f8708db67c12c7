/** When a worker spins: only while faults come fast, and never for long after they stop. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { SpinPacer, StepPacer } from "../../src/pager/pacing.ts";

function pacerAfter(gapsUs: readonly number[]): SpinPacer {
  const pacer = new SpinPacer("auto");
  for (const gap of gapsUs) pacer.observeGap(gap);
  return pacer;
}

const times = (count: number, gapUs: number): number[] => new Array(count).fill(gapUs);

describe("auto", () => {
  test("does not spin before it has seen faults", () => {
    assert.equal(pacerAfter([]).budgetUs, 0);
  });

  test("a single quick fault is not enough", () => {
    assert.equal(pacerAfter([1]).budgetUs, 0);
  });

  test("spins once faults keep coming fast", () => {
    assert.ok(pacerAfter(times(30, 10)).budgetUs > 0);
  });

  test("the first spin comes within 20 quick faults", () => {
    const pacer = new SpinPacer("auto");
    let faults = 0;
    while (pacer.budgetUs === 0 && faults < 100) {
      pacer.observeGap(5);
      faults += 1;
    }
    assert.ok(faults <= 20, `${faults} faults`);
  });

  test("never spins for faults that come slower than a wake-up takes", () => {
    for (const gap of [150, 400, 1e3, 1e6]) {
      assert.equal(pacerAfter(times(1000, gap)).budgetUs, 0, `gap ${gap}`);
    }
  });

  test("one pause ends it, however long faults came fast before", () => {
    assert.equal(pacerAfter([...times(10_000, 5), 1e6]).budgetUs, 0);
  });

  test("a pause of an hour weighs no more than one of a millisecond", () => {
    const quick = times(3, 5);
    const hour = pacerAfter([...times(100, 5), 3.6e9, ...quick]);
    const millisecond = pacerAfter([...times(100, 5), 1e3, ...quick]);
    assert.ok(hour.budgetUs > 0);
    assert.equal(hour.budgetUs, millisecond.budgetUs);
  });

  test("a spin is bounded by a fraction of a millisecond", () => {
    assert.ok(pacerAfter(times(1000, 0)).budgetUs <= 1000);
  });
});

describe("fixed modes", () => {
  test("off never spins", () => {
    const pacer = new SpinPacer("off");
    for (const gap of times(100, 1)) pacer.observeGap(gap);
    assert.equal(pacer.budgetUs, 0);
  });

  test("a number is the budget, whatever comes", () => {
    const pacer = new SpinPacer(50);
    assert.equal(pacer.budgetUs, 50);
    for (const gap of times(10, 1e6)) pacer.observeGap(gap);
    assert.equal(pacer.budgetUs, 50);
  });

  test("the number 0 sleeps at once", () => {
    assert.equal(new SpinPacer(0).budgetUs, 0);
  });
});

describe("steps ahead", () => {
  test("wait a moment after a fault that nobody expected, but not for ever", () => {
    const pacer = new StepPacer();
    assert.ok(pacer.heldUntilUs <= 0, "nothing holds them at first");
    pacer.observeStep(10_000);
    assert.ok(pacer.heldUntilUs < 10_000);
    for (let nowUs = 10_000; nowUs < 10_900; nowUs += 20) {
      pacer.observeUnexpected(nowUs);
      assert.equal(pacer.heldUntilUs, nowUs + 50);
    }
    pacer.observeUnexpected(10_990);
    assert.equal(pacer.heldUntilUs, 11_000, "a step is due");
    pacer.observeStep(11_000);
    pacer.observeUnexpected(11_005);
    assert.equal(pacer.heldUntilUs, 11_055);
  });
});
