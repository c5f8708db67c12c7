/**
 * A VM that gives pages back and touches them again as fast as its threads can, and a quiet one on
 * the same fault worker: what the quiet one feels of it.
 */
import assert from "node:assert/strict";
import { Child } from "../src/kit/child.ts";
import { type FaultTimes, faulterCommand, timeFaults } from "./support/guests.ts";
import { type ServeOptions, startServe } from "./support/handlers.ts";
import { choosePinnedCpus } from "./support/machine.ts";
import { median } from "./support/numbers.ts";
import { memoryKib } from "./support/proc.ts";
import { awaitQuietMachine } from "./support/quiet.ts";
import { type Measure, measure, type Report } from "./support/report.ts";
import { MIB, type Workspace } from "./support/workspace.ts";

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

export async function removeFlood(workspace: Workspace): Promise<Report> {
  const cpus = choosePinnedCpus();
  const rounds = workspace.scaled(9, 2);
  const faults = workspace.scaled(2000, 100);
  const options: ServeOptions = {
    socketPath: workspace.newPath("sock"),
    memoryPath: workspace.randomFile(workspace.scaled(16, 4) * MIB),
    cpu: cpus.handler,
    flags: ["--workers", "1"],
  };
  const guest = { ...options, cpu: cpus.guest };
  const flood = floodCommand(workspace, options, cpus.guest, workspace.scaled(3000, 200));
  await using serve = (await startServe(options)).child;
  const quiet = async (): Promise<FaultTimes> =>
    await timeFaults(workspace, guest, faults, PAUSE_US);
  await quiet();
  const all: Round[] = [];
  for (let index = 0; index < rounds; index++) {
    await awaitQuietMachine(workspace.scaled(QUIET_PATIENCE_MS, 1));
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
      serve.argv.join(" "),
      flood.join(" "),
      faulterCommand(workspace, guest, faults, PAUSE_US).join(" "),
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
  workspace: Workspace,
  { socketPath, memoryPath }: ServeOptions,
  cpu: number,
  milliseconds: number,
): string[] {
  const what = [workspace.programs.flood, socketPath, memoryPath];
  const how = [milliseconds, FLOOD_THREADS, 1].map(String);
  return ["taskset", "--cpu-list", String(cpu), ...what, ...how];
}

function compare(rounds: readonly Round[], figure: "p50_us" | "p99_us"): Measure {
  return measure(figure.slice(0, 3), "µs", median(rounds.map(({ flooded }) => flooded[figure])), {
    reference: median(rounds.map(({ alone }) => alone[figure])),
    ratio: median(rounds.map(({ alone, flooded }) => flooded[figure] / alone[figure])),
  });
}
