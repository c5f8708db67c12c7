/**
 * `faultline bench userfault`: tiny runs on the model of the kernel that report what is promised,
 * and handlers that are wrong. No number is judged, because a test machine is busy.
 */
import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import type { BenchReport } from "../../src/bench/report.ts";
import { compile } from "../../src/kit/compile.ts";
import { shellWord } from "../../src/kit/handler-command.ts";
import { builtRoot, repositoryRoot } from "../../src/kit/paths.ts";
import { runBench, tinyReferenceRun, tinyRun } from "../support/bench-run.ts";
import { requires } from "../support/requires.ts";

const needs = requires("userfaultfd", "cc");
const ours = [process.execPath, join(builtRoot, "test/support/userfault-handler.js")];

describe("faultline bench userfault", needs, () => {
  const folder = mkdtempSync(join(tmpdir(), "faultline-bench-test-"));
  const program = { plain: "", fast: "" };
  before(() => {
    const sources = join(repositoryRoot, "bench", "reference");
    program.plain = compile(join(sources, "userfault-handler.c"));
    program.fast = compile(join(sources, "userfault-fast-handler.c"));
  });
  after(() => rmSync(folder, { recursive: true }));

  test("reports every figure of the C reference and of --handler", () => {
    const handler = `${ours.map(shellWord).join(" ")} {socket} {memory}`;
    const report = measure("--handler", handler);
    assert.deepEqual(
      report.scenarios.map(({ name }) => name),
      ["userfault sync", "userfault ring"],
    );
    assertMeasured(report, ["reference", "handler 1"]);
  });

  test("compares faultline serve with the C reference, spinning or not", () => {
    assertMeasured(measuredBy(tinyRun, "sync"), ["reference", "off", "auto"]);
  });

  test("prefault: all memory, also by a --handler where it is named", () => {
    const report = measure("prefault", "--handler", `${program.fast} {socket} {memory} --prefault`);
    assert.deepEqual(
      report.scenarios.map(({ name }) => name),
      ["userfault prefault"],
    );
    assertMeasured(report, ["reference", "handler 1"]);
  });

  test("without a --handler it has all parts", () => {
    const { scenarios } = measure();
    assert.deepEqual(
      scenarios.map(({ name }) => name),
      ["userfault sync", "userfault ring", "userfault prefault"],
    );
  });

  for (const part of ["sync", "ring", "prefault"]) {
    test(`wrong bytes fail the run: ${part}`, () => {
      const other = join(folder, "other.mem");
      writeFileSync(other, "");
      truncateSync(other, 2 * 2 ** 20);
      const mode = part === "prefault" ? "--prefault" : "";
      const handler = `${program.fast} {socket} ${other} ${mode} # {memory}`;
      const { status, error } = run(part, "--handler", handler);
      assert.equal(status, 1, error);
      assert.match(error, /gave a VM \d+ pages with wrong bytes/);
    });
  }

  for (const part of ["sync", "ring"]) {
    test(`an answer before its bit is clear fails the run: ${part}`, () => {
      const handler = `${program.plain} {socket} {memory} keep-bit`;
      const { status, error } = run(part, "--handler", handler);
      assert.equal(status, 1, error);
      assert.match(error, /the bit of page \d+ is still set with its answer/);
      assert.match(error, /left a VM without an answer/);
    });
  }

  function run(...args: readonly string[]): ReturnType<typeof runBench> {
    return runWith(tinyReferenceRun, args);
  }

  function runWith(size: readonly string[], args: readonly string[]): ReturnType<typeof runBench> {
    const place = { ...process.env, TMPDIR: folder };
    return runBench(["userfault", "--json", ...size, ...args], place);
  }

  function measure(...args: readonly string[]): BenchReport {
    return measuredBy(tinyReferenceRun, ...args);
  }

  function measuredBy(size: readonly string[], ...args: readonly string[]): BenchReport {
    const { status, out, error } = runWith(size, args);
    assert.equal(status, 0, error);
    assert.equal(error, "");
    assert.deepEqual(
      readdirSync(folder).filter((name) => name.startsWith("faultline-bench-")),
      [],
      "no file stays behind",
    );
    return JSON.parse(out) as BenchReport;
  }
});

/** Every contender has every figure of every round, and a ratio wherever one was promised. */
function assertMeasured({ scenarios }: BenchReport, names: readonly string[]): void {
  for (const { name, rounds, figures, contenders } of scenarios) {
    assert.deepEqual(
      contenders.map((each) => each.name),
      names,
      name,
    );
    for (const contender of contenders) {
      for (const { key, isCompared } of figures) {
        const what = `${name}: ${contender.name} ${key}`;
        const { ratio, values } = contender.figures[key]!;
        assert.equal(values.length, rounds, what);
        assert.ok(
          values.every((value) => Number.isFinite(value) && value > 0),
          what,
        );
        assert.equal(ratio === null, contender.name === "reference" || !isCompared, what);
      }
    }
  }
}
