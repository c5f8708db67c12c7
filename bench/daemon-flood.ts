/**
 * One VM of a daemon whose threads do nothing but give pages back and touch them again, and others
 * on the same fault worker: what these feel of it.
 */
import assert from "node:assert/strict";
import { type FaultTimes, faulterCommand, type GuestPlan } from "../src/bench/guests.ts";
import { choosePinnedCpus } from "../src/bench/machine.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { Child } from "../src/kit/child.ts";
import { BenchDaemon } from "./support/daemon.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

/** Threads that flood. A VM has as many at once as it has vCPUs. */
const FLOODS = [4, 32] as const;
/** Until it is killed. */
const ENDLESS_MS = 0;
const P99_LIMIT = 2;
/** Of each of the others, which are as many VMs, between two faults. */
const PAUSE_US = 500;
const OTHERS = 3;
const QUIET_PATIENCE_MS = 10_000;

/** What each of the others measured. */
type Others = readonly FaultTimes[];

interface Round {
  readonly alone: Others;
  /** By the threads of the flood. */
  readonly flooded: ReadonlyMap<number, Others>;
}

interface Scene {
  readonly run: PromiseRun;
  readonly daemon: BenchDaemon;
  readonly plan: GuestPlan;
  readonly cpu: number;
}

export async function daemonFlood(run: PromiseRun): Promise<Report> {
  const cpus = choosePinnedCpus();
  const memoryPath = run.randomFile(run.scaled(16, 4) * MIB);
  const prefix = ["taskset", "-c", String(cpus.handler)];
  await using daemon = await BenchDaemon.start(run, {
    ...{ memoryPath, prefix },
    flags: ["--workers", "1"],
  });
  const faults = run.scaled(2000, 100);
  const cpu = cpus.guest;
  const plan: GuestPlan = { memoryPath, faults, order: "random", pauseUs: PAUSE_US, cpu };
  const scene: Scene = { run, daemon, plan, cpu };
  const rounds: Round[] = [];
  // The first round does not count: code that has never run is slow.
  for (let index = 0; index <= run.scaled(11, 1); index++) {
    if (index > 0) await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const alone = await others(scene);
    const flooded = new Map<number, Others>();
    for (const threads of FLOODS) flooded.set(threads, await othersInFlood(scene, threads));
    if (index > 0) rounds.push({ alone, flooded });
  }
  return {
    bench: "daemon-flood",
    method:
      `${rounds.length} rounds: ${OTHERS} VMs at once that fault every ${PAUSE_US} µs, ${faults} ` +
      "times each, without and beside a VM whose threads only give pages back and touch them " +
      `again, all at one fault worker. Guests on CPU ${cpu}, the flood at idle priority there; ` +
      `all processes of the daemon on CPU ${cpus.handler}; medians of the VMs and rounds, ratios ` +
      "per round. Every page of the VMs that were timed was right.",
    sides: ["without it", "in the flood"],
    commands: [
      daemon.commandLine,
      floodCommand(scene, "SOCKET", FLOODS[0]).join(" "),
      faulterCommand(run, "SOCKET", plan).join(" "),
    ],
    measures: FLOODS.flatMap((threads) => [
      compare(rounds, threads, "p50_us"),
      compare(rounds, threads, "p90_us"),
      compare(rounds, threads, "p99_us"),
    ]),
    samples: rounds.map(({ alone, flooded }) => ({
      "alone p50": middle(alone, "p50_us"),
      "alone p99": middle(alone, "p99_us"),
      ...Object.fromEntries(
        [...flooded].flatMap(([threads, times]) => [
          [`${threads} threads p50`, middle(times, "p50_us")],
          [`${threads} threads p99`, middle(times, "p99_us")],
        ]),
      ),
    })),
  };
}

async function others({ run, daemon, plan }: Scene): Promise<Others> {
  const vms = Array.from({ length: OTHERS }, async (_, index) =>
    daemon.timeFaults(run, { ...plan, seed: index + 1 }),
  );
  return await Promise.all(vms);
}

async function othersInFlood(scene: Scene, threads: number): Promise<Others> {
  const { daemon, plan } = scene;
  const { id, socketPath } = await daemon.client.createSession({ memory: plan.memoryPath });
  const times = await duringFlood(floodCommand(scene, socketPath, threads), () => others(scene));
  await daemon.hasEnded(id);
  return times;
}

async function duringFlood<T>(command: readonly string[], body: () => Promise<T>): Promise<T> {
  await using flood = new Child(command);
  assert.equal(await flood.line(), "flooding");
  return await body();
}

function floodCommand({ run, plan, cpu }: Scene, socketPath: string, threads: number): string[] {
  const what = [run.peerProgram("flood"), socketPath, plan.memoryPath];
  const how = [ENDLESS_MS, threads, 1].map(String);
  // The others share its CPU: they must not wait for that, but for the daemon alone.
  return ["taskset", "--cpu-list", String(cpu), "chrt", "--idle", "0", ...what, ...how];
}

type Figure = "p50_us" | "p90_us" | "p99_us";

function middle(times: Others, figure: Figure): number {
  return median(times.map((each) => each[figure]));
}

function compare(rounds: readonly Round[], threads: number, figure: Figure): Measure {
  const name = `${threads} threads, ${figure.slice(0, 3)}`;
  const alone = rounds.map((round) => middle(round.alone, figure));
  const flooded = rounds.map((round) => middle(round.flooded.get(threads)!, figure));
  return measure(name, "µs", median(flooded), {
    reference: median(alone),
    ratio: median(flooded.map((value, index) => value / alone[index]!)),
    ...(figure === "p99_us" ? { target: { of: "ratio", limit: P99_LIMIT } } : {}),
  });
}
