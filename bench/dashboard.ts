/**
 * What a viewer of the dashboard costs the daemon: CPU time for the map of a large VM that faults
 * all the time, looked at 20 times a second, and memory when he stops to read.
 */
import { type IncomingMessage, request } from "node:http";
import { setTimeout as delay } from "node:timers/promises";
import { faulterCommand, type GuestPlan } from "../src/bench/guests.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { Child } from "../src/kit/child.ts";
import { waitFor } from "../src/kit/wait.ts";
import { BenchDaemon } from "./support/daemon.ts";
import { cpuUse, memoryKib } from "./support/proc.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { measure, type Report } from "./support/report.ts";

/** Of a core, for one viewer of 16 GiB. */
const CPU_LIMIT_PERCENT = 3;
const STOPPED_LIMIT_MIB = 16;
/** Together, as the heap of a process breathes by some MiB. */
const STOPPED_VIEWERS = 8;
const PAUSE_US = 400;
const TICK_MS = 10;
const QUIET_PATIENCE_MS = 10_000;
const BUDGET_MS = 20_000;

interface Round {
  readonly alonePercent: number;
  readonly watchedPercent: number;
  readonly eventsPerSecond: number;
  readonly kibPerSecond: number;
}

export async function dashboard(run: PromiseRun): Promise<Report> {
  const memoryMib = run.scaled(16_384, 64);
  const windowMs = run.scaled(10_000, 300);
  const rounds = run.scaled(5, 1);
  const memoryPath = run.sparseFile(memoryMib * MIB);
  await using daemon = await BenchDaemon.start(run, { memoryPath });
  const { pager } = await daemon.pids();
  const { id, socketPath } = await daemon.create({ memory: memoryPath });
  const faults = run.scaled(400_000, 16_000);
  const plan: GuestPlan = {
    memoryPath,
    faults,
    order: "random",
    pauseUs: PAUSE_US,
    readsLate: true,
  };
  await using guest = new Child(faulterCommand(run, socketPath, plan));
  const hasBegun = async (): Promise<boolean> =>
    ((await daemon.client.session(id)).vm?.counters.faults ?? 0) > 100;
  await waitFor("the guest faulted", hasBegun, BUDGET_MS);
  const path = `/v1/sessions/${id}/watch`;
  const all: Round[] = [];
  for (let index = 0; index <= rounds; index++) {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const alonePercent = await cpuPercent(pager, windowMs);
    const viewer = await Viewer.open(daemon.controlPath, path);
    const startBytes = viewer.bytes;
    const startEvents = viewer.events;
    const watchedPercent = await cpuPercent(pager, windowMs);
    const eventsPerSecond = ((viewer.events - startEvents) * 1000) / windowMs;
    const kibPerSecond = ((viewer.bytes - startBytes) / 1024) * (1000 / windowMs);
    viewer.close();
    // The first round does not count: code that has never run is slow.
    if (index > 0) all.push({ alonePercent, watchedPercent, eventsPerSecond, kibPerSecond });
  }
  const stoppedMib = await memoryOfStopped(daemon, pager, path, windowMs);
  const faultsNow = (await daemon.client.session(id)).vm?.counters.faults ?? 0;
  if (faultsNow === 0 || guest.isOver) throw new Error("The guest ended before the last round.");
  return {
    bench: "dashboard",
    method:
      `A VM of ${memoryMib} MiB, a sparse file, that faults at random places with ${PAUSE_US} µs ` +
      `between two faults. CPU time of the pager in ${windowMs / 1000} s without a viewer and ` +
      `with one of the whole map, in turns, ${rounds} times. Then ${STOPPED_VIEWERS} viewers who ` +
      "read nothing.",
    sides: ["no viewer", "one viewer"],
    commands: [daemon.commandLine, guest.argv.join(" ")],
    measures: [
      measure("CPU time of the pager, of a core", "%", median(all.map((r) => r.watchedPercent)), {
        reference: median(all.map((r) => r.alonePercent)),
      }),
      measure("… for the viewer", "%", median(all.map((r) => r.watchedPercent - r.alonePercent)), {
        target: { of: "ours", limit: CPU_LIMIT_PERCENT },
      }),
      measure("events", "per s", median(all.map((r) => r.eventsPerSecond))),
      measure("KiB sent", "per s", median(all.map((r) => r.kibPerSecond))),
      measure("memory for each who does not read", "MiB", stoppedMib, {
        target: { of: "ours", limit: STOPPED_LIMIT_MIB },
      }),
    ],
    samples: all.map((round) => ({
      "alone %": round.alonePercent,
      "watched %": round.watchedPercent,
    })),
  };
}

/** What the process takes of one core. */
async function cpuPercent(pid: number, windowMs: number): Promise<number> {
  const before = cpuUse(pid).ticks;
  const startMs = performance.now();
  await delay(windowMs);
  const ms = performance.now() - startMs;
  return ((cpuUse(pid).ticks - before) * TICK_MS * 100) / ms;
}

/** How much the pager grows by each who asks for a map and reads none of it. */
async function memoryOfStopped(
  daemon: BenchDaemon,
  pager: number,
  path: string,
  windowMs: number,
): Promise<number> {
  const before = memoryKib(pager).rssAnon;
  const stopped: IncomingMessage[] = [];
  for (let index = 0; index < STOPPED_VIEWERS; index++) {
    stopped.push(await answerOf(daemon.controlPath, path));
  }
  await delay(windowMs);
  const after = memoryKib(pager).rssAnon;
  for (const response of stopped) response.destroy();
  return (after - before) / 1024 / STOPPED_VIEWERS;
}

/** What has begun to come, of which nothing is read yet. */
async function answerOf(socketPath: string, path: string): Promise<IncomingMessage> {
  const response = await new Promise<IncomingMessage>((resolve, reject) => {
    request({ socketPath, path, agent: false }, resolve).on("error", reject).end();
  });
  response.on("error", () => undefined);
  if (response.statusCode !== 200) throw new Error(`${path} answered ${response.statusCode}.`);
  return response;
}

/** Reads a stream and looks at nothing but where events end. */
class Viewer {
  bytes = 0;
  events = 0;
  readonly #response: IncomingMessage;

  private constructor(response: IncomingMessage) {
    this.#response = response;
    response.on("data", (chunk: Buffer) => {
      this.bytes += chunk.length;
      for (let at = chunk.indexOf("\n\n"); at >= 0; at = chunk.indexOf("\n\n", at + 2)) {
        this.events += 1;
      }
    });
  }

  /** Returns when the map is there. */
  static async open(socketPath: string, path: string): Promise<Viewer> {
    const viewer = new Viewer(await answerOf(socketPath, path));
    await waitFor("the map came", () => viewer.events > 0, BUDGET_MS);
    return viewer;
  }

  close(): void {
    this.#response.destroy();
  }
}
