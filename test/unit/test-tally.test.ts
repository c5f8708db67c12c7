/** The counting behind the last line of `npm test`. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FileTally, groupByReason, type TestReport } from "../../scripts/test-tally.ts";

const FILE = "/x/a.test.js";

function report(name: string, nesting: number, more: Partial<TestReport> = {}): TestReport {
  return { name, nesting, details: {}, ...more };
}

/** As the runner wraps what a test threw. */
function wrapped(failureType: string, more: object = {}): Error {
  return Object.assign(new Error("wrapped"), { failureType }, more);
}

describe("the tally", () => {
  test("counts leaf tests, not suites and not tests with subtests", () => {
    const tally = new FileTally(FILE);
    for (const [name, nesting] of [
      ["suite", 0],
      ["inner", 1],
      ["leaf", 2],
    ] as const) {
      tally.start({ name, nesting });
    }
    tally.pass(report("leaf", 2));
    tally.pass(report("inner", 1, { details: { type: "suite" } }));
    tally.pass(report("suite", 0, { details: { type: "suite" } }));
    tally.pass(report("sub 1", 1));
    tally.pass(report("sub 2", 1));
    tally.pass(report("parent", 0));
    tally.pass(report("alone", 0));
    assert.equal(tally.passedCount, 4);
  });

  test("counts a failed leaf once, and not the suites around it", () => {
    const tally = new FileTally(FILE);
    tally.start({ name: "suite", nesting: 0 });
    const cause = new Error("the real one");
    tally.fail(report("leaf", 1, { details: { error: wrapped("testCodeFailure", { cause }) } }));
    tally.fail(
      report("suite", 0, { details: { type: "suite", error: wrapped("subtestsFailed") } }),
    );
    assert.deepEqual(
      tally.failures.map(({ name, error }) => [name, error]),
      [["suite > leaf", cause]],
    );
  });

  test("counts the failure of a hook, whose suite has passed tests", () => {
    const tally = new FileTally(FILE);
    tally.pass(report("leaf", 1));
    tally.fail(report("suite", 0, { details: { type: "suite", error: wrapped("hookFailed") } }));
    assert.deepEqual([tally.passedCount, tally.failures.length], [1, 1]);
  });

  test("lists skipped tests and suites by reason, and does not count them as passed", () => {
    const tally = new FileTally(FILE);
    tally.pass(report("one", 0, { skip: "no kvm" }));
    tally.pass(report("two", 0, { skip: true }));
    tally.pass(report("suite", 0, { skip: "no kvm", details: { type: "suite" } }));
    tally.fail(report("later", 0, { todo: "soon", details: { error: new Error("x") } }));
    assert.deepEqual([tally.passedCount, tally.failures.length], [0, 0]);
    assert.deepEqual(
      [...groupByReason(tally.skips)],
      [
        ["no kvm", ["one", "suite"]],
        ["no reason given", ["two"]],
        ["to be done: soon", ["later"]],
      ],
    );
  });

  test("a file without a test fails", () => {
    const tally = new FileTally(FILE);
    tally.pass(report(FILE, 0));
    assert.deepEqual(tally.failures, [
      { name: "the file as a whole", location: FILE, error: "The file holds no test." },
    ]);
  });

  test("a process that died is told by its signal or exit code", () => {
    for (const [how, sentence] of [
      [{ signal: "SIGSEGV", exitCode: null }, "The process of the file was killed by SIGSEGV."],
      [{ signal: null, exitCode: 3 }, "The process of the file ended with exit code 3."],
    ] as const) {
      const tally = new FileTally(FILE);
      tally.fail(report(FILE, 0, { details: { error: wrapped("testCodeFailure", how) } }));
      assert.equal(tally.failures[0]?.error, sentence);
    }
  });

  test("a file that was ended says in which test", () => {
    const tally = new FileTally(FILE);
    for (const name of ["quick", "wedged"]) tally.begin({ name });
    tally.pass(report("quick", 0));
    tally.fail(report(FILE, 0, { details: { error: wrapped("testAborted") } }));
    tally.endAll("ended after 2 s");
    assert.deepEqual(
      tally.failures.map(({ error }) => error),
      ['It was ended after 2 s, in "wedged".'],
    );
  });
});
