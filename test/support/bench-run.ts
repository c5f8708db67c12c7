/** `faultline bench` as users start it, on a tiny machine's worth of work. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { builtRoot } from "../../src/kit/paths.ts";

const TIMEOUT_MS = 60_000;

/** As little as shows everything. */
export const tinyRun = [
  ...["--quick", "--rounds", "2", "--memory", "2", "--threads", "3", "--vms", "2"],
];
/** Without ours: half as long where only the run itself is looked at. */
export const tinyReferenceRun = [...tinyRun, "--contenders", "reference"];

export interface BenchOutcome {
  readonly status: number | null;
  readonly out: string;
  readonly error: string;
}

export const benchCommandLine = [join(builtRoot, "src", "cli", "main.js"), "bench"];

export function runBench(args: readonly string[], environment = process.env): BenchOutcome {
  const child = spawnSync(process.execPath, [...benchCommandLine, ...args], {
    encoding: "utf8",
    timeout: TIMEOUT_MS,
    env: environment,
  });
  return { status: child.status, out: child.stdout, error: child.stderr };
}
