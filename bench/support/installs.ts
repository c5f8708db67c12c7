/**
 * Pages that are installed before the guest runs: the time until they are all there and touched,
 * beside the C handler's on demand; and the install alone, beside the bare kernel call.
 */
import { readFileSync } from "node:fs";
import { SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { choosePinnedCpus } from "../../src/bench/machine.ts";
import { awaitQuietMachine } from "../../src/bench/quiet.ts";
import { median } from "../../src/bench/statistics.ts";
import { MIB } from "../../src/bench/workspace.ts";
import { HandlerProcess } from "../../src/kit/handler-process.ts";
import { scatteredRuns, smallPages, writeRuns, writeWorkingSet } from "./known-pages.ts";
import {
  type AheadTimes,
  copyRuns,
  type KnownPlan,
  type KnownTimes,
  PrefaultingServe,
  restoreOnDemand,
  restorerCommand,
} from "./known-restore.ts";
import type { PromiseRun } from "./promise-run.ts";
import { type Measure, measure } from "./report.ts";

const ON_DEMAND_LIMIT = 0.05;
const COPY_LIMIT = 1.25;
/** Bytes per second three times as many. */
const HUGE_LIMIT = 0.333;
const RUN_PAGES = 8;
const SEED = 20_261_123;
const QUIET_PATIENCE_MS = 2000;
const HUGE_PAGE_BYTES = 2 * MIB;
const FREE_HUGE_PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

export interface Part {
  readonly method: string;
  readonly commands: readonly string[];
  readonly measures: readonly Measure[];
  readonly samples: readonly Readonly<Record<string, number | string>>[];
}

/** Runs of eight pages on average, all over the memory. */
export async function scatteredInstalls(run: PromiseRun): Promise<Part> {
  const cpus = choosePinnedCpus();
  const sizeBytes = run.scaled(1024, 64) * MIB;
  const pages = run.scaled(65_536, 1024);
  const memoryPath = run.randomFile(sizeBytes);
  const [runsPath, setPath] = [run.newPath("runs"), run.newPath("set")];
  const runs = scatteredRuns(smallPages(sizeBytes), pages, RUN_PAGES, SEED);
  writeRuns(runsPath, runs);
  writeWorkingSet(setPath, sizeBytes, runs);
  await using serve = await PrefaultingServe.start(run, {
    ...{ memoryPath, setPath, mode: "before-resume", sign: "stdout", cpu: cpus.handler },
  });
  const plan: KnownPlan = { memoryPath, runsPath, cpu: cpus.guest };
  const reference = run.referenceCommand();
  const onDemand = async (): Promise<KnownTimes> => {
    const target = { socketPath: run.newPath("sock"), memoryPath };
    const pinned = ["taskset", "-c", String(cpus.handler)];
    await using handler = await HandlerProcess.start(reference, target, pinned);
    return await restoreOnDemand(run, handler, plan);
  };
  const rounds: { demand: KnownTimes; ours: AheadTimes; copy: KnownTimes }[] = [];
  await serve.restore(run, plan);
  for (let round = 0; round < run.scaled(9, 1); round++) {
    const seeded = { ...plan, seed: round + 1 };
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const demand = await onDemand();
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const ours = await serve.restore(run, seeded);
    const copy = await copyRuns(run, { ...seeded, cpu: cpus.handler });
    rounds.push({ demand, ours, copy });
  }
  run.remove(memoryPath);
  const ours = rounds.map((each) => each.ours);
  return {
    method:
      `${rounds.length} rounds: ${pages} pages of 4 KiB in ${runs.length} runs over ` +
      `${sizeBytes / MIB} MiB, touched in a random order; on demand by the C handler, then with ` +
      "`--prefault before-resume`, where the guest waits for the line, then copied by a C loop.",
    commands: [
      serve.handler.commandLine,
      restorerCommand(run, serve.handler.target.socketPath, plan).join(" "),
      restorerCommand(run, "--copy", plan).join(" "),
    ],
    measures: [
      measure("all there and touched", "ms", median(ours.map((each) => each.total_ms)), {
        reference: median(rounds.map(({ demand }) => demand.total_ms)),
        ratio: median(rounds.map((each) => each.ours.total_ms / each.demand.total_ms)),
        target: { of: "ratio", limit: ON_DEMAND_LIMIT },
      }),
      measure("… after the C loop", "ms", median(ours.map((each) => each.total_ms)), {
        reference: median(rounds.map(({ copy }) => copy.total_ms)),
        ratio: median(rounds.map((each) => each.ours.total_ms / each.copy.total_ms)),
      }),
      ...installMeasures("runs of 8", rounds, true),
    ],
    samples: rounds.map((each) => sampleOf("scattered", each)),
  };
}

/** A whole memory, in steps of 2 MiB; in pages of 4 KiB, and of 2 MiB where there is a pool. */
export async function contiguousInstalls(run: PromiseRun): Promise<Part> {
  const sizeMib = run.scaled(256, 4);
  const small = await contiguousRounds(run, sizeMib, false);
  // Half of the pool: the pages of a guest that has just ended come back a moment later.
  const pooled = run.isSmoke ? 0 : Math.min(sizeMib, freeHugePages());
  const isPool = pooled >= 32;
  const huge = isPool ? await contiguousRounds(run, pooled, true) : null;
  const measures = [...installMeasures("contiguous", small.rounds, false)];
  if (huge !== null) {
    const perMib = (times: AheadTimes, pageBytes: number): number =>
      (times.ownMs * 1000) / ((times.prefaultedPages * pageBytes) / MIB);
    const ofSmall = small.rounds.map(({ ours }) => perMib(ours, SMALL_PAGE_BYTES));
    const ofHuge = huge.rounds.map(({ ours }) => perMib(ours, HUGE_PAGE_BYTES));
    measures.push(
      measure("1 MiB: 4 KiB pages, 2 MiB pages", "µs", median(ofHuge), {
        reference: median(ofSmall),
        target: { of: "ratio", limit: HUGE_LIMIT },
      }),
      ...installMeasures("2 MiB pages", huge.rounds, false),
    );
  }
  return {
    method:
      `Contiguous: ${small.rounds.length} rounds of ${sizeMib} MiB, in copies of 2 MiB. ` +
      (isPool
        ? `Pages of 2 MiB: ${pooled} MiB, half of the pool.`
        : "Pages of 2 MiB: not measured (a smoke run, or an empty pool)."),
    commands: [small.command],
    measures,
    samples: [...small.rounds, ...(huge?.rounds ?? [])].map((each) => sampleOf("contiguous", each)),
  };
}

function freeHugePages(): number {
  return Number(readFileSync(FREE_HUGE_PAGES, "utf8"));
}

interface CopyRound {
  readonly ours: AheadTimes;
  readonly copy: KnownTimes;
}

async function contiguousRounds(
  run: PromiseRun,
  sizeMib: number,
  isHuge: boolean,
): Promise<{ readonly rounds: readonly CopyRound[]; readonly command: string }> {
  const cpus = choosePinnedCpus();
  const sizeBytes = sizeMib * MIB;
  const memoryPath = run.randomFile(sizeBytes);
  const [runsPath, setPath] = [run.newPath("runs"), run.newPath("set")];
  const count = isHuge ? sizeBytes / HUGE_PAGE_BYTES : smallPages(sizeBytes);
  writeRuns(runsPath, [{ first: 0, count }]);
  writeWorkingSet(setPath, sizeBytes, [{ first: 0, count: smallPages(sizeBytes) }]);
  await using serve = await PrefaultingServe.start(run, {
    ...{ memoryPath, setPath, mode: "before-resume", sign: "stdout", cpu: cpus.handler },
  });
  const plan: KnownPlan = { memoryPath, runsPath, cpu: cpus.guest, isHuge };
  await serve.restore(run, plan);
  const rounds: CopyRound[] = [];
  for (let round = 0; round < run.scaled(15, 1); round++) {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const ours = await serve.restore(run, plan);
    const copy = await copyRuns(run, { ...plan, cpu: cpus.handler });
    rounds.push({ ours, copy });
  }
  run.remove(memoryPath);
  return { rounds, command: serve.handler.commandLine };
}

/** Beside the C loop; per page, as serve leaves a sample to demand. */
function installMeasures(name: string, rounds: readonly CopyRound[], withRest: boolean): Measure[] {
  const perPage = (choose: (times: AheadTimes) => number) => ({
    reference: median(rounds.map(({ copy }) => copy.installed_ms)),
    ratio: median(
      rounds.map(({ ours, copy }) => {
        const share = ours.prefaultedPages / copy.pages;
        return choose(ours) / (copy.installed_ms * share);
      }),
    ),
  });
  return [
    measure(`${name}, installed`, "ms", median(rounds.map(({ ours }) => ours.installed_ms)), {
      ...perPage((times) => times.installed_ms),
      target: { of: "ratio", limit: COPY_LIMIT },
    }),
    measure("… in the fault worker", "ms", median(rounds.map(({ ours }) => ours.ownMs)), {
      ...perPage((times) => times.ownMs),
    }),
    ...(withRest
      ? [
          measure(
            "… before and after it",
            "ms",
            median(rounds.map(({ ours }) => ours.installed_ms - ours.ownMs)),
          ),
        ]
      : []),
  ];
}

function sampleOf(part: string, round: CopyRound & { readonly demand?: KnownTimes }) {
  const { ours, copy, demand } = round;
  return {
    part,
    ...(demand === undefined ? {} : { "on demand ms": demand.total_ms }),
    "ours total ms": ours.total_ms,
    "ours installed ms": ours.installed_ms,
    "ours own ms": ours.ownMs,
    "ours pages": ours.prefaultedPages,
    "copy ms": copy.installed_ms,
    "copy pages": copy.pages,
  };
}
