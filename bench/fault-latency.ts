/**
 * How long a guest waits for one page, against a C handler doing the same in the same minutes.
 *
 * Everything local and warm, one thread, one page per fault: what is left is the way from the
 * faulting thread to the handler and back, which is where a handler in JavaScript could lose.
 * The rounds of all contestants alternate, and so does their order; ratios are taken per round.
 */

import { type FaultTimes, faulterCommand, timeFaults } from "./support/guests.ts";
import {
  type HandlerOptions,
  referenceCommand,
  type ServeOptions,
  startReference,
  startServe,
} from "./support/handlers.ts";
import { choosePinnedCpus } from "./support/machine.ts";
import { median } from "./support/numbers.ts";
import { awaitQuietMachine } from "./support/quiet.ts";
import { type Measure, measure, type Report } from "./support/report.ts";
import { MIB, type Workspace } from "./support/workspace.ts";

const spins = ["off", "auto"] as const;
type Spin = (typeof spins)[number];
type Round = Readonly<Record<"reference" | Spin, FaultTimes>>;

const figures = ["p50_us", "p90_us", "p99_us"] as const;
type Figure = (typeof figures)[number];

/** Rounds wait this long for other programs to end; what runs after that is measured along. */
const QUIET_PATIENCE_MS = 30_000;

/** Promised ratios. The spinning worker needs no wake-up, so it has to be far ahead. */
const LIMITS: Readonly<Record<Spin, Partial<Record<Figure, number>>>> = {
  off: { p50_us: 1.1, p99_us: 1.1 },
  auto: { p50_us: 0.45, p99_us: 0.8 },
};

export async function faultLatency(workspace: Workspace): Promise<Report> {
  const cpus = choosePinnedCpus();
  const faults = workspace.scaled(16_000, 500);
  const rounds = workspace.scaled(11, 2);
  const memoryPath = workspace.randomFile(workspace.scaled(64, 4) * MIB);
  const newOptions = (): HandlerOptions => ({
    socketPath: workspace.newPath("sock"),
    memoryPath,
    cpu: cpus.handler,
  });
  const references = newOptions();
  const serves: Readonly<Record<Spin, ServeOptions>> = {
    off: { ...newOptions(), flags: ["--spin", "off"] },
    auto: { ...newOptions(), flags: ["--spin", "auto"] },
  };
  const guest = (options: HandlerOptions): HandlerOptions => ({ ...options, cpu: cpus.guest });
  await using off = (await startServe(serves.off)).child;
  await using auto = (await startServe(serves.auto)).child;

  const runReference = async (): Promise<FaultTimes> => {
    await using handler = (await startReference(workspace, references)).child;
    const times = await timeFaults(workspace, guest(references), faults);
    await handler.finish();
    return times;
  };
  const runServe = async (spin: Spin): Promise<FaultTimes> =>
    await timeFaults(workspace, guest(serves[spin]), faults);

  const cold = await oneRound(runReference, runServe, false);
  const patienceMs = workspace.scaled(QUIET_PATIENCE_MS, 1);
  const all: Round[] = [];
  for (let index = 0; index < rounds; index++) {
    await awaitQuietMachine(patienceMs);
    all.push(await oneRound(runReference, runServe, index % 2 === 0));
  }
  return {
    bench: "fault-latency",
    method:
      `${rounds} rounds of ${faults} faults, 4 KiB pages in random order from a page-cache-hot ` +
      `file; guest on CPU ${cpus.guest}, whole handler process on CPU ${cpus.handler}. Medians ` +
      "over the rounds, ratios per round. Cold: the first VM of a fresh process, before them.",
    commands: [
      referenceCommand(workspace, references).join(" "),
      off.argv.join(" "),
      auto.argv.join(" "),
      faulterCommand(workspace, guest(serves.off), faults).join(" "),
    ],
    measures: [
      ...spins.flatMap((spin) => figures.map((figure) => compare(all, spin, figure))),
      ...spins.map((spin) => compareCold(cold, spin)),
    ],
    samples: all.map(flatten),
  };
}

async function oneRound(
  runReference: () => Promise<FaultTimes>,
  runServe: (spin: Spin) => Promise<FaultTimes>,
  isReversed: boolean,
): Promise<Round> {
  if (isReversed) {
    const auto = await runServe("auto");
    const off = await runServe("off");
    return { auto, off, reference: await runReference() };
  }
  const reference = await runReference();
  const off = await runServe("off");
  return { reference, off, auto: await runServe("auto") };
}

function compare(rounds: readonly Round[], spin: Spin, figure: Figure): Measure {
  const limit = LIMITS[spin][figure];
  return measure(
    `spin ${spin}: ${figure.slice(0, 3)}`,
    "µs",
    median(rounds.map((round) => round[spin][figure])),
    {
      reference: median(rounds.map((round) => round.reference[figure])),
      ratio: median(rounds.map((round) => round[spin][figure] / round.reference[figure])),
      ...(limit === undefined ? {} : { target: { of: "ratio", limit } }),
    },
  );
}

function compareCold(cold: Round, spin: Spin): Measure {
  return measure(`spin ${spin}: cold p99`, "µs", cold[spin].p99_us, {
    reference: cold.reference.p99_us,
  });
}

function flatten(round: Round): Record<string, number> {
  const sides = ["reference", ...spins] as const;
  return Object.fromEntries(
    sides.flatMap((side) => figures.map((figure) => [`${side} ${figure}`, round[side][figure]])),
  );
}
