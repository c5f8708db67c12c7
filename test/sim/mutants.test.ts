/** Every handler that is wrong on purpose is found out: so the simulator can see such mistakes. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { mutants } from "../../src/sim/mutants.ts";
import { judge, shrink } from "../../src/sim/shrink.ts";

const SEEDS = 1000;
const STEPS = 200;
/** The planted mistake must be rare in the worlds to need more; worth a look at them. */
const MANY_SEEDS = 100;

function firstSeedThatFinds(name: string): number | null {
  const { parts } = mutants[name]!;
  for (let seed = 0; seed < SEEDS; seed++) {
    if (judge({ seed, steps: STEPS, parts }) !== null) return seed;
  }
  return null;
}

describe("the oracle catches a handler that", () => {
  for (const [name, { mistake }] of Object.entries(mutants)) {
    test(`${mistake} (${name})`, (t) => {
      const seed = firstSeedThatFinds(name);
      assert.ok(seed !== null, `${SEEDS} seeds did not find it`);
      if (seed >= MANY_SEEDS) t.diagnostic(`${name} takes ${seed + 1} seeds to be found`);
    });
  }
});

describe("a failure", () => {
  const { parts } = mutants["fault-before-remove"]!;
  const world = { seed: firstSeedThatFinds("fault-before-remove")!, steps: STEPS, parts };
  const short = shrink(world);

  const { steps, without } = short;

  test("is made shorter, and still fails", () => {
    assert.ok(steps < STEPS, `it still takes ${steps} steps`);
    assert.ok(without.length > 0);
    assert.equal(judge({ ...world, steps, without }), short.message);
  });

  test("is as short as it gets: with one step less nothing is wrong", () => {
    assert.equal(judge({ ...world, steps: steps - 1, without }), null);
  });

  test("keeps the trouble that it needs", () => {
    const giveBack = ["remove", "flood"] as const;
    assert.ok(giveBack.some((trouble) => !without.includes(trouble)));
    assert.equal(judge({ ...world, without: giveBack }), null);
  });

  test("comes with the end of its trace", () => {
    assert.ok(short.trace.length > 0 && short.trace.length <= 40);
    assert.match(short.trace.at(-1)!, /gives page \d+ body/);
  });
});
