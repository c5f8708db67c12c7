/**
 * Faults on an image whose chunks are all in the cache, beside faults on the raw memory file: what
 * it costs to look a page up in the index and the arena.
 */
import {
  type FaultTimes,
  faulterCommand,
  type GuestPlan,
  timeFaults,
} from "../src/bench/guests.ts";
import { choosePinnedCpus } from "../src/bench/machine.ts";
import { packImage } from "../src/bench/packed.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { HandlerCommand } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const P50_LIMIT = 1.15;
const QUIET_PATIENCE_MS = 10_000;

interface Round {
  readonly file: FaultTimes;
  readonly image: FaultTimes;
}

export async function cachedImage(run: PromiseRun): Promise<Report> {
  const cpus = choosePinnedCpus();
  const sizeMib = run.scaled(256, 8);
  const memoryPath = run.randomFile(sizeMib * MIB);
  const store = run.newPath("store");
  const packCommand = packImage(memoryPath, store, "web");
  const faults = (sizeMib * MIB) / 4096;
  const plan: GuestPlan = { memoryPath, faults, order: "random", cpu: cpus.guest };
  const start = async (memory: string, flags: readonly string[]): Promise<HandlerProcess> => {
    const target = { socketPath: run.newPath("sock"), memoryPath: memory };
    const pinned = ["taskset", "-c", String(cpus.handler)];
    return await HandlerProcess.start(HandlerCommand.ofServe(flags), target, pinned);
  };
  await using file = await start(memoryPath, ["--spin", "off"]);
  await using image = await start(`dir:${store}/web`, [
    // Every page on demand, as from the file.
    ...["--spin", "off", "--cache-size", String(2 * sizeMib), "--working-set", "off"],
  ]);
  // The first VM fills the cache.
  for (const handler of [file, image]) await timeFaults(run, handler, plan);
  const rounds: Round[] = [];
  for (let index = 0; index < run.scaled(11, 2); index++) {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const isFileFirst = index % 2 === 0;
    const first = await timeFaults(run, isFileFirst ? file : image, plan);
    const second = await timeFaults(run, isFileFirst ? image : file, plan);
    rounds.push(isFileFirst ? { file: first, image: second } : { file: second, image: first });
  }
  return {
    bench: "cached-image",
    method:
      `${rounds.length} rounds of one VM on each side, in turns: ${faults} random single-page ` +
      `faults over ${sizeMib} MiB of random bytes, the image in chunks of 256 KiB, all in the ` +
      `cache. Guest on CPU ${cpus.guest}, serve on CPU ${cpus.handler}, without spinning. ` +
      "Medians; ratios are medians of the rounds' ratios.",
    sides: ["memory file", "image"],
    commands: [
      packCommand,
      file.commandLine,
      image.commandLine,
      faulterCommand(run, image.target.socketPath, plan).join(" "),
    ],
    measures: [compare(rounds, "p50_us"), compare(rounds, "p99_us")],
    samples: rounds.map(({ file: ofFile, image: ofImage }) => ({
      "file p50": ofFile.p50_us,
      "image p50": ofImage.p50_us,
      "file p99": ofFile.p99_us,
      "image p99": ofImage.p99_us,
    })),
  };
}

function compare(rounds: readonly Round[], figure: "p50_us" | "p99_us"): Measure {
  return measure(figure.slice(0, 3), "µs", median(rounds.map(({ image }) => image[figure])), {
    reference: median(rounds.map(({ file }) => file[figure])),
    ratio: median(rounds.map(({ file, image }) => image[figure] / file[figure])),
    ...(figure === "p50_us" ? { target: { of: "ratio", limit: P50_LIMIT } } : {}),
  });
}
