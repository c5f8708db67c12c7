/**
 * What ten snapshots of one running Linux guest take in a store, a minute between two of them. The
 * guest answers questions all the while, so that its memory changes as that of a service does.
 */
import assert from "node:assert/strict";
import { mkdirSync, readdirSync, statSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { packImage } from "../src/bench/packed.ts";
import { MIB } from "../src/bench/workspace.ts";
import { Random } from "../test/support/fixtures.ts";
import { LinuxGuest } from "../test/support/linux-guest-machine.ts";
import { GuestOracle } from "../test/support/linux-guest-oracle.ts";
import { whyNoLinuxGuest } from "../test/support/linux-guest-parts.ts";
import { mixedQuestions, wrongAnswers } from "../test/support/linux-guest-questions.ts";
import { writeMemoryLike } from "./support/memory-like.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { measure, type Report } from "./support/report.ts";

const SEED = 7;
const PAUSE_MS = 60_000;
const QUESTIONS = 100;
const GROWTH_LIMIT = 1.5;

const chunkSizes = ["256K", "64K"] as const;

export async function snapshots(run: PromiseRun): Promise<Report> {
  const count = run.scaled(10, 2);
  const why = run.isSmoke ? "a smoke run" : whyNoLinuxGuest();
  const stores = chunkSizes.map((chunkSize) => new GrowingStore(run.newPath("store"), chunkSize));
  if (why === null) await packGuest(run, stores, count);
  else packFile(run, stores, count);
  return {
    bench: "snapshots",
    method:
      why === null
        ? `${count} snapshots of a running Debian guest of 256 MiB in QEMU, a minute apart; ` +
          `it answers ${QUESTIONS} questions in between. All files of the store.`
        : `The same file ${count} times (${why}).`,
    sides: ["the first", `all ${count}`],
    commands: ["faultline image pack MEMORY --name NAME --store STORE --chunk-size SIZE"],
    measures: stores.map(({ chunkSize, sizes }) =>
      measure(`store, chunks of ${chunkSize}`, "MiB", sizes.at(-1)! / MIB, {
        reference: sizes[0]! / MIB,
        target: { of: "ratio", limit: GROWTH_LIMIT },
      }),
    ),
    samples: stores.flatMap(({ chunkSize, sizes }) => sizes.map((bytes) => ({ chunkSize, bytes }))),
  };
}

/** A store, and its size after each snapshot. */
class GrowingStore {
  readonly chunkSize: string;
  readonly sizes: number[] = [];
  readonly #path: string;

  constructor(path: string, chunkSize: string) {
    this.#path = path;
    this.chunkSize = chunkSize;
  }

  pack(memoryPath: string): void {
    packImage(memoryPath, this.#path, `web-${this.sizes.length}`, ["--chunk-size", this.chunkSize]);
    this.sizes.push(folderBytes(this.#path));
  }
}

async function packGuest(
  run: PromiseRun,
  stores: readonly GrowingStore[],
  count: number,
): Promise<void> {
  const folder = run.newPath("guest");
  mkdirSync(folder);
  await using guest = await LinuxGuest.boot(folder, SEED);
  const oracle = new GuestOracle(SEED);
  const random = new Random(SEED);
  for (let index = 0; index < count; index++) {
    if (index > 0) await delay(PAUSE_MS);
    const wrong = await wrongAnswers(guest, mixedQuestions(oracle, random, QUESTIONS));
    assert.deepEqual(wrong, []);
    await guest.qmp.execute("stop");
    for (const store of stores) store.pack(LinuxGuest.memoryFile(folder));
    await guest.qmp.execute("cont");
  }
}

function packFile(run: PromiseRun, stores: readonly GrowingStore[], count: number): void {
  const path = run.newPath("mem");
  writeMemoryLike(path, 4 * MIB);
  for (let index = 0; index < count; index++) for (const store of stores) store.pack(path);
}

function folderBytes(folder: string): number {
  return readdirSync(folder, { recursive: true, encoding: "utf8" })
    .map((name) => statSync(join(folder, name)))
    .reduce((sum, each) => sum + (each.isFile() ? each.size : 0), 0);
}
