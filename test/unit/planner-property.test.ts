/**
 * The real planner on thousands of virtual VMs: no page is ever wrong, no thread waits for ever.
 *
 * `FAULTLINE_SEEDS=100000` runs more of them. A failure prints the command that replays its seed
 * with everything that happened in it; `FAULTLINE_STEPS` cuts the run short.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { describeError } from "../../src/base/errors.ts";
import { mutants } from "./planner-mutants.ts";
import { runWorld, type Sights, type WorldOptions } from "./planner-world.ts";

const { FAULTLINE_SEED, FAULTLINE_SEEDS, FAULTLINE_STEPS } = process.env;
const SEEDS = Number(FAULTLINE_SEEDS ?? 2000);
const STEPS = Number(FAULTLINE_STEPS ?? 200);

/** Outcomes, settlements, verdicts and ends. `busy` comes from UFFDIO_MOVE only. */
const everything = [
  ...["installed", "partial", "alreadyPresent", "deferred", "unregistered", "badSource"],
  ...["gone", "outOfMemory"],
  ...["done", "wake", "retry", "wakeAndBackoff", "backoff", "exhausted"],
  ...["queued", "known", "overflow"],
  ...["end: null", "end: gone", "end: failed"],
];

/** What went wrong in a run, or what it has seen. */
function attempt(options: WorldOptions): { error: unknown } | { sights: Sights } {
  try {
    return { sights: runWorld(options) };
  } catch (error) {
    return { error };
  }
}

/** The fewest steps after which the seed goes wrong: the shortest story to read. */
function fewestSteps(seed: number): number {
  for (let steps = 0; steps < STEPS; steps++) {
    if ("error" in attempt({ seed, steps })) return steps;
  }
  return STEPS;
}

function report(seed: number, error: unknown): string {
  const steps = fewestSteps(seed);
  const replay =
    `FAULTLINE_SEED=${seed} FAULTLINE_STEPS=${steps} ` +
    "node --enable-source-maps dist/test/unit/planner-property.test.js";
  return `seed ${seed}: ${describeError(error)}\nReplay: ${replay}`;
}

if (FAULTLINE_SEED !== undefined) {
  test(`seed ${FAULTLINE_SEED}, ${STEPS} steps`, () => {
    runWorld({
      seed: Number(FAULTLINE_SEED),
      steps: STEPS,
      trace: (line) => process.stderr.write(`  ${line}\n`),
    });
  });
} else {
  describe("the planner", () => {
    test(`serves ${SEEDS} VMs of ${STEPS} steps, and sees everything that can happen`, () => {
      const seen = new Map<string, number>();
      let checks = 0;
      for (let seed = 0; seed < SEEDS; seed++) {
        const result = attempt({ seed, steps: STEPS });
        if ("error" in result) assert.fail(report(seed, result.error));
        checks += result.sights.checks;
        for (const sight of result.sights.seen) seen.set(sight, (seen.get(sight) ?? 0) + 1);
      }
      if (SEEDS < 2000) return;
      for (const sight of everything) {
        assert.ok((seen.get(sight) ?? 0) >= 5, `"${sight}" in ${seen.get(sight) ?? 0} seeds only`);
      }
      assert.ok(checks > 50 * SEEDS, `${checks} reads and writes were checked`);
    });
  });

  describe("the oracle catches a planner that", () => {
    for (const Mutant of mutants) {
      test(nameOf(Mutant.name), () => {
        const makePlanner: WorldOptions["makePlanner"] = (parts) => new Mutant(parts);
        for (let seed = 0; seed < 2000; seed++) {
          if ("error" in attempt({ seed, steps: 200, makePlanner })) return;
        }
        assert.fail("2000 seeds did not find it");
      });
    }
  });
}

/** `ForgetsRemoves` → `forgets removes`. */
function nameOf(className: string): string {
  return className.replace(/(?!^)[A-Z]/g, (letter) => ` ${letter}`).toLowerCase();
}
