/**
 * Records the trace of the Linux guest (bench/traces/linux-guest.trace): boots it, takes a
 * snapshot, restores that with `faultline serve` watching every fault, and asks it questions.
 *
 *   node dist/bench/record-trace.js bench/traces/linux-guest.trace
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import type { WorkingSet } from "../src/base/working-set.ts";
import { decodeTrace, encodeTrace, type Trace } from "../src/bench/trace-file.ts";
import { HandlerCommand, shellWord } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import { waitFor } from "../src/kit/wait.ts";
import { decodeWorkingSet } from "../src/snapshot/working-set-file.ts";
import { Random } from "../test/support/fixtures.ts";
import { type GuestSnapshot, LinuxGuest } from "../test/support/linux-guest-machine.ts";
import { GuestOracle } from "../test/support/linux-guest-oracle.ts";
import { whyNoLinuxGuest } from "../test/support/linux-guest-parts.ts";
import { mixedQuestions, wrongAnswers } from "../test/support/linux-guest-questions.ts";
import { PromiseRun } from "./support/promise-run.ts";

const SEED = 7;
/** From the first answer on: what a service does in its first moments. */
const QUESTIONS = 40;
const WRITTEN_DEADLINE_MS = 15_000;

async function main(outPath: string): Promise<void> {
  using run = new PromiseRun(false);
  const snapshot = await takeSnapshot(run);
  const { set, medianUs } = await watchRestore(run, snapshot);
  const trace = traceOf(set, medianUs);
  const bytes = encodeTrace(trace);
  decodeTrace(bytes, outPath);
  writeFileSync(outPath, bytes);
  const thinkMs = trace.thinkUs.reduce((sum, us) => sum + us, 0) / 1000;
  console.log(
    `${outPath}: ${bytes.length} bytes, ${trace.pages.length} pages, ${thinkMs.toFixed(0)} ms of ` +
      `think time, ${medianUs} µs a fault taken away`,
  );
}

async function takeSnapshot(run: PromiseRun): Promise<GuestSnapshot> {
  const folder = run.newPath("guest");
  mkdirSync(folder);
  await using guest = await LinuxGuest.boot(folder, SEED);
  return await guest.snapshot(folder, SEED);
}

/** Every page on demand, one by one: what the guest needed, and when. */
async function watchRestore(
  run: PromiseRun,
  snapshot: GuestSnapshot,
): Promise<{ readonly set: WorkingSet; readonly medianUs: number }> {
  const [setPath, logPath] = [run.newPath("workingset"), run.newPath("log")];
  const flags = ["--working-set", setPath, "--prefault", "off", "--no-streams"];
  const { template } = HandlerCommand.ofServe([...flags, "--record-for", "600", "--log", "info"]);
  const command = new HandlerCommand(`exec ${template} 2>${shellWord(logPath)}`);
  const target = { socketPath: run.newPath("sock"), memoryPath: snapshot.memoryFile };
  await using _handler = await HandlerProcess.start(command, target);
  {
    await using guest = await LinuxGuest.restore(snapshot, target.socketPath);
    await guest.ask("boot-id");
    const questions = mixedQuestions(new GuestOracle(SEED), new Random(SEED), QUESTIONS);
    assert.deepEqual(await wrongAnswers(guest, questions), []);
  }
  await waitFor("the working set was written", () => existsSync(setPath), WRITTEN_DEADLINE_MS);
  const { set } = decodeWorkingSet(readFileSync(setPath), setPath);
  return { set, medianUs: medianLatencyUs(readFileSync(logPath, "utf8")) };
}

/** In the order of demand; what the guest waited for memory is no think time. */
function traceOf({ sizeBytes, pages, timesUs }: WorkingSet, waitUs: number): Trace {
  const order = Array.from(pages.keys()).sort((a, b) => timesUs[a]! - timesUs[b]! || a - b);
  const thinkUs = order.map((index, place) => {
    const gapUs = place === 0 ? 0 : timesUs[index]! - timesUs[order[place - 1]!]!;
    return Math.max(0, gapUs - waitUs);
  });
  return {
    sizeBytes,
    pages: Uint32Array.from(order, (index) => pages[index]!),
    thinkUs: Uint32Array.from(thinkUs),
  };
}

/** As serve says at a VM's end. */
function medianLatencyUs(log: string): number {
  const text = /"p50":"([\d.]+) µs".*"msg":"Detached a VM"/.exec(log)?.[1];
  assert.ok(text !== undefined, `serve told the latency of its VM in:\n${log}`);
  return Math.round(Number(text));
}

const why = whyNoLinuxGuest();
const outPath = process.argv[2];
if (outPath === undefined || why !== null) {
  console.error(why ?? "usage: record-trace FILE");
  process.exitCode = 2;
} else {
  await main(outPath);
}
