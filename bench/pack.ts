/**
 * Packing and extracting an image, against casync on the same file with the same digest and chunks
 * of the same size on average, in turns. casync has one thread: so it is when one installs it.
 */
import { execFileSync, spawnSync } from "node:child_process";
import {
  closeSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { builtRoot } from "../src/kit/paths.ts";
import { LinuxGuest } from "../test/support/linux-guest-machine.ts";
import { whyNoLinuxGuest } from "../test/support/linux-guest-parts.ts";
import { writeMemoryLike } from "./support/memory-like.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const CHUNK_BYTES = 256 * 1024;
/** USER_HZ, the same on every Linux that we run on. */
const TICKS_PER_SECOND = 100;
const PACK_RATIO = 1 / 3;
const EXTRACT_RATIO = 1 / 1.5;
/** 5 GB/s. */
const ZERO_MS_PER_GIB = 2 ** 30 / 5e6;

interface Time {
  readonly wallMs: number;
  /** Until all that it wrote is on the disk: casync leaves that to the kernel. */
  readonly onDiskMs: number;
  /** Of all its threads, user and system. */
  readonly cpuMs: number;
}

type Round = Readonly<Record<keyof Sides, Time>>;

interface Sides {
  readonly pack: readonly string[];
  readonly extract: readonly string[];
  readonly casyncMake: readonly string[];
  readonly casyncExtract: readonly string[];
}

export async function pack(workspace: PromiseRun): Promise<Report> {
  const hasCasync = spawnSync("casync", ["--version"]).status === 0;
  const memory = workspace.newPath("mem");
  writeMemoryLike(memory, workspace.scaled(512, 16) * MIB);
  const folder = workspace.newPath("pack");
  mkdirSync(folder);
  const measureRounds = (path: string, name: string): Round[] =>
    Array.from({ length: workspace.scaled(5, 1) }, (_, round) =>
      runRound(path, join(folder, `${name}-${round}`), hasCasync),
    );
  const rounds = measureRounds(memory, "like");
  const guestMemory = await memoryOfGuest(workspace);
  const guestRounds = guestMemory === null ? [] : measureRounds(guestMemory, "guest");
  const zeroMs = zeroMsPerGib(workspace, folder);
  return {
    bench: "pack",
    method:
      `Medians of ${rounds.length} rounds, the sides in turns, each a whole process into an ` +
      "empty store, the file in the page cache: 512 MiB like a guest's memory, some 60 % of it " +
      "not zero, and the 256 MiB of a Debian guest with a warm service; ratios are medians of " +
      "the rounds' ratios. CPU: user and system time of all threads. Zeroes: a file of " +
      "written zeroes, less the time for " +
      "one of holes.",
    commands: Object.values(commands(memory, folder))
      .filter(([program]) => hasCasync || program !== "casync")
      .map((argv) => argv.join(" ")),
    measures: [
      ...compared("pack", rounds, "pack", "casyncMake", hasCasync, PACK_RATIO),
      ...compared("extract", rounds, "extract", "casyncExtract", hasCasync, EXTRACT_RATIO),
      ...(guestRounds.length === 0
        ? []
        : [
            ...compared("guest's pack", guestRounds, "pack", "casyncMake", hasCasync, PACK_RATIO),
            ...compared(
              ...(["guest's extract", guestRounds, "extract", "casyncExtract"] as const),
              hasCasync,
              EXTRACT_RATIO,
            ),
          ]),
      measure("pack of 1 GiB of zeroes", "ms", zeroMs, {
        target: { of: "ours", limit: Math.round(ZERO_MS_PER_GIB) },
      }),
    ],
    samples: rounds.map(({ pack: ours, casyncMake, extract, casyncExtract }) => ({
      packMs: ours.wallMs,
      casyncMakeMs: casyncMake.wallMs,
      extractMs: extract.wallMs,
      casyncExtractMs: casyncExtract.wallMs,
    })),
  };
}

/** A real guest's, 256 MiB, most of them written; null where there is none. */
async function memoryOfGuest(workspace: PromiseRun): Promise<string | null> {
  if (workspace.isSmoke || whyNoLinuxGuest() !== null) return null;
  const folder = workspace.newPath("guest");
  mkdirSync(folder);
  await using guest = await LinuxGuest.boot(folder, 1);
  return (await guest.snapshot(folder, 1)).memoryFile;
}

function commands(memory: string, folder: string): Sides {
  const faultline = [process.execPath, join(builtRoot, "src", "cli", "main.js"), "image"];
  const ours = join(folder, "ours");
  const theirs = join(folder, "theirs");
  return {
    pack: [...faultline, "pack", memory, "--name", "image", "--store", ours],
    extract: [...faultline, "extract", `dir:${ours}/image`, join(folder, "ours.mem")],
    casyncMake: [
      ...["casync", "make", "--digest=sha256", `--chunk-size=${CHUNK_BYTES}`],
      ...[join(theirs, "image.caibx"), memory],
    ],
    casyncExtract: ["casync", "extract", join(theirs, "image.caibx"), join(folder, "theirs.mem")],
  };
}

/** Nothing is removed between rounds: ext4 looks long for places that have just become free. */
function runRound(memory: string, folder: string, hasCasync: boolean): Round {
  const sides = commands(memory, folder);
  mkdirSync(join(folder, "theirs"), { recursive: true });
  const run = (argv: readonly string[]): Time => {
    if (!hasCasync && argv[0] === "casync") return { wallMs: 0, onDiskMs: 0, cpuMs: 0 };
    // What one side left to be written must not be the other's burden.
    execFileSync("sync", ["-f", folder]);
    return timeOf(argv, folder);
  };
  return {
    pack: run(sides.pack),
    casyncMake: run(sides.casyncMake),
    extract: run(sides.extract),
    casyncExtract: run(sides.casyncExtract),
  };
}

/** `folder`: on the file system that it writes to. */
function timeOf(argv: readonly string[], folder: string): Time {
  const startMs = performance.now();
  const startCpuMs = childrenCpuMs();
  execFileSync(argv[0]!, argv.slice(1), { stdio: ["ignore", "ignore", "inherit"] });
  const wallMs = performance.now() - startMs;
  const cpuMs = childrenCpuMs() - startCpuMs;
  execFileSync("sync", ["-f", folder]);
  return { wallMs, onDiskMs: performance.now() - startMs, cpuMs };
}

/** `cutime` and `cstime` of proc(5): what the children took that have ended. */
function childrenCpuMs(): number {
  const stat = readFileSync("/proc/self/stat", "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[13]) + Number(fields[14])) * (1000 / TICKS_PER_SECOND);
}

function compared(
  name: string,
  rounds: readonly Round[],
  ours: keyof Round,
  theirs: keyof Round,
  hasCasync: boolean,
  limit: number,
): Measure[] {
  const measureOf = (what: string, kind: keyof Time, ratioLimit?: number): Measure => {
    const of = (side: keyof Round): number => median(rounds.map((round) => round[side][kind]));
    if (!hasCasync) return measure(`${name}, ${what} (no casync)`, "ms", of(ours));
    const ratio = median(rounds.map((round) => round[ours][kind] / round[theirs][kind]));
    return measure(`${name}, ${what} (beside: casync)`, "ms", of(ours), {
      reference: of(theirs),
      ratio,
      ...(ratioLimit === undefined ? {} : { target: { of: "ratio", limit: ratioLimit } }),
    });
  };
  return [
    measureOf("time", "wallMs", Number(limit.toFixed(2))),
    measureOf("until on disk", "onDiskMs"),
    // What the machine's other work cannot blur.
    measureOf("CPU", "cpuMs"),
  ];
}

/** Both files take the same start; only one has anything to read. */
function zeroMsPerGib(workspace: PromiseRun, folder: string): number {
  const sizeBytes = workspace.scaled(2048, 16) * MIB;
  const packMs = (kind: "zeroes" | "holes"): number => {
    const memory = workspace.newPath("mem");
    const fd = openSync(memory, "wx");
    ftruncateSync(fd, sizeBytes);
    const zeroes = Buffer.alloc(MIB);
    for (let at = 0; kind === "zeroes" && at < sizeBytes; at += MIB) writeSync(fd, zeroes);
    closeSync(fd);
    const { pack: argv } = commands(memory, join(folder, kind));
    const store = join(folder, kind, "ours");
    const times = Array.from({ length: workspace.scaled(5, 1) }, () => {
      rmSync(store, { recursive: true, force: true });
      return timeOf(argv, folder).wallMs;
    });
    rmSync(memory);
    return median(times);
  };
  return ((packMs("zeroes") - packMs("holes")) * 2 ** 30) / sizeBytes;
}
