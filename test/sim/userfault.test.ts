/**
 * All that a handler of VMs with KVM Userfault is made of, in virtual worlds: faults that come by
 * four ways, handlers that die between any two steps, and no mistake. And the other way round:
 * every handler that is wrong on purpose is found out.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { stages } from "../../src/sim/stage.ts";
import { Tally } from "../../src/sim/tally.ts";
import { runUserfaultWorld } from "../../src/sim/userfault/world.ts";

const SEEDS = 1500;
const STEPS = 250;
const MUTANT_SEEDS = 1000;
const MUTANT_STEPS = 200;
/** The planted mistake must be rare in the worlds to need more; worth a look at them. */
const MANY_SEEDS = 100;

const { judge, shrink, mutants, sights } = stages.userfault;

describe("virtual worlds with KVM Userfault", () => {
  const tally = new Tally();

  test(`${SEEDS} of them are served without a mistake`, () => {
    for (let seed = 0; seed < SEEDS; seed++) {
      const mistake = judge({ seed, steps: STEPS, without: [], mutant: null, tally });
      const replay = `npm run sim -- --userfault --seed ${seed} --steps ${STEPS}`;
      assert.equal(mistake, null, `seed ${seed}: ${mistake}. Replay: ${replay}`);
    }
  });

  test("together they see everything that can happen", () => {
    assert.deepEqual(
      sights.filter((sight) => tally.get(sight) === 0),
      [],
    );
    const checked = tally.get("reads and writes checked");
    assert.ok(checked > 50 * SEEDS, `${checked} reads and writes were checked`);
  });

  test("the same seed gives the same world", () => {
    for (let seed = 0; seed < 10; seed++) assert.deepEqual(traceOf(seed), traceOf(seed));
    assert.notDeepEqual(traceOf(1), traceOf(2));
  });
});

function traceOf(seed: number): string[] {
  const lines: string[] = [];
  runUserfaultWorld({ seed, steps: 60, trace: (line) => lines.push(line) });
  return lines;
}

function firstSeedThatFinds(mutant: string): number {
  const world = { steps: MUTANT_STEPS, without: [], mutant };
  for (let seed = 0; seed < MUTANT_SEEDS; seed++)
    if (judge({ ...world, seed }) !== null) return seed;
  return -1;
}

describe("the oracle catches a handler that", () => {
  for (const [name, { mistake }] of Object.entries(mutants)) {
    test(`${mistake} (${name})`, (t) => {
      const seed = firstSeedThatFinds(name);
      assert.ok(seed >= 0, `${MUTANT_SEEDS} seeds did not find it`);
      if (seed >= MANY_SEEDS) t.diagnostic(`${name} takes ${seed + 1} seeds to be found`);
    });
  }
});

describe("a failure of a handler with KVM Userfault", () => {
  const mutant = "takeover-without-resume";
  const world = { seed: firstSeedThatFinds(mutant), steps: MUTANT_STEPS, without: [], mutant };
  const short = shrink(world);

  test("is made shorter, and still fails", () => {
    assert.ok(short.steps < MUTANT_STEPS, `it still takes ${short.steps} steps`);
    assert.ok(short.without.length > 0);
    const { steps, without, message } = short;
    assert.equal(judge({ ...world, steps, without }), message);
  });

  test("keeps the trouble that it needs", () => {
    assert.ok(!short.without.includes("death"));
    assert.equal(judge({ ...world, without: ["death"] }), null);
  });

  test("comes with the end of its trace", () => {
    assert.ok(short.trace.length > 0 && short.trace.length <= 40);
  });
});
