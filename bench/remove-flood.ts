/**
 * A VM that gives pages back and touches them again as fast as its threads can, and a quiet one on
 * the same fault worker: what the quiet one feels of it.
 */
import assert from "node:assert/strict";
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
import { Child } from "../src/kit/child.ts";
import { HandlerCommand, type HandlerTarget } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import { memoryKib } from "./support/proc.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const FLOOD_THREADS = 4;
/** Between two faults of the quiet VM. */
const PAUSE_US = 500;
const QUIET_PATIENCE_MS = 10_000;

interface Round {
  readonly alone: FaultTimes;
  readonly flooded: FaultTimes;
  readonly removesPerSecond: number;
  readonly rssAnonKib: number;
}

export async function removeFlood(run: PromiseRun): Promise<Report> {
  const cpus = choosePinnedCpus();
  const rounds = run.scaled(9, 2);
  const target: HandlerTarget = {
    socketPath: run.newPath("sock"),
    memoryPath: run.randomFile(run.scaled(16, 4) * MIB),
  };
  const { memoryPath } = target;
  const faults = run.scaled(2000, 100);
  const cpu = cpus.guest;
  const plan: GuestPlan = { memoryPath, faults, order: "random", pauseUs: PAUSE_US, cpu };
  const flood = floodCommand(run, target, cpu, run.scaled(3000, 200));
  const command = HandlerCommand.ofServe(["--workers", "1"]);
  const pinned = ["taskset", "-c", String(cpus.handler)];
  await using serve = await HandlerProcess.start(command, target, pinned);
  const quiet = async (): Promise<FaultTimes> => await timeFaults(run, serve, plan);
  await quiet();
  const all: Round[] = [];
  for (let index = 0; index < rounds; index++) {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const alone = await quiet();
    await using flooding = new Child(flood);
    assert.equal(await flooding.line(), "flooding");
    const startMs = performance.now();
    const flooded = await quiet();
    const rssAnonKib = memoryKib(serve.pid).rssAnon;
    const { removes, wrong } = await flooding.answer<{ removes: number; wrong: number }>();
    assert.equal(wrong, 0, "pages were wrong");
    await flooding.finish();
    const seconds = (performance.now() - startMs) / 1000;
    all.push({ alone, flooded, removesPerSecond: removes / seconds, rssAnonKib });
  }
  const sizes = all.map((each) => each.rssAnonKib);
  return {
    bench: "remove-flood",
    method:
      `${rounds} rounds: a VM that faults every ${PAUSE_US} µs, ${faults} times, alone and beside` +
      ` one with ${FLOOD_THREADS} threads that only give pages back and touch them again, on the ` +
      `same fault worker. Both guests on CPU ${cpus.guest}, serve on CPU ` +
      `${cpus.handler}; medians, ratios per round. Every page of both was right.`,
    sides: ["alone", "beside it"],
    commands: [
      serve.commandLine,
      flood.join(" "),
      faulterCommand(run, target.socketPath, plan).join(" "),
    ],
    measures: [
      compare(all, "p50_us"),
      compare(all, "p99_us"),
      measure("pages given back", "per s", median(all.map((each) => each.removesPerSecond))),
      measure("RssAnon, last round over first", "KiB", sizes.at(-1)! - sizes[0]!),
    ],
    samples: all.map(({ alone, flooded, removesPerSecond, rssAnonKib }) => ({
      "alone p50": alone.p50_us,
      "alone p99": alone.p99_us,
      "beside p50": flooded.p50_us,
      "beside p99": flooded.p99_us,
      "removes/s": removesPerSecond,
      rssAnonKib,
    })),
  };
}

function floodCommand(
  run: PromiseRun,
  { socketPath, memoryPath }: HandlerTarget,
  cpu: number,
  milliseconds: number,
): string[] {
  const what = [run.peerProgram("flood"), socketPath, memoryPath];
  const how = [milliseconds, FLOOD_THREADS, 1].map(String);
  return ["taskset", "--cpu-list", String(cpu), ...what, ...how];
}

function compare(rounds: readonly Round[], figure: "p50_us" | "p99_us"): Measure {
  return measure(figure.slice(0, 3), "µs", median(rounds.map(({ flooded }) => flooded[figure])), {
    reference: median(rounds.map(({ alone }) => alone[figure])),
    ratio: median(rounds.map(({ alone, flooded }) => flooded[figure] / alone[figure])),
  });
}
