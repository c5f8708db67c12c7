/**
 * `npm run sim -- --seeds N --steps M`: the real planner and page table in virtual worlds, on all
 * CPUs. A failure is printed with its seed, made as short as it gets, with the end of its trace and
 * the command that replays it. docs/TESTING.md has more.
 */
import { ExitCode, FaultlineError } from "../src/base/errors.ts";
import type { Demands } from "../src/sim/passage.ts";
import type { ShortFailure } from "../src/sim/shrink.ts";
import { stages } from "../src/sim/stage.ts";
import { Tally } from "../src/sim/tally.ts";
import { readDemands } from "./sim-demands.ts";
import { type Finding, SimFleet } from "./sim-fleet.ts";
import { parseSimOptions, type SimOptions, usage } from "./sim-options.ts";
import { printSummary, type SimSummary } from "./sim-report.ts";

const EXIT_INTERRUPTED = 130;
const PROGRESS_EVERY_MS = 200;

interface SimResult {
  readonly doneSeeds: number;
  readonly tally: Tally;
  readonly finding: Finding | null;
  readonly isInterrupted: boolean;
}

async function main(): Promise<number> {
  const options = parseSimOptions(process.argv.slice(2));
  if (options.wantsHelp) {
    console.log(usage);
    return ExitCode.ok;
  }
  const demands = options.demandsPath === null ? null : readDemands(options.demandsPath);
  const startMs = performance.now();
  const isOne = options.seedCount === 1;
  const result = isOne ? runOne(options, demands) : await runMany(options, demands);
  const durationSeconds = (performance.now() - startMs) / 1000;
  const { doneSeeds, tally, finding, isInterrupted } = result;
  const failure = finding === null ? null : shorten(options, demands, finding);
  const summary: SimSummary = {
    fromSeed: options.fromSeed,
    seeds: doneSeeds,
    steps: options.steps,
    isInterrupted,
    durationSeconds,
    seedsPerSecond: doneSeeds / durationSeconds,
    seen: tally.toJSON(),
    failure: failure === null ? null : { ...failure, replay: replayOf(options, failure) },
  };
  if (options.asJson) console.log(JSON.stringify(summary, null, 2));
  else printSummary(summary, stages[options.stage].sights);
  if (failure !== null) return ExitCode.failed;
  return isInterrupted ? EXIT_INTERRUPTED : ExitCode.ok;
}

/** One world, in this thread. */
function runOne(options: SimOptions, demands: Demands | null): SimResult {
  const tally = new Tally();
  const { fromSeed: seed, steps, without, mutant } = options;
  const trace = options.hasTrace ? (line: string) => console.log(line) : null;
  const message = stages[options.stage].judge({
    ...{ seed, steps, without, mutant, demands, tally, trace },
  });
  const finding = message === null ? null : { seed, message, hasEnd: true };
  return { doneSeeds: 1, tally, finding, isInterrupted: false };
}

async function runMany(options: SimOptions, demands: Demands | null): Promise<SimResult> {
  let shownMs = 0;
  const fleet = new SimFleet(options, demands, () => {
    if (!process.stderr.isTTY || performance.now() - shownMs < PROGRESS_EVERY_MS) return;
    shownMs = performance.now();
    process.stderr.write(`\r${fleet.doneSeeds} of ${options.seedCount} seeds `);
  });
  let isInterrupted = false;
  const interrupt = (): void => {
    isInterrupted = true;
    fleet.stop();
  };
  process.once("SIGINT", interrupt);
  if (!options.asJson) {
    const { seedCount, steps, jobs } = options;
    process.stderr.write(`${seedCount} seeds, ${steps} steps each, on ${jobs} threads\n`);
  }
  await fleet.run();
  // What follows has no other thread to stop: there Ctrl-C ends the process itself.
  process.off("SIGINT", interrupt);
  if (process.stderr.isTTY) process.stderr.write("\r\x1b[K");
  const { doneSeeds, tally, failure: finding } = fleet;
  return { doneSeeds, tally, finding, isInterrupted };
}

/** The shortest form of what was found. A replay with its trace is short already. */
function shorten(
  options: SimOptions,
  demands: Demands | null,
  { seed, message, hasEnd }: Finding,
): ShortFailure {
  const { steps, without, mutant } = options;
  if (options.hasTrace || !hasEnd) return { seed, steps, without, message, trace: [] };
  if (!options.asJson) process.stderr.write(`seed ${seed}: ${message}\nMaking it shorter …\n`);
  return stages[options.stage].shrink({ seed, steps, without, mutant, demands });
}

function replayOf(options: SimOptions, { seed, steps, without }: ShortFailure): string {
  const words = ["npm run sim --", `--seed ${seed}`, `--steps ${steps}`];
  if (without.length > 0) words.push(`--without ${without.join(",")}`);
  if (options.demandsPath !== null) words.push(`--demands ${options.demandsPath}`);
  if (options.stage === "userfault") words.push("--userfault");
  if (options.mutant !== null) words.push(`--mutant ${options.mutant}`);
  return [...words, "--trace"].join(" ");
}

// A reader such as `head` may have seen enough of a trace.
process.stdout.on("error", () => process.exit(ExitCode.failed));
try {
  process.exitCode = await main();
} catch (error) {
  const isUsage = error instanceof FaultlineError;
  console.error(isUsage ? error.message : error);
  process.exitCode = isUsage ? ExitCode.usage : ExitCode.internal;
}
