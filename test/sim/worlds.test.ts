/** The real planner and page table in virtual worlds: all kinds of trouble, and no mistake. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { judge } from "../../src/sim/shrink.ts";
import { sights, Tally } from "../../src/sim/tally.ts";
import { runWorld } from "../../src/sim/world.ts";

const SEEDS = 1200;
const STEPS = 250;

describe("virtual worlds", () => {
  const tally = new Tally();

  test(`${SEEDS} of them are served without a mistake`, () => {
    for (let seed = 0; seed < SEEDS; seed++) {
      const mistake = judge({ seed, steps: STEPS, tally });
      const replay = `npm run sim -- --seed ${seed} --steps ${STEPS}`;
      assert.equal(mistake, null, `seed ${seed}: ${mistake}. Replay: ${replay}`);
    }
  });

  test("together they see everything that can happen", () => {
    const unseen = sights.filter((sight) => tally.get(sight) === 0);
    assert.deepEqual(unseen, []);
    const checked = tally.get("reads and writes checked");
    assert.ok(checked > 50 * SEEDS, `${checked} reads and writes were checked`);
  });
});

function traceOf(seed: number, steps: number): string[] {
  const lines: string[] = [];
  runWorld({ seed, steps, trace: (line) => lines.push(line) });
  return lines;
}

describe("a seed", () => {
  test("gives the same world each time", () => {
    for (let seed = 0; seed < 20; seed++) assert.deepEqual(traceOf(seed, 50), traceOf(seed, 50));
  });

  test("gives another world than its neighbour", () => {
    assert.notDeepEqual(traceOf(1, 50), traceOf(2, 50));
  });

  test("with fewer steps gives the beginning of the longer world", () => {
    for (let seed = 0; seed < 20; seed++) {
      const whole = traceOf(seed, 200);
      const [few, more] = [
        commonLines(traceOf(seed, 30), whole),
        commonLines(traceOf(seed, 150), whole),
      ];
      assert.ok(more > few, `seed ${seed}: 150 steps share ${more} lines, 30 share ${few}`);
    }
  });
});

/** How many lines both begin with. */
function commonLines(some: readonly string[], others: readonly string[]): number {
  const different = some.findIndex((line, index) => line !== others[index]);
  return different === -1 ? some.length : different;
}
