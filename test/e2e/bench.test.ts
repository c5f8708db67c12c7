/**
 * `faultline bench`, as users have it: tiny runs that report what is promised. No number is judged,
 * because a test machine is busy.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { MIB } from "../../src/base/units.ts";
import { type BenchReport, type ScenarioReport, touchShares } from "../../src/bench/report.ts";
import { encodeTrace } from "../../src/bench/trace-file.ts";
import { compile } from "../../src/kit/compile.ts";
import { HandlerCommand } from "../../src/kit/handler-command.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { benchCommandLine, runBench, tinyReferenceRun, tinyRun } from "../support/bench-run.ts";
import { requires } from "../support/requires.ts";

const needs = requires("userfaultfd", "cc");

/** Every contender has every figure of every round, and a ratio wherever one was promised. */
function assertMeasured(report: ScenarioReport, contenders: readonly string[]): void {
  assert.deepEqual(
    report.contenders.map(({ name }) => name),
    contenders,
    report.name,
  );
  for (const { name, figures } of report.contenders) {
    for (const { key, isCompared } of report.figures) {
      const what = `${report.name}: ${name} ${key}`;
      const { median, min, max, ratio, values } = figures[key]!;
      assert.equal(values.length, report.rounds, what);
      assert.ok(
        values.every((value) => Number.isFinite(value) && value > 0),
        what,
      );
      assert.ok(min === Math.min(...values) && max === Math.max(...values), what);
      assert.ok(min <= median && median <= max, what);
      assert.equal(ratio === null, name === report.comparedTo || !isCompared, what);
    }
  }
}

describe("faultline bench", () => {
  const folder = mkdtempSync(join(tmpdir(), "faultline-bench-test-"));
  /** As a user would give it: the reference, which knows nothing of us. */
  let handler = "";
  before(() => {
    if (needs.skip === undefined) {
      handler = compile(join(repositoryRoot, "bench", "reference", "handler.c"));
    }
  });
  after(() => rmSync(folder, { recursive: true }));

  test("reports every figure of every contender, also of --handler", needs, () => {
    // With a variable before it, as people write: a plain exec would not take it.
    const command = `MALLOC_ARENA_MAX=1 ${handler} {socket} {memory}`;
    const place = { ...process.env, TMPDIR: folder };
    const args = ["--json", ...tinyRun, "--handler", command];
    const { status, out, error } = runBench(args, place);
    assert.equal(status, 0, error);
    assert.equal(error, "");
    const { machine, settings, scenarios } = JSON.parse(out) as BenchReport;
    assert.equal(machine.node, process.version);
    assert.deepEqual([settings.rounds, settings.memoryMib, settings.isQuick], [2, 2, true]);
    const [random, threads, sequential, crowd, ...restores] = scenarios;
    for (const { restore, ...report } of restores) {
      const isFile = restore!.backend === "file";
      const serve = ["on-demand", "prefault", "before-resume"];
      assertMeasured(report, isFile ? ["reference", "mapping", ...serve, "handler 1"] : serve);
      assert.deepEqual(
        [restore!.trace, restore!.vms, restore!.pageSizeBytes],
        ["synthetic", 1, 4096],
      );
    }
    const backends = restores.map(({ restore }) => restore!.backend);
    assert.deepEqual(backends, ["file", "cached", "cold", "far"]);
    assertMeasured(random!, ["reference", "off", "auto", "mapping", "handler 1"]);
    assertMeasured(threads!, ["reference", "auto", "off", "mapping", "handler 1"]);
    assertMeasured(sequential!, ["reference", "auto", "off", "mapping", "handler 1"]);
    assertMeasured(crowd!, ["reference", "auto", "off", "handler 1"]);
    assert.equal(random!.contenders.at(-1)!.command, command);
    assert.deepEqual(
      [random, threads, sequential, crowd].map((each) => [each!.name, each!.targets.length]),
      [
        ["random", 4],
        ["threads", 1],
        ["sequential", 0],
        ["crowd", 2],
      ],
    );
    assert.deepEqual(readdirSync(folder), [], "no file stays behind");
  });

  test("--many-vms: one process of --handler has the whole crowd", needs, () => {
    const { template } = HandlerCommand.ofServe(["--max-vms", "3"]);
    const args = ["crowd", "--json", ...tinyReferenceRun, "--many-vms", "--handler", template];
    const { status, out, error } = runBench(args);
    assert.equal(status, 0, error);
    const [crowd] = (JSON.parse(out) as BenchReport).scenarios;
    assertMeasured(crowd!, ["reference", "handler 1"]);
    assert.equal(crowd!.contenders[1]!.servesMany, true);
  });

  test("restore: VMs side by side, a trace of a file, and pictures of it", needs, () => {
    const [plots, trace] = [join(folder, "plots"), join(folder, "own.trace")];
    const pages = Uint32Array.from([7, 8, 9, 3, 511]);
    const thinkUs = Uint32Array.from([0, 200, 10, 0, 5]);
    writeFileSync(trace, encodeTrace({ sizeBytes: 2 * MIB, pages, thinkUs }));
    const args = ["restore", "--quick", "--json", "--traces", trace, "--restores", "3", "--write"];
    const { status, out, error } = runBench([...args, "--plot", plots]);
    assert.equal(status, 0, error);
    const { scenarios, skipped } = JSON.parse(out) as BenchReport;
    assert.deepEqual(skipped, []);
    assert.deepEqual(new Set(scenarios.map(({ restore }) => restore!.vms)), new Set([3]));
    for (const { contenders } of scenarios) {
      for (const { name, touchQuantilesUs, figures } of contenders) {
        assert.equal(touchQuantilesUs!.length, touchShares.length);
        assert.ok(figures.slowest_ms!.median >= figures.working_set_ms!.median, name);
      }
    }
    const stem = "restore-own-trace-4k-3vm-writing";
    const touches = ["cached", "cold", "far", "file"].map((name) => `${stem}-touches-${name}.svg`);
    assert.deepEqual(readdirSync(plots).sort(), [`${stem}-times.svg`, ...touches]);
    rmSync(plots, { recursive: true });
    rmSync(trace);
  });

  test("restore: huge pages, or why not", needs, () => {
    const sizes = ["--page-sizes", "2M", "--backends", "file"];
    const { status, out, error } = runBench(["restore", "--quick", "--json", ...sizes]);
    assert.equal(status, 0, error);
    const { scenarios, skipped } = JSON.parse(out) as BenchReport;
    for (const { reason } of skipped) assert.match(reason, /needs 4 free huge pages .*sysctl/);
    for (const report of scenarios) {
      assertMeasured(report, ["reference", "on-demand", "prefault", "before-resume"]);
    }
    assert.equal(scenarios.length + skipped.length, 1);
  });

  test("prints Markdown tables", needs, () => {
    const { status, out, error } = runBench(["threads", ...tinyReferenceRun]);
    assert.equal(status, 0, error);
    assert.match(out, /^## threads$/m);
    assert.match(out, /^\| pages per second +\| C reference +\| +[\d,]+ pages\/s \|/m);
    assert.match(out, /--quick/);
  });

  test("Ctrl-C ends everything that runs, and leaves no file", needs, async () => {
    const place = mkdtempSync(join(folder, "interrupted-"));
    const argv = [...benchCommandLine, "crowd", ...tinyReferenceRun];
    const child = spawn(process.execPath, [...argv, "--rounds", "1000"], {
      env: { ...process.env, TMPDIR: place },
      stdio: ["ignore", "ignore", "inherit"],
    });
    const ended = once(child, "exit");
    // Once a VM is held, handlers and guests of both kinds are there.
    await waitFor(
      "VMs ran",
      () => processesOf(place).some((line) => line.includes("/vms ")),
      30_000,
    );
    child.kill("SIGINT");
    assert.deepEqual(await within("it ended", ended, 10_000), [130, null]);
    await waitFor("its children ended", () => processesOf(place).length === 0, 10_000);
    assert.deepEqual(readdirSync(place), []);
  });

  test("--list names the scenarios", () => {
    const { status, out } = runBench(["--list"]);
    assert.equal(status, 0);
    for (const name of ["random", "threads", "sequential", "crowd", "restore", "userfault"])
      assert.match(out, new RegExp(`^${name} `, "m"));
  });
});

/** The command lines of all processes that name a folder. */
function processesOf(folder: string): string[] {
  return readdirSync("/proc")
    .filter((name) => /^\d+$/.test(name))
    .map((pid) => commandLineOf(pid))
    .filter((line) => line.includes(folder));
}

function commandLineOf(pid: string): string {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
  } catch {
    return ""; // It has ended.
  }
}
