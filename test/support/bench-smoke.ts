/** The repository's benchmarks, each run once and tiny. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import type { Report } from "../../bench/support/report.ts";
import type { Machine } from "../../src/bench/machine.ts";
import type { ScenarioReport } from "../../src/bench/report.ts";
import { builtRoot } from "../../src/kit/paths.ts";

const TIMEOUT_MS = 90_000;
export const scenarioNames = ["random", "threads", "sequential", "crowd", "restore"] as const;
/** What needs no daemon. */
export const soloNames = [
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
] as const;
export const daemonNames = [
  "working-set",
  "restore-guest",
  "daemon-create",
  "daemon-faults",
  "watching",
  "daemon-fleet",
  "daemon-flood",
  "dashboard",
  "dashboard-page",
] as const;

export function bench(...args: readonly string[]): {
  status: number | null;
  out: string;
  error: string;
} {
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

/** What these benchmarks report is complete. Their order is the program's own. */
export function assertSmoke(scenarios: readonly string[], promises: readonly string[]): void {
  const { status, out, error } = bench(...scenarios, ...promises, "--smoke", "--json");
  assert.equal(status, 0, error);
  assert.equal(error, "");
  const answer = JSON.parse(out) as {
    readonly machine: Machine;
    readonly isSmoke: boolean;
    readonly scenarios: readonly ScenarioReport[];
    readonly reports: readonly Report[];
  };
  assert.equal(answer.isSmoke, true);
  assert.equal(answer.machine.node, process.version);
  assert.ok(answer.machine.cpus >= 1);
  const played = new Set(answer.scenarios.map(({ name }) => name.split(" ")[0]));
  const reported = answer.reports.map((report) => report.bench);
  assert.deepEqual([...played, ...reported].sort(), [...scenarios, ...promises].sort());
  for (const report of answer.reports) assertComplete(report);
}
