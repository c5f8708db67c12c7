/**
 * How soon a restored Linux guest answers: on demand, with what an earlier restore needed installed
 * ahead, with the set of a guest that needs other pages, and with all of its memory there already.
 */
import assert from "node:assert/strict";
import { copyFileSync, mkdirSync, rmSync } from "node:fs";
import { timeFaults } from "../src/bench/guests.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { type GuestSnapshot, LinuxGuest } from "../test/support/linux-guest-machine.ts";
import { GuestOracle } from "../test/support/linux-guest-oracle.ts";
import { whyNoLinuxGuest } from "../test/support/linux-guest-parts.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";
import {
  type AnswerTimes,
  type GuestRestore,
  restoreWatched,
  type WatchedAnswer,
  writeWrongSet,
} from "./support/watched-restore.ts";

const SEED = 7;
const STEPS = 200;
const FAULTS_LIMIT = 0.05;
const COPIED_LIMIT = 1.15;
const WRONG_LIMIT = 1.1;
const QUIET_PATIENCE_MS = 2000;

/** A guest as all sides restore it. */
interface Subject {
  readonly what: string;
  readonly memoryPath: string;
  readonly restore: GuestRestore;
  readonly restoreCopied: () => Promise<AnswerTimes>;
}

interface Round {
  readonly copied: AnswerTimes;
  readonly onDemand: WatchedAnswer;
  readonly concurrent: WatchedAnswer;
  readonly beforeResume: WatchedAnswer;
  readonly wrong: WatchedAnswer;
}

export async function restoreGuest(run: PromiseRun): Promise<Report> {
  const why = run.isSmoke ? "a smoke run" : whyNoLinuxGuest();
  const subject = why === null ? await linuxGuest(run) : standIn(run, why);
  const rounds = await restoreRounds(run, subject);
  return {
    bench: "restore-guest",
    method:
      `${rounds.length} rounds of ${subject.what}, each restore by a new serve process, its ` +
      "memory file in the page cache; in an order that changes. Recorded: with what one earlier " +
      "restore demanded until it had answered the same. Wrong: the same set half the " +
      "memory further on. Medians; ratios are medians of the rounds' ratios.",
    sides: ["beside it", "Faultline"],
    commands: [rounds[0]!.onDemand.command, rounds[0]!.concurrent.command],
    measures: [
      ...faultMeasures(rounds),
      ...(["answeredMs", "afterResumeMs"] as const).flatMap((figure) =>
        timeMeasures(rounds, figure),
      ),
    ],
    samples: rounds.flatMap((round) =>
      Object.entries(round).map(([side, answer]: [string, AnswerTimes | WatchedAnswer]) => ({
        side,
        "resumed ms": answer.resumedMs,
        "answered ms": answer.answeredMs,
        ...("faults" in answer ? { faults: answer.faults, ahead: answer.prefaultedPages } : {}),
      })),
    ),
  };
}

async function restoreRounds(run: PromiseRun, subject: Subject): Promise<Round[]> {
  const { memoryPath, restore } = subject;
  const [rightSet, wrongSet] = [run.newPath("set"), run.newPath("set")];
  await restoreWatched(
    run,
    { memoryPath, mode: "off", knownSet: null, setPath: rightSet },
    restore,
  );
  writeWrongSet(rightSet, wrongSet);
  const watched = async (
    mode: "off" | "before-resume" | "concurrent",
    knownSet: string | null,
  ): Promise<WatchedAnswer> => {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    return await restoreWatched(
      run,
      { memoryPath, mode, knownSet, setPath: run.newPath("set") },
      restore,
    );
  };
  const sides = {
    copied: async () => await subject.restoreCopied(),
    onDemand: async () => await watched("off", null),
    concurrent: async () => await watched("concurrent", rightSet),
    beforeResume: async () => await watched("before-resume", rightSet),
    wrong: async () => await watched("concurrent", wrongSet),
  };
  const rounds: Round[] = [];
  for (let index = 0; index < run.scaled(9, 1); index++) {
    const answers: [string, AnswerTimes][] = [];
    const names = Object.keys(sides) as (keyof typeof sides)[];
    for (let turn = 0; turn < names.length; turn++) {
      const name = names[(index + turn) % names.length]!;
      answers.push([name, await sides[name]()]);
    }
    rounds.push(Object.fromEntries(answers) as unknown as Round);
  }
  return rounds;
}

function faultMeasures(rounds: readonly Round[]): Measure[] {
  const compare = (name: string, side: "concurrent" | "beforeResume", isJudged: boolean): Measure =>
    measure(name, "times", median(rounds.map((round) => round[side].faults)), {
      reference: median(rounds.map(({ onDemand }) => onDemand.faults)),
      ratio: median(rounds.map((round) => round[side].faults / round.onDemand.faults)),
      ...(isJudged ? { target: { of: "ratio", limit: FAULTS_LIMIT } } : {}),
    });
  return [
    compare("faults: on demand, concurrent", "concurrent", true),
    compare("faults: on demand, before-resume", "beforeResume", true),
  ];
}

const figures = {
  answeredMs: { title: "answer", of: ({ answeredMs }: AnswerTimes) => answeredMs },
  afterResumeMs: {
    title: "answer after resume",
    of: ({ answeredMs, resumedMs }: AnswerTimes) => answeredMs - resumedMs,
  },
} as const;

function timeMeasures(rounds: readonly Round[], figure: keyof typeof figures): Measure[] {
  const { title, of } = figures[figure];
  const compare = (what: string, side: keyof Round, other: keyof Round, limit?: number): Measure =>
    measure(`${title}: ${what}`, "ms", median(rounds.map((round) => of(round[side]))), {
      reference: median(rounds.map((round) => of(round[other]))),
      ratio: median(rounds.map((round) => of(round[side]) / of(round[other]))),
      ...(limit === undefined || figure !== "answeredMs" ? {} : { target: { of: "ratio", limit } }),
    });
  return [
    compare("copied, on demand", "onDemand", "copied"),
    compare("copied, concurrent", "concurrent", "copied", COPIED_LIMIT),
    compare("copied, before-resume", "beforeResume", "copied", COPIED_LIMIT),
    compare("on demand, wrong set", "wrong", "onDemand", WRONG_LIMIT),
  ];
}

async function linuxGuest(run: PromiseRun): Promise<Subject> {
  const folder = run.newPath("guest");
  mkdirSync(folder);
  const snapshot = await takeSnapshot(folder);
  const right = new GuestOracle(SEED).chase(0, STEPS);
  const answerOf = async (restored: Promise<LinuxGuest>, startMs: number): Promise<AnswerTimes> => {
    await using guest = await restored;
    const resumedMs = performance.now() - startMs;
    assert.equal(await guest.ask(`chase 0 ${STEPS}`), right);
    return { resumedMs, answeredMs: performance.now() - startMs };
  };
  return {
    what:
      `a Debian guest of 256 MiB in QEMU, from QEMU's start to its answer to ` +
      `\`chase 0 ${STEPS}\`, which reads as many places of its memory`,
    memoryPath: snapshot.memoryFile,
    restore: async ({ target }, beforeResume) => {
      const startMs = performance.now();
      return await answerOf(LinuxGuest.restore(snapshot, target.socketPath, beforeResume), startMs);
    },
    restoreCopied: async () => {
      const copy = run.newPath("mem");
      copyFileSync(snapshot.memoryFile, copy);
      await awaitQuietMachine(QUIET_PATIENCE_MS);
      const startMs = performance.now();
      const times = await answerOf(LinuxGuest.restoreCopied(snapshot, copy), startMs);
      rmSync(copy);
      return times;
    },
  };
}

async function takeSnapshot(folder: string): Promise<GuestSnapshot> {
  await using guest = await LinuxGuest.boot(folder, SEED);
  return await guest.snapshot(folder, SEED);
}

/** A guest that only touches pages; `copied` is a mapping of the file. */
function standIn(run: PromiseRun, why: string): Subject {
  const memoryPath = run.randomFile(4 * MIB);
  const plan = { memoryPath, faults: 512, order: "random" } as const;
  return {
    what: `a stand-in that touches ${plan.faults} pages (no Linux guest: ${why})`,
    memoryPath,
    restore: async (handler, beforeResume) => {
      const startMs = performance.now();
      const touched = timeFaults(run, handler, plan);
      await Promise.all([touched, beforeResume()]);
      return { resumedMs: 0, answeredMs: performance.now() - startMs };
    },
    restoreCopied: async () => {
      const startMs = performance.now();
      await timeFaults(run, null, plan);
      return { resumedMs: 0, answeredMs: performance.now() - startMs };
    },
  };
}
