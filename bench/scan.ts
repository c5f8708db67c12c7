/**
 * Threads that walk through memory page after page, against the C handler, which answers fault by
 * fault; and what looking for such threads costs a guest that has none.
 */
import {
  type FaultTimes,
  faulterCommand,
  type GuestPlan,
  timeFaults,
} from "../src/bench/guests.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { HandlerCommand } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const PAGE_BYTES = 4096;
const MANY_THREADS = 8;
const SCAN_LIMIT = 1 / 3;
const RANDOM_LIMIT = 1 / 0.98;

/** One run of each side. */
interface Pair {
  readonly reference: FaultTimes;
  readonly ours: FaultTimes;
}

export async function scan(run: PromiseRun): Promise<Report> {
  const sizeMib = run.scaled(256, 8);
  const memoryPath = run.randomFile(sizeMib * MIB);
  const faults = (sizeMib * MIB) / PAGE_BYTES;
  const rounds = run.scaled(11, 2);
  const start = async (command: HandlerCommand): Promise<HandlerProcess> =>
    await HandlerProcess.start(command, { socketPath: run.newPath("sock"), memoryPath });
  const time = async (handler: HandlerProcess, plan: GuestPlan): Promise<FaultTimes> =>
    await timeFaults(run, handler, plan);
  await using serve = await start(HandlerCommand.ofServe());
  await using plain = await start(HandlerCommand.ofServe(["--no-streams"]));
  /** The C handler serves one VM and ends. */
  const timeReference = async (plan: GuestPlan): Promise<FaultTimes> => {
    await using handler = await start(run.referenceCommand());
    return await time(handler, plan);
  };
  const compareAll = async (
    plan: GuestPlan,
    other: (plan: GuestPlan) => Promise<FaultTimes>,
  ): Promise<Pair[]> => {
    const pairs: Pair[] = [];
    for (let round = 0; round < rounds; round++) {
      const isOursFirst = round % 2 === 0;
      const first = isOursFirst ? await time(serve, plan) : await other(plan);
      const second = isOursFirst ? await other(plan) : await time(serve, plan);
      pairs.push(
        isOursFirst ? { ours: first, reference: second } : { reference: first, ours: second },
      );
    }
    return pairs;
  };
  const inOrder: GuestPlan = { memoryPath, faults, order: "sequential" };
  const random: GuestPlan = { memoryPath, faults, order: "random" };
  await time(serve, inOrder);
  const one = await compareAll(inOrder, timeReference);
  const many = await compareAll({ ...inOrder, threads: MANY_THREADS }, timeReference);
  const unordered = await compareAll(random, async (plan) => await time(plain, plan));
  return {
    bench: "scan",
    method:
      `${rounds} rounds of each, in turns: ${faults} pages over ${sizeMib} MiB, each once; in ` +
      `order by 1 thread and by ${MANY_THREADS}, each in its own share, beside the C handler; ` +
      "and in random order by 1 thread, beside serve with --no-streams. Time per page. Medians; " +
      "ratios are medians of the rounds' ratios.",
    sides: ["beside it", "Faultline"],
    commands: [
      serve.commandLine,
      plain.commandLine,
      faulterCommand(run, serve.target.socketPath, inOrder).join(" "),
    ],
    measures: [
      perPage("in order, 1 thread", one, SCAN_LIMIT),
      perPage(`in order, ${MANY_THREADS} threads`, many, SCAN_LIMIT),
      perPage("random, beside --no-streams", unordered, RANDOM_LIMIT),
    ],
    samples: one.map(({ reference, ours }, round) => ({
      "C, 1 thread": reference.pages_per_s,
      "ours, 1 thread": ours.pages_per_s,
      "C, 8 threads": many[round]!.reference.pages_per_s,
      "ours, 8 threads": many[round]!.ours.pages_per_s,
      "random, --no-streams": unordered[round]!.reference.pages_per_s,
      "random, ours": unordered[round]!.ours.pages_per_s,
    })),
  };
}

function perPage(name: string, pairs: readonly Pair[], limit: number): Measure {
  const us = ({ pages_per_s }: FaultTimes): number => 1e6 / pages_per_s;
  return measure(name, "µs", median(pairs.map(({ ours }) => us(ours))), {
    reference: median(pairs.map(({ reference }) => us(reference))),
    ratio: median(pairs.map(({ ours, reference }) => us(ours) / us(reference))),
    target: { of: "ratio", limit: Number(limit.toFixed(2)) },
  });
}
