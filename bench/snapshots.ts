/**
 * What ten snapshots of one running Linux guest take in a store, a minute between two of them. The
 * guest answers questions all the while, so that its memory changes as that of a service does.
 */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { MIB } from "../src/bench/workspace.ts";
import { Random } from "../test/support/fixtures.ts";
import { LinuxGuest } from "../test/support/linux-guest-machine.ts";
import { GuestOracle } from "../test/support/linux-guest-oracle.ts";
import { whyNoLinuxGuest } from "../test/support/linux-guest-parts.ts";
import { mixedQuestions, wrongAnswers } from "../test/support/linux-guest-questions.ts";
import { writeMemoryLike } from "./support/memory-like.ts";
import { packImage } from "./support/packed.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { measure, type Report } from "./support/report.ts";

const SEED = 7;
const PAUSE_MS = 60_000;
const QUESTIONS = 100;
const GROWTH_LIMIT = 1.5;

export async function snapshots(run: PromiseRun): Promise<Report> {
  const count = run.scaled(10, 2);
  const why = run.isSmoke ? "a smoke run" : whyNoLinuxGuest();
  const store = run.newPath("store");
  const sizes = why === null ? await ofGuest(run, store, count) : ofFile(run, store, count);
  return {
    bench: "snapshots",
    method:
      why === null
        ? `${count} snapshots of a running Debian guest of 256 MiB in QEMU, a minute between two; ` +
          `it answers ${QUESTIONS} questions in between. Chunks of 256 KiB; all files of the store.`
        : `The same file ${count} times (${why}).`,
    sides: ["the first", `all ${count}`],
    commands: ["faultline image pack MEMORY --name NAME --store STORE"],
    measures: [
      measure("size of the store", "MiB", sizes.at(-1)! / MIB, {
        reference: sizes[0]! / MIB,
        target: { of: "ratio", limit: GROWTH_LIMIT },
      }),
    ],
    samples: sizes.map((bytes) => ({ bytes })),
  };
}

/** The size of the store after each snapshot. */
async function ofGuest(run: PromiseRun, store: string, count: number): Promise<number[]> {
  const folder = run.newPath("guest");
  mkdirSync(folder);
  await using guest = await LinuxGuest.boot(folder, SEED);
  const oracle = new GuestOracle(SEED);
  const random = new Random(SEED);
  const sizes: number[] = [];
  while (sizes.length < count) {
    if (sizes.length > 0) await delay(PAUSE_MS);
    const wrong = await wrongAnswers(guest, mixedQuestions(oracle, random, QUESTIONS));
    assert.deepEqual(wrong, []);
    await guest.qmp.execute("stop");
    packImage(LinuxGuest.memoryFile(folder), store, `web-${sizes.length}`);
    await guest.qmp.execute("cont");
    sizes.push(folderBytes(store));
  }
  return sizes;
}

function ofFile(run: PromiseRun, store: string, count: number): number[] {
  const path = run.newPath("mem");
  writeMemoryLike(path, 4 * MIB);
  return Array.from({ length: count }, (_, index) => {
    packImage(path, store, `web-${index}`);
    return folderBytes(store);
  });
}

function folderBytes(folder: string): number {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .map((name) => statSync(join(folder, name)))
    .reduce((sum, each) => sum + (each.isFile() ? each.size : 0), 0);
}
