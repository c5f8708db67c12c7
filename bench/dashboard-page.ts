/**
 * How quick the dashboard's page is in a real browser, on a real daemon: until 200 sessions are on
 * the screen, and while the map of a large VM that faults all the time is. The browser, the daemon
 * and the VM share the machine; an empty page in the same browser is the other side.
 */
import { setTimeout as delay } from "node:timers/promises";
import type { CDPSession } from "playwright-core";
import { faulterCommand, type GuestPlan } from "../src/bench/guests.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { Child } from "../src/kit/child.ts";
import { waitFor } from "../src/kit/wait.ts";
import { PageBrowser } from "../test/support/page-browser.ts";
import { BenchDaemon } from "./support/daemon.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report, type Target, type Unit } from "./support/report.ts";

const FIRST_ROWS_LIMIT_MS = 1000;
/** 60 frames a second; the browser's clock trembles a little. */
const FRAME_LIMIT_MS = 17;
/** Some 20 events a second say something new at this pace. */
const PAUSE_US = 400;
const SETTLE_MS = 1000;
const QUIET_PATIENCE_MS = 10_000;
const BUDGET_MS = 20_000;
const EMPTY = "data:text/html,<p>nothing</p>";

interface Frames {
  readonly frameMs: number;
  readonly slowest5Ms: number;
  readonly perSecond: number;
  /** What the page's main thread had to do for each frame. */
  readonly workMs: number;
}

interface FirstRows {
  readonly emptyMs: number;
  readonly rowsMs: number;
}

interface MapFrames {
  readonly empty: Frames;
  readonly map: Frames;
}

export async function dashboardPage(run: PromiseRun): Promise<Report> {
  const memoryMib = run.scaled(16_384, 64);
  const sessions = run.scaled(200, 20);
  const windowMs = run.scaled(8000, 300);
  const memoryPath = run.sparseFile(memoryMib * MIB);
  const flags = ["--dashboard", "127.0.0.1:0"];
  await using daemon = await BenchDaemon.start(run, { memoryPath, flags });
  for (let index = 0; index < sessions; index++) {
    await daemon.create({ memory: memoryPath, connectWithinS: 0 });
  }
  await using browser = await PageBrowser.start();
  const firstRows = await timeFirstRows(run, browser, await urlOf(daemon));
  const { id, socketPath } = await daemon.create({ memory: memoryPath });
  const plan: GuestPlan = {
    memoryPath,
    faults: run.scaled(400_000, 16_000),
    order: "random",
    pauseUs: PAUSE_US,
    readsLate: true,
  };
  await using guest = new Child(faulterCommand(run, socketPath, plan));
  const hasBegun = async (): Promise<boolean> =>
    ((await daemon.client.session(id)).vm?.counters.faults ?? 0) > 100;
  await waitFor("the guest faulted", hasBegun, BUDGET_MS);
  const frames: MapFrames[] = [];
  for (let index = 0; index < run.scaled(5, 1); index++) {
    frames.push({
      empty: await framesOf(browser, EMPTY, null, windowMs),
      map: await framesOf(browser, await urlOf(daemon), id, windowMs),
    });
  }
  if (guest.isOver) throw new Error("The guest ended before the last round.");
  return {
    bench: "dashboard-page",
    method:
      `Chromium without a window, 1440 × 900. ${sessions} sessions, from the start of navigation ` +
      `until the frame with their rows, ${firstRows.length} times; then the map of a VM of ` +
      `${memoryMib} MiB that faults at random places with ${PAUSE_US} µs in between, ` +
      `${frames.length} times ${windowMs / 1000} s. The other side is a page without content.`,
    sides: ["empty page", "dashboard"],
    commands: [daemon.commandLine, guest.argv.join(" ")],
    measures: measuresOf(sessions, firstRows, frames),
    samples: frames.map(({ empty, map }) => ({
      "empty ms": empty.frameMs,
      "map ms": map.frameMs,
      "map work ms": map.workMs,
    })),
  };
}

function measuresOf(
  sessions: number,
  firstRows: readonly FirstRows[],
  frames: readonly MapFrames[],
): Measure[] {
  const all = (side: keyof MapFrames, of: keyof Frames): number =>
    median(frames.map((round) => round[side][of]));
  const both = (name: string, unit: Unit, of: keyof Frames, target?: Target): Measure => {
    const reference = all("empty", of);
    return measure(name, unit, all("map", of), { reference, ...(target && { target }) });
  };
  return [
    measure(`${sessions} sessions are painted`, "ms", median(firstRows.map((r) => r.rowsMs)), {
      reference: median(firstRows.map((r) => r.emptyMs)),
      target: { of: "ours", limit: FIRST_ROWS_LIMIT_MS },
    }),
    both("between two frames of the map, median", "ms", "frameMs", {
      of: "ours",
      limit: FRAME_LIMIT_MS,
    }),
    both("… the slowest 5 % take at least", "ms", "slowest5Ms"),
    both("frames", "per s", "perSecond"),
    both("work of the page for each frame", "ms", "workMs"),
  ];
}

async function timeFirstRows(
  run: PromiseRun,
  browser: PageBrowser,
  url: string,
): Promise<FirstRows[]> {
  const all: FirstRows[] = [];
  for (let index = 0; index <= run.scaled(7, 1); index++) {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const emptyMs = await untilPainted(browser, EMPTY);
    const rowsMs = await untilPainted(browser, url);
    // The first round does not count: the browser itself warms up.
    if (index > 0) all.push({ emptyMs, rowsMs });
  }
  return all;
}

async function urlOf(daemon: BenchDaemon): Promise<string> {
  let url = "";
  const listens = async (): Promise<boolean> => {
    const { address, token } = await daemon.client.dashboard();
    url = `http://${address}/#${token}`;
    return address !== null;
  };
  await waitFor("the dashboard listened", listens, BUDGET_MS);
  return url;
}

/** Of our page until the frame with its first rows, of any other until its first frame. */
async function untilPainted(browser: PageBrowser, url: string): Promise<number> {
  const watched = await browser.open(url);
  const ms = await watched.ask<number>(`new Promise((resolve) => {
    const look = () => {
      const isRest = document.querySelector("#main") === null;
      const isThere = performance.getEntriesByName("faultline-first-rows").length > 0;
      if (!isRest && !isThere) return requestAnimationFrame(look);
      requestAnimationFrame(() => requestAnimationFrame(() => resolve(performance.now())));
    };
    look();
  })`);
  await watched[Symbol.asyncDispose]();
  return ms;
}

/** `id`: of the VM whose map is to be on the screen, or none. */
async function framesOf(
  browser: PageBrowser,
  url: string,
  id: string | null,
  windowMs: number,
): Promise<Frames> {
  const watched = await browser.open(url);
  if (id !== null) {
    await watched.ask(`location.hash = "#/vm/${id}"`);
    await watched.page.waitForSelector("canvas.map[data-scale]");
  }
  await delay(SETTLE_MS);
  const debug = await watched.page.context().newCDPSession(watched.page);
  await debug.send("Performance.enable");
  const before = await taskSeconds(debug);
  const gaps = await watched.ask<number[]>(`new Promise((resolve) => {
    const times = [];
    const step = (time) => {
      times.push(time);
      if (time - times[0] < ${windowMs}) return requestAnimationFrame(step);
      resolve(times.slice(1).map((each, index) => each - times[index]));
    };
    requestAnimationFrame(step);
  })`);
  const workMs = ((await taskSeconds(debug)) - before) * 1000;
  await watched[Symbol.asyncDispose]();
  gaps.sort((left, right) => left - right);
  return {
    frameMs: median(gaps),
    slowest5Ms: gaps[Math.floor(gaps.length * 0.95)]!,
    perSecond: (gaps.length * 1000) / gaps.reduce((sum, gap) => sum + gap, 0),
    workMs: workMs / gaps.length,
  };
}

/** How long the page's main thread has worked in all. */
async function taskSeconds(debug: CDPSession): Promise<number> {
  const { metrics } = await debug.send("Performance.getMetrics");
  return metrics.find(({ name }) => name === "TaskDuration")?.value ?? Number.NaN;
}
