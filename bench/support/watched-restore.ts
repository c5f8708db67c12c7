/** Guests that a `serve` of their own restores: how soon they answer, and what they demand. */
import assert from "node:assert/strict";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { HandlerCommand } from "../../src/kit/handler-command.ts";
import { HandlerProcess } from "../../src/kit/handler-process.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { decodeWorkingSet, encodeWorkingSet } from "../../src/snapshot/working-set-file.ts";
import type { PromiseRun } from "./promise-run.ts";

const END_DEADLINE_MS = 15_000;
const PREFAULT_DEADLINE_MS = 20_000;

/** From the start of the VMM. */
export interface AnswerTimes {
  readonly resumedMs: number;
  readonly answeredMs: number;
}

export interface WatchedAnswer extends AnswerTimes {
  readonly faults: number;
  readonly prefaultedPages: number;
  readonly command: string;
}

/** Restores a guest, has it answer, and ends it. It is resumed when `beforeResume` is done. */
export type GuestRestore = (
  handler: HandlerProcess,
  beforeResume: () => Promise<void>,
) => Promise<AnswerTimes>;

export interface WatchedServe {
  readonly memoryPath: string;
  readonly mode: "off" | "before-resume" | "concurrent";
  /** It is read, and what is learnt is written to a copy; null: there is none yet. */
  readonly knownSet: string | null;
  /** Where the set goes that is learnt. */
  readonly setPath: string;
}

/** A fresh `serve` each time, so that nothing but the set is known from earlier restores. */
export async function restoreWatched(
  run: PromiseRun,
  { memoryPath, mode, knownSet, setPath }: WatchedServe,
  restore: GuestRestore,
): Promise<WatchedAnswer> {
  const logPath = run.newPath("log");
  if (knownSet !== null) copyFileSync(knownSet, setPath);
  const flags = ["--working-set", setPath, "--prefault", mode, "--drain-timeout", "10"];
  const { template } = HandlerCommand.ofServe([...flags, "--log", "info", "--log-format", "json"]);
  const command = new HandlerCommand(`exec ${template} 2>${logPath}`);
  const target = { socketPath: run.newPath("sock"), memoryPath };
  await using handler = await HandlerProcess.start(command, target);
  const times = await restore(handler, async () => {
    if (mode !== "before-resume") return;
    // A stand-in does not wait for it, and may be done before.
    const isOver = (): boolean =>
      /^prefaulted: /m.test(handler.messages) ||
      readFileSync(logPath, "utf8").includes('"Detached a VM"');
    await waitFor("the VM was prefaulted", isOver, PREFAULT_DEADLINE_MS);
  });
  handler.signal("SIGTERM");
  await handler.ended(END_DEADLINE_MS);
  const lines = readFileSync(logPath, "utf8").split("\n");
  const line = lines.find((each) => each.includes('"Detached a VM"'));
  assert.ok(line !== undefined, "serve told the numbers of its VM");
  const { faults, prefaulted = 0 } = JSON.parse(line) as { faults: number; prefaulted?: number };
  return { ...times, faults, prefaultedPages: prefaulted, command: handler.commandLine };
}

/**
 * The set as it would be if the guest's memory lay elsewhere: runs as long, needed at the same
 * times, but none of the same pages. Few get lost, where the one would lie on the other.
 */
export function writeWrongSet(rightPath: string, wrongPath: string): void {
  const { set, indexSha256 } = decodeWorkingSet(readFileSync(rightPath), rightPath);
  const isTaken = new Set(set.pages);
  const limit = set.sizeBytes / SMALL_PAGE_BYTES;
  const indexes = Array.from(set.pages, (page, index) => ({
    index,
    page: (page + Math.floor(limit / 2)) % limit,
  }));
  const kept = indexes.filter(({ page }) => !isTaken.has(page)).sort((a, b) => a.page - b.page);
  const wrong = {
    sizeBytes: set.sizeBytes,
    restores: set.restores,
    pages: Uint32Array.from(kept, ({ page }) => page),
    needs: Uint8Array.from(kept, ({ index }) => set.needs[index]!),
    timesUs: Uint32Array.from(kept, ({ index }) => set.timesUs[index]!),
  };
  writeFileSync(wrongPath, encodeWorkingSet({ set: wrong, indexSha256 }));
}
