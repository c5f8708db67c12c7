/**
 * What it costs to know what a VM writes (`serve --track-dirty`): faults with and without, first
 * writes to pages that are there, and an image of a paused VM of which one page in a hundred is
 * dirty, packed from its process.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
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
import type { PackReport } from "../src/image/pack.ts";
import { HandlerCommand } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import { builtRoot } from "../src/kit/paths.ts";
import { Dirtier } from "../test/support/dirtier.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const QUIET_PATIENCE_MS = 10_000;
/** Bytes read of the process, over the bytes that changed. */
const READ_LIMIT = 1.1;
const DIRTY_SHARE = 100;
const PAGE_BYTES = 4096;

interface AccessTimes {
  readonly p50_us: number;
  readonly p99_us: number;
}

interface Round {
  readonly plain: FaultTimes;
  readonly tracked: FaultTimes;
  /** First writes to pages that were installed for reading. */
  readonly writes: AccessTimes;
  /** The same without tracking: the kernel alone. */
  readonly plainWrites: AccessTimes;
}

interface DiffPack {
  readonly report: PackReport & { readonly seconds: number };
  readonly dirtyPages: number;
  /** The whole memory file, packed over the same parent. */
  readonly wholeSeconds: number;
}

export async function dirty(run: PromiseRun): Promise<Report> {
  const cpus = choosePinnedCpus();
  const sizeMib = run.scaled(256, 8);
  const memoryPath = run.randomFile(sizeMib * MIB);
  const folder = run.newPath("sessions");
  mkdirSync(folder);
  const faults = (sizeMib * MIB) / PAGE_BYTES;
  const plan: GuestPlan = { memoryPath, faults, order: "random", cpu: cpus.guest };
  const start = async (flags: readonly string[]): Promise<HandlerProcess> => {
    const target = { socketPath: run.newPath("sock"), memoryPath };
    const pinned = ["taskset", "-c", String(cpus.handler)];
    return await HandlerProcess.start(
      HandlerCommand.ofServe(["--spin", "off", ...flags]),
      target,
      pinned,
    );
  };
  await using plain = await start([]);
  await using tracked = await start(["--track-dirty", folder]);
  for (const handler of [plain, tracked]) await timeFaults(run, handler, plan);
  const rounds: Round[] = [];
  for (let index = 0; index < run.scaled(11, 2); index++) {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const isPlainFirst = index % 2 === 0;
    const first = await timeFaults(run, isPlainFirst ? plain : tracked, plan);
    const second = await timeFaults(run, isPlainFirst ? tracked : plain, plan);
    const [ofPlain, ofTracked] = isPlainFirst ? [first, second] : [second, first];
    const writes = await timeWrites(tracked, faults, index);
    const plainWrites = await timeWrites(plain, faults, index);
    rounds.push({ plain: ofPlain, tracked: ofTracked, writes, plainWrites });
  }
  const packs: DiffPack[] = [];
  for (let index = 0; index < run.scaled(5, 1); index++) {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    packs.push(await packPaused(run, memoryPath, folder, index));
  }
  return reportOf(rounds, packs, sizeMib, [
    plain.commandLine,
    tracked.commandLine,
    faulterCommand(run, tracked.target.socketPath, plan).join(" "),
    "faultline image pack --from-session PID.session --parent web --name NAME --store STORE",
  ]);
}

/** Reads all of a VM's memory, then writes to each page once, in random order. */
async function timeWrites(
  handler: HandlerProcess,
  pages: number,
  seed: number,
): Promise<AccessTimes> {
  await using vm = await Dirtier.start(handler.target.socketPath, handler.target.memoryPath);
  await vm.order(`read 0 ${pages}`);
  return await vm.order<AccessTimes>(`time write ${pages} ${seed}`);
}

/** A VM restored from an image reads all, writes to 1 % at random, and is packed while it rests. */
async function packPaused(
  run: PromiseRun,
  memoryPath: string,
  folder: string,
  seed: number,
): Promise<DiffPack> {
  // A store for each way to the image, or the second would find the chunks of the first.
  const [store, wholeStore] = [run.newPath("store"), run.newPath("store")];
  for (const each of [store, wholeStore]) packImage(memoryPath, each, "web");
  const target = { socketPath: run.newPath("sock"), memoryPath: `dir:${store}/web` };
  const flags = ["--track-dirty", folder];
  await using serve = await HandlerProcess.start(HandlerCommand.ofServe(flags), target);
  await using vm = await Dirtier.start(serve.target.socketPath, memoryPath);
  const pages = run.scaled(256, 8) * (MIB / PAGE_BYTES);
  const dirtyPages = Math.floor(pages / DIRTY_SHARE);
  await vm.order(`read 0 ${pages}`);
  await vm.order(`time write ${dirtyPages} ${seed}`);
  const dump = run.newPath("dump");
  await vm.pause();
  const session = join(folder, `${vm.pid}.session`);
  const report = packWith(["--from-session", session], store, "live");
  vm.resume();
  await vm.order(`dump ${dump}`);
  // The other way to the same image: the VMM writes all of its memory, and all of it is packed.
  const whole = packWith([dump], wholeStore, "live");
  const [index, wholeIndex] = [store, wholeStore].map((each) => readFileSync(`${each}/live.caibx`));
  assert.ok(index!.equals(wholeIndex!), "the images differ");
  for (const path of [dump, store, wholeStore]) rmSync(path, { recursive: true });
  return { report, dirtyPages, wholeSeconds: whole.seconds };
}

function packWith(what: readonly string[], store: string, name: string): DiffPack["report"] {
  const main = join(builtRoot, "src", "cli", "main.js");
  const args = ["image", "pack", ...what, "--parent", "web", "--name", name, "--store", store];
  const out = execFileSync(process.execPath, [main, ...args, "--json"], {
    stdio: ["ignore", "pipe", "pipe"],
    encoding: "utf8",
  });
  return JSON.parse(out) as DiffPack["report"];
}

function reportOf(
  rounds: readonly Round[],
  packs: readonly DiffPack[],
  sizeMib: number,
  commands: readonly string[],
): Report {
  const dirtyMib = median(packs.map(({ dirtyPages }) => (dirtyPages * PAGE_BYTES) / MIB));
  const readMib = median(packs.map(({ report }) => report.session!.processBytes / MIB));
  const seconds = (of: (pack: DiffPack) => number): number => median(packs.map(of)) * 1000;
  return {
    bench: "dirty",
    method:
      `${rounds.length} rounds, each side first in turns: a VM faults each page of ${sizeMib} ` +
      "MiB once, at random; another reads all, then writes to each page once, at random (without " +
      "tracking no handler is asked for that). On two CPUs, without spinning; medians, and " +
      `medians of the rounds' ratios. Then VMs restored from an image (${packs.length}, one ` +
      "after the other) read all, write to 1 % of their pages at random, and are packed while " +
      "they are paused; beside it, the time of packing the whole memory file, which the VMM had " +
      "to write first. Both images had the same chunks.",
    sides: ["untracked", "tracked"],
    commands,
    measures: [
      compare("fault, p50", rounds, ({ plain, tracked }) => [plain.p50_us, tracked.p50_us]),
      compare("fault, p99", rounds, ({ plain, tracked }) => [plain.p99_us, tracked.p99_us]),
      compare("first write, p50", rounds, (each) => [each.plainWrites.p50_us, each.writes.p50_us]),
      compare("first write, p99", rounds, (each) => [each.plainWrites.p99_us, each.writes.p99_us]),
      measure("read of the process (left: dirty)", "MiB", readMib, {
        reference: dirtyMib,
        target: { of: "ratio", limit: READ_LIMIT },
      }),
      measure(
        "image of 1 % dirty (left: whole)",
        "ms",
        seconds(({ report }) => report.seconds),
        { reference: seconds(({ wholeSeconds }) => wholeSeconds) },
      ),
    ],
    samples: [
      ...rounds.map(({ plain, tracked, writes }) => ({
        "untracked p50": plain.p50_us,
        "tracked p50": tracked.p50_us,
        "write p50": writes.p50_us,
        "write p99": writes.p99_us,
      })),
      ...packs.map(({ report, wholeSeconds }) => ({
        processBytes: report.session!.processBytes,
        dirtyBytes: report.session!.dirtyBytes,
        seconds: report.seconds,
        wholeSeconds,
      })),
    ],
  };
}

function compare(
  name: string,
  rounds: readonly Round[],
  pair: (round: Round) => readonly [plain: number, tracked: number],
): Measure {
  const pairs = rounds.map(pair);
  return measure(name, "µs", median(pairs.map(([, tracked]) => tracked)), {
    reference: median(pairs.map(([plain]) => plain)),
    ratio: median(pairs.map(([plain, tracked]) => tracked / plain)),
  });
}
