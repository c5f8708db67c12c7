/**
 * The benchmarks of the repository still work: each runs once, tiny, and reports what it promises
 * to report. No number is judged here, because a test machine is busy.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import {
  assertSmoke,
  bench,
  daemonNames,
  scenarioNames,
  soloNames,
} from "../support/bench-smoke.ts";
import { requires } from "../support/requires.ts";

describe("npm run bench", () => {
  test(
    "runs scenarios and promises of serve, and reports both sides",
    requires("userfaultfd", "cc"),
    () => assertSmoke(scenarioNames, soloNames),
  );

  test("a name that no benchmark has is refused, and the names are listed", () => {
    const { status, error } = bench("latency");
    assert.equal(status, 2);
    const [, names] = /There are: (.*)\.$/m.exec(error) ?? [];
    // One that no smoke runs would be missing here.
    assert.deepEqual(names?.split(", "), [...scenarioNames, ...soloNames, ...daemonNames]);
  });
});
