/**
 * How long a client of the daemon waits for a session: from sending the request until the answer is
 * there, at 100 requests a second, whether the last one was answered or not. The session's socket
 * listens by then. Beside it, in the same rounds: a request that does nothing, which is what HTTP,
 * the client and the event loop take.
 */
import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { packImage } from "../src/bench/packed.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median, quantile } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { isListening } from "../src/kit/handler-process.ts";
import { waitFor } from "../src/kit/wait.ts";
import { BenchDaemon } from "./support/daemon.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const PER_SECOND = 100;
const P99_LIMIT_MS = 5;
const QUIET_PATIENCE_MS = 10_000;
const END_BUDGET_MS = 20_000;
/** Of a round's sessions, so many are looked at: the answer is only right if they listen. */
const LOOKED_AT = 10;

interface Wait {
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

interface Round {
  readonly nothing: Wait;
  readonly file: Wait;
  readonly image: Wait;
}

export async function daemonCreate(run: PromiseRun): Promise<Report> {
  const rounds = run.scaled(5, 1);
  const count = run.scaled(400, 20);
  const memoryPath = run.randomFile(run.scaled(256, 4) * MIB);
  const store = run.newPath("store");
  const packCommand = packImage(memoryPath, store, "web");
  await using daemon = await BenchDaemon.start(run, { memoryPath });
  const { client } = daemon;
  const create = async (memory: string): Promise<Wait> => await createMany(daemon, memory, count);
  const nothing = async (): Promise<Wait> =>
    await askSteadily(count, async () => void (await client.version()));
  const image = `dir:${store}/web`;
  // Opens both memories; code that has never run is slow too.
  for (const memory of [memoryPath, image]) await create(memory);
  const all: Round[] = [];
  for (let index = 0; index < rounds; index++) {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    all.push({
      nothing: await nothing(),
      file: await create(memoryPath),
      image: await create(image),
    });
  }
  return {
    bench: "daemon-create",
    method:
      `${rounds} rounds of ${count} requests at ${PER_SECOND} a second, each on a connection of ` +
      "its own, from before it is sent until its answer is read: for the daemon's version, for " +
      "sessions of a memory file, and for sessions of an image in a folder. Medians of the " +
      "rounds, but the slowest of all for the maximum. Nothing pinned.",
    sides: ["its version", "a session"],
    commands: [packCommand, daemon.commandLine],
    measures: [...compare("memory file", all, "file"), ...compare("folder image", all, "image")],
    samples: all.flatMap((round, index) =>
      (["nothing", "file", "image"] as const).map((of) => ({ round: index + 1, of, ...round[of] })),
    ),
  };
}

/** Creates sessions, and ends them. */
async function createMany({ client }: BenchDaemon, memory: string, count: number): Promise<Wait> {
  const created: { readonly id: string; readonly socketPath: string }[] = [];
  const wait = await askSteadily(count, async () => {
    created.push(await client.createSession({ memory }));
  });
  for (const { socketPath } of created.slice(-LOOKED_AT)) {
    assert.ok(isListening(socketPath), `${socketPath} does not listen`);
  }
  for (const { id } of created) await client.killSession(id);
  const isEmpty = async (): Promise<boolean> => (await client.host()).sessions.waiting === 0;
  await waitFor("all sessions ended", isEmpty, END_BUDGET_MS);
  return wait;
}

/** An answer that is late delays no request: clients do not wait for each other. */
async function askSteadily(count: number, ask: () => Promise<void>): Promise<Wait> {
  const takenMs: number[] = [];
  const asked: Promise<void>[] = [];
  const timed = async (): Promise<void> => {
    const sinceMs = performance.now();
    await ask();
    takenMs.push(performance.now() - sinceMs);
  };
  const beganMs = performance.now();
  for (let index = 0; index < count; index++) {
    const dueMs = beganMs + (index * 1000) / PER_SECOND;
    await delay(Math.max(0, dueMs - performance.now()));
    asked.push(timed());
  }
  await Promise.all(asked);
  return {
    p50Ms: median(takenMs),
    p99Ms: quantile(takenMs, 0.99),
    maxMs: Math.max(...takenMs),
  };
}

function compare(name: string, all: readonly Round[], side: "file" | "image"): Measure[] {
  const middle = (of: keyof Round, figure: keyof Wait): number =>
    median(all.map((round) => round[of][figure]));
  const slowest = (of: keyof Round): number => Math.max(...all.map((round) => round[of].maxMs));
  return [
    measure(`${name}, p50`, "ms", middle(side, "p50Ms"), { reference: middle("nothing", "p50Ms") }),
    measure(`${name}, p99`, "ms", middle(side, "p99Ms"), {
      reference: middle("nothing", "p99Ms"),
      target: { of: "ours", limit: P99_LIMIT_MS },
    }),
    measure(`${name}, slowest`, "ms", slowest(side), { reference: slowest("nothing") }),
  ];
}
