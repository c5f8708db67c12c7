/** What faults cost while something else is done about restores: prefaulting, and recording. */
import { type FaultTimes, type GuestPlan, timeFaults } from "../../src/bench/guests.ts";
import { choosePinnedCpus } from "../../src/bench/machine.ts";
import { awaitQuietMachine } from "../../src/bench/quiet.ts";
import { median } from "../../src/bench/statistics.ts";
import { MIB } from "../../src/bench/workspace.ts";
import { HandlerCommand } from "../../src/kit/handler-command.ts";
import { HandlerProcess } from "../../src/kit/handler-process.ts";
import type { Part } from "./installs.ts";
import { scatteredRuns, smallPages, writeRuns, writeWorkingSet } from "./known-pages.ts";
import {
  type AheadTimes,
  type KnownPlan,
  PrefaultingServe,
  restoreOnDemand,
} from "./known-restore.ts";
import type { PromiseRun } from "./promise-run.ts";
import { measure } from "./report.ts";

const BESIDE_LIMIT = 2;
const RECORDER_LIMIT = 1.02;
const QUIET_PATIENCE_MS = 2000;
const SEED = 20_261_124;

/** One guest that touches other pages than are installed ahead of it. */
export async function faultsBesidePrefault(run: PromiseRun): Promise<Part> {
  const cpus = choosePinnedCpus();
  const aheadBytes = run.scaled(1024, 8) * MIB;
  const otherBytes = run.scaled(256, 4) * MIB;
  const memoryPath = run.randomFile(aheadBytes + otherBytes);
  const [runsPath, setPath] = [run.newPath("runs"), run.newPath("set")];
  const ahead = smallPages(aheadBytes);
  const touched = run.scaled(16_384, 512);
  const singles = scatteredRuns(smallPages(otherBytes), touched, 1, SEED);
  writeRuns(
    runsPath,
    singles.map(({ first, count }) => ({ first: ahead + first, count })),
  );
  writeWorkingSet(setPath, aheadBytes + otherBytes, [{ first: 0, count: ahead }]);
  const start = async (mode: "off" | "concurrent"): Promise<PrefaultingServe> =>
    await PrefaultingServe.start(run, {
      ...{ memoryPath, setPath, mode, sign: "log", cpu: cpus.handler },
      // Else it would see that the guest demands something else, and stop.
      flags: ["--record-for", "0"],
    });
  await using without = await start("off");
  await using beside = await start("concurrent");
  const plan: KnownPlan = { memoryPath, runsPath, cpu: cpus.guest };
  const rounds: { readonly alone: AlonePart; readonly both: AheadTimes }[] = [];
  for (let round = 0; round <= run.scaled(15, 1); round++) {
    const seeded = { ...plan, seed: round + 1 };
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const alone = await restoreOnDemand(run, without.handler, seeded);
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const both = await beside.restore(run, seeded, true);
    // The first one warms up.
    if (round > 0) rounds.push({ alone, both });
  }
  run.remove(memoryPath);
  const compare = (figure: "p50_us" | "p99_us") => ({
    reference: median(rounds.map(({ alone }) => alone[figure])),
    ratio: median(rounds.map(({ alone, both }) => both[figure] / alone[figure])),
  });
  return {
    method:
      `Beside it: ${rounds.length} rounds of one thread that touches ${touched} other pages, ` +
      `random, while ${aheadBytes / MIB} MiB are installed with \`--prefault concurrent\`; ` +
      "faults after its end do not count; beside the same with `--prefault off`.",
    commands: [without.handler.commandLine, beside.handler.commandLine],
    measures: [
      measure("fault beside it, p50", "µs", median(rounds.map(({ both }) => both.p50_us)), {
        ...compare("p50_us"),
      }),
      measure("fault beside it, p99", "µs", median(rounds.map(({ both }) => both.p99_us)), {
        ...compare("p99_us"),
        target: { of: "ratio", limit: BESIDE_LIMIT },
      }),
      measure("… faults that count", "times", median(rounds.map(({ both }) => both.counted)), {
        reference: touched,
      }),
      measure("… it took", "ms", median(rounds.map(({ both }) => both.installed_ms))),
    ],
    samples: rounds.map(({ alone, both }) => ({
      part: "beside",
      "alone p50": alone.p50_us,
      "alone p99": alone.p99_us,
      "beside p50": both.p50_us,
      "beside p99": both.p99_us,
      counted: both.counted,
      "took ms": both.installed_ms,
    })),
  };
}

type AlonePart = Pick<AheadTimes, "p50_us" | "p99_us">;

/** The same faults, noted and not noted. */
export async function recorderFaults(run: PromiseRun): Promise<Part> {
  const cpus = choosePinnedCpus();
  const sizeMib = run.scaled(256, 8);
  const memoryPath = run.randomFile(sizeMib * MIB);
  const faults = run.scaled(16_384, 512);
  const plan: GuestPlan = { memoryPath, faults, order: "random", cpu: cpus.guest };
  const start = async (flags: readonly string[]): Promise<HandlerProcess> => {
    const target = { socketPath: run.newPath("sock"), memoryPath };
    const restore = ["--prefault", "off", "--working-set", run.newPath("set")];
    const command = HandlerCommand.ofServe([...restore, ...flags]);
    return await HandlerProcess.start(command, target, ["taskset", "-c", String(cpus.handler)]);
  };
  await using off = await start(["--record-for", "0"]);
  await using on = await start([]);
  const rounds: { readonly off: FaultTimes; readonly on: FaultTimes }[] = [];
  for (let round = 0; round <= run.scaled(61, 1); round++) {
    const seeded = { ...plan, seed: round + 1 };
    await awaitQuietMachine(run.scaled(500, 1));
    const first = await timeFaults(run, round % 2 === 0 ? off : on, seeded);
    await awaitQuietMachine(run.scaled(500, 1));
    const second = await timeFaults(run, round % 2 === 0 ? on : off, seeded);
    const both = round % 2 === 0 ? { off: first, on: second } : { off: second, on: first };
    if (round > 0) rounds.push(both);
  }
  run.remove(memoryPath);
  return {
    method:
      `Recorder: ${rounds.length} rounds of ${faults} random faults over ${sizeMib} MiB, with ` +
      "`--record-for 0` and without, in turns.",
    commands: [off.commandLine, on.commandLine],
    measures: [
      measure("fault, recorded, p50", "µs", median(rounds.map((each) => each.on.p50_us)), {
        reference: median(rounds.map((each) => each.off.p50_us)),
        ratio: median(rounds.map((each) => each.on.p50_us / each.off.p50_us)),
        target: { of: "ratio", limit: RECORDER_LIMIT },
      }),
    ],
    samples: rounds.map((each) => ({
      part: "recorder",
      "off p50": each.off.p50_us,
      "on p50": each.on.p50_us,
      "off p99": each.off.p99_us,
      "on p99": each.on.p99_us,
    })),
  };
}
