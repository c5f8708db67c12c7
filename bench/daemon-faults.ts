/**
 * Faults of a VM that the daemon serves, beside the same faults at `faultline serve`: the engine is
 * the same, but a session's counters and page states lie in a memfd, and its events are noted where
 * they survive the process. What that costs a fault.
 */
import {
  type FaultTimes,
  faulterCommand,
  type GuestPlan,
  timeFaults,
} from "../src/bench/guests.ts";
import { choosePinnedCpus } from "../src/bench/machine.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { HandlerCommand } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import { BenchDaemon } from "./support/daemon.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const P50_LIMIT = 1.05;
const QUIET_PATIENCE_MS = 10_000;

interface Round {
  readonly serve: FaultTimes;
  readonly daemon: FaultTimes;
}

export async function daemonFaults(run: PromiseRun): Promise<Report> {
  const cpus = choosePinnedCpus();
  const sizeMib = run.scaled(128, 4);
  const memoryPath = run.randomFile(sizeMib * MIB);
  const faults = (sizeMib * MIB) / 4096;
  const prefix = ["taskset", "-c", String(cpus.handler)];
  await using daemon = await BenchDaemon.start(run, { memoryPath, prefix });
  const target = { socketPath: run.newPath("sock"), memoryPath };
  await using serve = await HandlerProcess.start(HandlerCommand.ofServe(), target, prefix);
  const rounds: Round[] = [];
  // The first round does not count: code that has never run is slow.
  for (let index = 0; index <= run.scaled(11, 2); index++) {
    const plan: GuestPlan = { memoryPath, faults, order: "random", seed: index, cpu: cpus.guest };
    if (index > 0) await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const isDaemonFirst = index % 2 === 0;
    const early = isDaemonFirst ? await daemon.timeFaults(run, plan) : null;
    const served = await timeFaults(run, serve, plan);
    const round = { serve: served, daemon: early ?? (await daemon.timeFaults(run, plan)) };
    if (index > 0) rounds.push(round);
  }
  const plan: GuestPlan = { memoryPath, faults, order: "random", cpu: cpus.guest };
  return {
    bench: "daemon-faults",
    method:
      `${rounds.length} rounds of one VM on each side, in turns: ${faults} random single-page ` +
      `faults over ${sizeMib} MiB. Guest on CPU ${cpus.guest}; serve, and all processes of the ` +
      `daemon, on CPU ${cpus.handler}. Medians; ratios are medians of the rounds' ratios.`,
    sides: ["serve", "daemon"],
    commands: [
      serve.commandLine,
      daemon.commandLine,
      faulterCommand(run, target.socketPath, plan).join(" "),
    ],
    measures: [compare(rounds, "p50_us"), compare(rounds, "p90_us"), compare(rounds, "p99_us")],
    samples: rounds.map(({ serve: theirs, daemon: ours }) => ({
      "serve p50": theirs.p50_us,
      "daemon p50": ours.p50_us,
      "serve p99": theirs.p99_us,
      "daemon p99": ours.p99_us,
    })),
  };
}

function compare(rounds: readonly Round[], figure: "p50_us" | "p90_us" | "p99_us"): Measure {
  return measure(figure.slice(0, 3), "µs", median(rounds.map(({ daemon }) => daemon[figure])), {
    reference: median(rounds.map(({ serve }) => serve[figure])),
    ratio: median(rounds.map(({ serve, daemon }) => daemon[figure] / serve[figure])),
    ...(figure === "p50_us" ? { target: { of: "ratio", limit: P50_LIMIT } } : {}),
  });
}
