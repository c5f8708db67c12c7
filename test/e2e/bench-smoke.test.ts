/**
 * The benchmarks of the repository still work: each runs once, tiny, and reports what it promises
 * to report. No number is judged here, because a test machine is busy.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, test } from "node:test";
import type { Report } from "../../bench/support/report.ts";
import type { Machine } from "../../src/bench/machine.ts";
import type { ScenarioReport } from "../../src/bench/report.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { requires } from "../support/requires.ts";

const TIMEOUT_MS = 90_000;
const scenarioNames = ["random", "threads", "sequential", "crowd", "restore"];
const promiseNames = [
  "first-fault",
  "memory",
  "idle",
  "cycles",
  "fan-out",
  "handshakes",
  "remove-flood",
  "pack",
  "cached-image",
  "far-store",
  "snapshots",
  "scan",
  "dirty",
  "working-set",
  "restore-guest",
  "daemon-create",
  "daemon-faults",
  "daemon-fleet",
  "daemon-flood",
  "watching",
  "dashboard",
  "dashboard-page",
];

function bench(...args: readonly string[]): { status: number | null; out: string; error: string } {
  const argv = [join(builtRoot, "bench", "main.js"), ...args];
  const child = spawnSync(process.execPath, argv, { encoding: "utf8", timeout: TIMEOUT_MS });
  return { status: child.status, out: child.stdout, error: child.stderr };
}

function assertComplete(report: Report): void {
  assert.ok(report.method.length > 0, report.bench);
  assert.ok(report.measures.length > 0, report.bench);
  assert.ok(
    report.commands.some((command) => /(main\.js (serve|daemon) --|image pack)/.test(command)),
    `${report.bench} names the command that it measured`,
  );
  for (const { name, ours, reference, ratio, target, isMet } of report.measures) {
    const what = `${report.bench}: ${name}`;
    assert.ok(Number.isFinite(ours), what);
    assert.ok(reference === null || Number.isFinite(reference), what);
    assert.ok(ratio === null || Number.isFinite(ratio), what);
    assert.equal(isMet === null, target === null, what);
  }
}

describe("npm run bench", () => {
  test(
    "--smoke --json runs them all and reports both sides",
    requires("userfaultfd", "cc", "chromium"),
    () => {
      const { status, out, error } = bench("--smoke", "--json");
      assert.equal(status, 0, error);
      assert.equal(error, "");
      const { machine, isSmoke, scenarios, reports } = JSON.parse(out) as {
        readonly machine: Machine;
        readonly isSmoke: boolean;
        readonly scenarios: readonly ScenarioReport[];
        readonly reports: readonly Report[];
      };
      assert.equal(isSmoke, true);
      assert.equal(machine.node, process.version);
      assert.ok(machine.cpus >= 1);
      assert.deepEqual(
        [
          ...new Set(scenarios.map(({ name }) => name.split(" ")[0])),
          ...reports.map(({ bench }) => bench),
        ],
        [...scenarioNames, ...promiseNames],
      );
      for (const report of reports) assertComplete(report);
    },
  );

  test("a name that no benchmark has is refused, and the names are listed", () => {
    const { status, error } = bench("latency");
    assert.equal(status, 2);
    for (const name of [...scenarioNames, ...promiseNames]) {
      assert.match(error, new RegExp(`\\b${name}\\b`));
    }
  });
});
