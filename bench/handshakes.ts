/**
 * A storm of handshakes that no handler may take, while a VM faults on the same process: 100,000 of
 * them, some as fast as they can be sent, some at a steady pace. What the process does about them
 * must not be felt by the VM, and must leave nothing behind.
 *
 * What is not a matter of speed is not judged but thrown: a handshake that was neither refused nor
 * counted, a descriptor that stayed, a wrong byte, an end of the process.
 */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import {
  type FaultTimes,
  faulterCommand,
  type GuestPlan,
  timeFaults,
} from "../src/bench/guests.ts";
import { choosePinnedCpus } from "../src/bench/machine.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { Child } from "../src/kit/child.ts";
import { HandlerCommand, shellWord } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import { waitFor } from "../src/kit/wait.ts";
import { memoryKib, openFds } from "./support/proc.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const SEED = Number(process.env.FAULTLINE_STORM_SEED ?? 20_261_123);
const STEADY_PER_SECOND = 500;
/** One in so many holds its connection until the handler gives up. */
const SLOW_EVERY = 1000;
const HANDSHAKE_TIMEOUT_MS = 300;
const QUIET_FDS_MS = 10_000;
const END_DEADLINE_MS = 10_000;
const SETTLE_MS = 500;
const QUIET_PATIENCE_MS = 10_000;
const P99_LIMIT = 2;
const GROWTH_LIMIT_KIB = 4096;

/** What the storm prints; see test/peer/storm.c. */
interface StormResult {
  readonly sent: number;
  readonly unanswered: number;
  readonly seconds: number;
}

/** One VM after the other, as long as a storm lasts. */
interface Weather {
  readonly vms: readonly FaultTimes[];
  readonly storm: StormResult;
}

interface Round {
  readonly aloneBeforeFast: FaultTimes;
  readonly fast: Weather;
  readonly aloneBeforeSteady: FaultTimes;
  readonly steady: Weather;
  readonly rssAnonKib: number;
}

interface Scene {
  readonly run: PromiseRun;
  readonly serve: HandlerProcess;
  readonly plan: GuestPlan;
  readonly stormCpu: number;
}

export async function handshakes(run: PromiseRun): Promise<Report> {
  const cpus = choosePinnedCpus();
  const rounds = run.scaled(10, 2);
  const [fastCount, steadyCount] = [run.scaled(9000, 150), run.scaled(1000, 50)];
  const memoryPath = run.randomFile(run.scaled(64, 4) * MIB);
  const faults = run.scaled(8000, 300);
  const plan: GuestPlan = { memoryPath, faults, order: "random", cpu: cpus.guest };
  const logPath = run.newPath("log");
  await using serve = await startServe(run, memoryPath, logPath, cpus.handler);
  const scene: Scene = { run, serve, plan, stormCpu: cpus.handler };
  const vm = async (): Promise<FaultTimes> => await timeFaults(run, serve, plan);
  await vm();
  const fdsBefore = await quietFds(serve, Number.POSITIVE_INFINITY);
  const all: Round[] = [];
  let sent = 0;
  const next = async (count: number, rate: number): Promise<Weather> => {
    const weather = await faultInStorm(scene, sent, count, rate);
    assert.equal(weather.storm.unanswered, 0, "some handshakes were not refused");
    assert.equal(weather.storm.sent, count);
    sent += count;
    return weather;
  };
  for (let index = 0; index < rounds; index++) {
    await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const aloneBeforeFast = await vm();
    const fast = await next(fastCount, 0);
    const aloneBeforeSteady = await vm();
    const steady = await next(steadyCount, STEADY_PER_SECOND);
    await quietFds(serve, fdsBefore);
    await delay(run.scaled(SETTLE_MS, 10));
    const rssAnonKib = memoryKib(serve.pid).rssAnon;
    all.push({ aloneBeforeFast, fast, aloneBeforeSteady, steady, rssAnonKib });
  }
  await vm();
  const fdsAfter = await quietFds(serve, fdsBefore);
  serve.signal("SIGTERM");
  assert.equal((await serve.ended(END_DEADLINE_MS))?.code, 0, "serve did not end well");
  const counted = countRefusals(logPath);
  assert.equal(counted, sent, "the log's count of refusals is not what was sent");
  return {
    bench: "handshakes",
    method:
      `${sent} malformed handshakes (seed ${SEED}) in ${rounds} rounds of ${fastCount} at full ` +
      `speed and ${steadyCount} at ${STEADY_PER_SECOND}/s, one in ${SLOW_EVERY} held for ` +
      `${HANDSHAKE_TIMEOUT_MS} ms; meanwhile VMs, one after the other, of ${faults} faults ` +
      `each. Guest on CPU ${cpus.guest}; serve and the storm on CPU ${cpus.handler}. Ratios to ` +
      "the VM just before each storm, medians over the rounds. All were refused and counted.",
    sides: ["alone", "in the storm"],
    commands: [
      serve.commandLine,
      stormCommand(scene, 0, fastCount, 0).join(" "),
      faulterCommand(run, serve.target.socketPath, plan).join(" "),
    ],
    measures: measuresOf(all, fdsAfter - fdsBefore),
    samples: all.map(flatten),
  };
}

function measuresOf(all: readonly Round[], gainedFds: number): Measure[] {
  return [
    compare("full speed", "p50_us", all, "aloneBeforeFast", "fast"),
    compare("full speed", "p99_us", all, "aloneBeforeFast", "fast"),
    compare(`${STEADY_PER_SECOND}/s`, "p50_us", all, "aloneBeforeSteady", "steady"),
    compare(`${STEADY_PER_SECOND}/s`, "p99_us", all, "aloneBeforeSteady", "steady"),
    measure("refused, full speed", "per s", median(all.map(({ fast }) => perSecond(fast)))),
    measure("descriptors gained", "fds", gainedFds, {
      target: { of: "ours", limit: 0 },
    }),
    measure("RssAnon, growth of the peak", "KiB", peakGrowth(all), {
      target: { of: "ours", limit: GROWTH_LIMIT_KIB },
    }),
    measure("RssAnon, peak", "MiB", Math.max(...all.map((each) => each.rssAnonKib)) / 1024),
  ];
}

function stormCommand(
  { run, serve, stormCpu }: Scene,
  first: number,
  count: number,
  rate: number,
): string[] {
  const { socketPath, memoryPath } = serve.target;
  const what = [run.peerProgram("storm"), socketPath, memoryPath, String(count), String(SEED)];
  const how = ["--first", first, "--rate", rate, "--slow-every", SLOW_EVERY, "--cpu", stormCpu];
  return [...what, ...how.map(String)];
}

/** On one CPU, with its log in a file. */
async function startServe(
  run: PromiseRun,
  memoryPath: string,
  logPath: string,
  cpu: number,
): Promise<HandlerProcess> {
  const flags = ["--handshake-timeout", String(HANDSHAKE_TIMEOUT_MS)];
  const { template } = HandlerCommand.ofServe(flags);
  // The shell sees to the log; exec, as the process that is looked at must be ours, not the shell.
  const command = new HandlerCommand(`exec ${template} 2>${shellWord(logPath)}`);
  const target = { socketPath: run.newPath("sock"), memoryPath };
  return await HandlerProcess.start(command, target, ["taskset", "-c", String(cpu)]);
}

/** VMs that begin while the storm lasts, at least one. Throws if any of them saw a wrong byte. */
async function faultInStorm(
  scene: Scene,
  first: number,
  count: number,
  rate: number,
): Promise<Weather> {
  await using child = new Child(stormCommand(scene, first, count, rate));
  const answer = child.answer<StormResult>();
  answer.catch(() => undefined); // told below
  const vms: FaultTimes[] = [];
  do vms.push(await timeFaults(scene.run, scene.serve, scene.plan));
  while (!child.isOver);
  const storm = await answer;
  // The last one may have had fine weather for the most part.
  return { vms: vms.length > 1 ? vms.slice(0, -1) : vms, storm };
}

/** Descriptors of the process, as soon as they are no more than `limit`. */
async function quietFds(serve: HandlerProcess, limit: number): Promise<number> {
  await waitFor(
    `serve held no more than ${limit} descriptors`,
    () => openFds(serve.pid) <= limit,
    QUIET_FDS_MS,
  );
  return openFds(serve.pid);
}

/** Each line of its own, and those that are only counted. */
function countRefusals(logPath: string): number {
  const lines = readFileSync(logPath, "utf8").trimEnd().split("\n");
  const entries = lines.map((line) => JSON.parse(line) as { msg: string; count?: number });
  return entries
    .filter(({ msg }) => msg.startsWith("Refused "))
    .reduce((sum, { count = 1 }) => sum + count, 0);
}

type Figure = "p50_us" | "p99_us";

function inStorm({ vms }: Weather, figure: Figure): number {
  return median(vms.map((vm) => vm[figure]));
}

function compare(
  what: string,
  figure: Figure,
  rounds: readonly Round[],
  alone: "aloneBeforeFast" | "aloneBeforeSteady",
  weather: "fast" | "steady",
): Measure {
  const storms = rounds.map((round) => inStorm(round[weather], figure));
  const calms = rounds.map((round) => round[alone][figure]);
  return measure(`${what}: ${figure.slice(0, 3)}`, "µs", median(storms), {
    reference: median(calms),
    ratio: median(storms.map((storm, index) => storm / calms[index]!)),
    ...(figure === "p99_us" ? { target: { of: "ratio", limit: P99_LIMIT } } : {}),
  });
}

function perSecond({ storm }: Weather): number {
  return storm.sent / storm.seconds;
}

/** The second half's peak over the first's, which is after a fifth of all handshakes at least. */
function peakGrowth(rounds: readonly Round[]): number {
  const sizes = rounds.map((each) => each.rssAnonKib);
  const half = sizes.length / 2;
  return Math.max(...sizes.slice(half)) - Math.max(...sizes.slice(0, half));
}

function flatten(round: Round): Record<string, number> {
  return {
    "alone p99": round.aloneBeforeFast.p99_us,
    "full speed p99": inStorm(round.fast, "p99_us"),
    "full speed VMs": round.fast.vms.length,
    "full speed refused/s": perSecond(round.fast),
    "alone again p99": round.aloneBeforeSteady.p99_us,
    "steady p99": inStorm(round.steady, "p99_us"),
    "steady VMs": round.steady.vms.length,
    rssAnonKib: round.rssAnonKib,
  };
}
