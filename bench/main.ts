/**
 * `npm run bench -- [NAME...] [--smoke] [--json]`: our promises, measured.
 *
 * Without names all benchmarks run, which takes twelve minutes. `--smoke` makes each tiny: enough
 * for the test suite to see that it works, and no number of it means anything. A missed target is
 * printed and does not fail: a noisy machine must not look like a broken program.
 */
import { loadavg } from "node:os";
import { parseArgs } from "node:util";
import { findCompiler } from "../src/kit/compile.ts";
import { cycles } from "./cycles.ts";
import { fanOut } from "./fan-out.ts";
import { faultLatency } from "./fault-latency.ts";
import { firstFault } from "./first-fault.ts";
import { handshakes } from "./handshakes.ts";
import { idle } from "./idle.ts";
import { memory } from "./memory.ts";
import { pack } from "./pack.ts";
import { removeFlood } from "./remove-flood.ts";
import { describeMachine } from "./support/machine.ts";
import { formatMachine, formatReport } from "./support/print.ts";
import type { Report } from "./support/report.ts";
import { Workspace } from "./support/workspace.ts";

const EXIT_USAGE = 2;
const EXIT_INTERRUPTED = 130;
const EXIT_TERMINATED = 143;

const benches: Readonly<Record<string, (workspace: Workspace) => Promise<Report>>> = {
  "fault-latency": faultLatency,
  "first-fault": firstFault,
  memory,
  idle,
  cycles,
  "fan-out": fanOut,
  handshakes,
  "remove-flood": removeFlood,
  pack,
};

interface Wishes {
  readonly names: readonly string[];
  readonly isSmoke: boolean;
  readonly asJson: boolean;
}

/** Null after saying what is wrong with them. */
function parseWishes(): Wishes | null {
  const flag = { type: "boolean", default: false } as const;
  const all = Object.keys(benches);
  try {
    const { values, positionals } = parseArgs({
      options: { smoke: flag, json: flag },
      allowPositionals: true,
    });
    const unknown = positionals.filter((name) => !all.includes(name));
    if (unknown.length > 0) {
      throw new Error(`There is no ${unknown.join(", ")}. There are: ${all.join(", ")}.`);
    }
    const names = positionals.length > 0 ? positionals : all;
    return { names, isSmoke: values.smoke, asJson: values.json };
  } catch (error) {
    console.error((error as Error).message);
    return null;
  }
}

async function main(): Promise<void> {
  const wishes = parseWishes();
  if (wishes === null) {
    process.exitCode = EXIT_USAGE;
    return;
  }
  const { names, isSmoke, asJson } = wishes;
  const compiler = findCompiler();
  if (compiler === null) throw new Error("There is no cc or gcc on PATH: apt-get install gcc");
  const machine = describeMachine(compiler);
  const say = (text: string): void => {
    if (!asJson) console.log(text);
  };
  say(formatMachine(machine));

  using workspace = new Workspace(isSmoke);
  workspace.warmMemory();
  const reports: Report[] = [];
  for (const name of names) {
    const report = await benches[name]!(workspace);
    reports.push(report);
    say(`${formatReport(report, !isSmoke)}\n(load afterwards: ${loadavg()[0]!.toFixed(2)})`);
  }
  if (isSmoke) say("\nA smoke run: these numbers mean nothing.");
  if (asJson) console.log(JSON.stringify({ machine, isSmoke, reports }));
}

// A signal ends us as usual, but through the exit handlers that end what we started.
process.on("SIGINT", () => process.exit(EXIT_INTERRUPTED));
process.on("SIGTERM", () => process.exit(EXIT_TERMINATED));
await main();
