/**
 * What it costs a fault that it is watched: the account of the restore, which is always kept, and a
 * trace of everything, which somebody records. The account cannot be switched off; what faults took
 * before there was one is measured on a build of an earlier revision, if `FAULTLINE_BASE` names its
 * checkout.
 */
import { join } from "node:path";
import type { FaultTimes, GuestPlan } from "../src/bench/guests.ts";
import { choosePinnedCpus } from "../src/bench/machine.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { Child } from "../src/kit/child.ts";
import { builtRoot } from "../src/kit/paths.ts";
import { BenchDaemon } from "./support/daemon.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const TRACE_LIMIT = 1.05;
const ACCOUNT_LIMIT = 1.02;
const QUIET_PATIENCE_MS = 10_000;
const FIGURES = ["p50_us", "p90_us", "p99_us"] as const;

interface Round {
  readonly plain: FaultTimes;
  readonly traced: FaultTimes;
  /** Null: there is no earlier build. */
  readonly before: FaultTimes | null;
}

interface Scene {
  readonly run: PromiseRun;
  readonly daemon: BenchDaemon;
  readonly base: BenchDaemon | null;
}

export async function watching(run: PromiseRun): Promise<Report> {
  const cpus = choosePinnedCpus();
  const sizeMib = run.scaled(128, 4);
  const memoryPath = run.randomFile(sizeMib * MIB);
  const faults = (sizeMib * MIB) / 4096;
  const prefix = ["taskset", "-c", String(cpus.handler)];
  await using daemon = await BenchDaemon.start(run, { memoryPath, prefix });
  const basePath = process.env.FAULTLINE_BASE;
  const builtAt = basePath === undefined ? null : join(basePath, "dist");
  await using base =
    builtAt === null ? null : await BenchDaemon.start(run, { memoryPath, prefix, builtAt });
  const scene: Scene = { run, daemon, base };
  const rounds: Round[] = [];
  // The first round does not count: code that has never run is slow.
  for (let index = 0; index <= run.scaled(15, 2); index++) {
    const plan: GuestPlan = { memoryPath, faults, order: "random", seed: index, cpu: cpus.guest };
    if (index > 0) await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const round = await playRound(scene, plan, index);
    if (index > 0) rounds.push(round);
  }
  return {
    bench: "watching",
    method:
      `${rounds.length} rounds of one VM each, in turns: ${faults} random single-page faults ` +
      `over ${sizeMib} MiB; the same with a trace that is recorded to a file meanwhile` +
      `${base === null ? "" : "; and on an earlier revision"}. Guest on CPU ${cpus.guest}, all ` +
      `processes of the daemon on CPU ${cpus.handler}. Ratios are medians of the rounds' ratios.`,
    sides: ["without", "with"],
    commands: [daemon.commandLine, ...(base === null ? [] : [base.commandLine])],
    measures: [
      ...FIGURES.map((figure) => compareTraced(rounds, figure)),
      ...(base === null ? [] : FIGURES.map((figure) => compareBefore(rounds, figure))),
    ],
    samples: rounds.map(({ plain, traced, before }) => ({
      plain: plain.p50_us,
      traced: traced.p50_us,
      ...(before === null ? {} : { before: before.p50_us }),
    })),
  };
}

/** Each side is the first in turn. */
async function playRound(scene: Scene, plan: GuestPlan, index: number): Promise<Round> {
  const { run, daemon, base } = scene;
  const sides = {
    plain: async () => await daemon.timeFaults(run, plan),
    traced: async () => await timeTraced(scene, plan, index),
    before: async () => (base === null ? null : await base.timeFaults(run, plan)),
  };
  const names = ["plain", "traced", "before"] as const;
  const times: Partial<Record<keyof Round, FaultTimes | null>> = {};
  for (let step = 0; step < names.length; step++) {
    const name = names[(index + step) % names.length]!;
    times[name] = await sides[name]();
  }
  return times as Round;
}

async function timeTraced(
  { run, daemon }: Scene,
  plan: GuestPlan,
  index: number,
): Promise<FaultTimes> {
  const id = `traced-${index}`;
  const main = join(builtRoot, "src", "cli", "main.js");
  let recorder: Child | null = null;
  try {
    return await daemon.timeFaults(run, plan, { id, trace: true }, () => {
      recorder = new Child([
        ...[process.execPath, main, "trace", "record", id, "--control", daemon.controlPath],
        ...["-o", run.newPath("fltrace")],
      ]);
    });
  } finally {
    await (recorder as Child | null)?.[Symbol.asyncDispose]();
  }
}

function compareTraced(rounds: readonly Round[], figure: (typeof FIGURES)[number]): Measure {
  return measure(`${figure.slice(0, 3)} with a trace`, "µs", ofAll(rounds, "traced", figure), {
    reference: ofAll(rounds, "plain", figure),
    ratio: median(rounds.map(({ plain, traced }) => traced[figure] / plain[figure])),
    ...(figure === "p50_us" ? { target: { of: "ratio", limit: TRACE_LIMIT } } : {}),
  });
}

function compareBefore(rounds: readonly Round[], figure: (typeof FIGURES)[number]): Measure {
  return measure(`${figure.slice(0, 3)} with the account`, "µs", ofAll(rounds, "plain", figure), {
    reference: ofAll(rounds, "before", figure),
    ratio: median(rounds.map(({ plain, before }) => plain[figure] / before![figure])),
    ...(figure === "p50_us" ? { target: { of: "ratio", limit: ACCOUNT_LIMIT } } : {}),
  });
}

function ofAll(
  rounds: readonly Round[],
  side: keyof Round,
  figure: (typeof FIGURES)[number],
): number {
  return median(rounds.map((round) => round[side]![figure]));
}
