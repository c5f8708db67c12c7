/**
 * A thousand VMs in one daemon: the memory of its processes, their descriptors, and what a busy VM
 * among them feels of the others, which are at rest.
 */
import { setTimeout as delay } from "node:timers/promises";
import { TOUCHED_PAGES } from "../src/bench/crowd.ts";
import { type FaultTimes, faulterCommand, type GuestPlan, ManyVms } from "../src/bench/guests.ts";
import { choosePinnedCpus } from "../src/bench/machine.ts";
import { awaitQuietMachine } from "../src/bench/quiet.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { BenchDaemon, type DaemonPids } from "./support/daemon.ts";
import { memoryKib, openFds } from "./support/proc.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const ALL_LIMIT_MIB = 300;
const P99_LIMIT = 1.5;
const QUIET_PATIENCE_MS = 10_000;
/** The garbage of the last handshakes is counted; what V8 collects in its own time too. */
const PAUSE_MS = 1000;

/** In the order of the table. */
const roles = ["supervisor", "pager", "standby"] as const;
type Role = (typeof roles)[number];

interface Size {
  readonly rssAnonKib: number;
  readonly rssShmemKib: number;
  readonly fds: number;
}
type Sizes = Readonly<Record<Role, Size>>;

interface Round {
  readonly alone: FaultTimes;
  readonly amongAll: FaultTimes;
}

export async function daemonFleet(run: PromiseRun): Promise<Report> {
  const cpus = choosePinnedCpus();
  const vmCount = run.scaled(1000, 4);
  const vmMib = run.scaled(256, 16);
  const memoryPath = run.randomFile(vmMib * MIB);
  const prefix = ["taskset", "-c", String(cpus.handler)];
  const start = { memoryPath, prefix };
  await using empty = await BenchDaemon.start(run, start);
  await using full = await BenchDaemon.start(run, start);
  const pids = await full.pids();
  const atFirst = sizesOf(pids);
  await using vms = await fill(run, full, memoryPath, vmCount);
  await delay(run.scaled(PAUSE_MS, 50));
  const withAll = sizesOf(pids);
  const faults = run.scaled(16_384, 500);
  const planOf = (seed: number): GuestPlan => ({
    ...{ memoryPath, faults, order: "random", seed, cpu: cpus.guest },
  });
  const rounds: Round[] = [];
  // The first round does not count: code that has never run is slow.
  for (let index = 0; index <= run.scaled(21, 1); index++) {
    const plan = planOf(index + 1);
    if (index > 0) await awaitQuietMachine(run.scaled(QUIET_PATIENCE_MS, 1));
    const isFullFirst = index % 2 === 0;
    const early = isFullFirst ? await full.timeFaults(run, plan) : null;
    const alone = await empty.timeFaults(run, plan);
    const round = { alone, amongAll: early ?? (await full.timeFaults(run, plan)) };
    if (index > 0) rounds.push(round);
  }
  return {
    bench: "daemon-fleet",
    method:
      `${vmCount} VMs of ${vmMib} MiB in one daemon, each a process of its own that has touched ` +
      `${TOUCHED_PAGES} pages and sleeps; memory and descriptors before the first and ` +
      `${PAUSE_MS / 1000} s after the last one came. Then ${rounds.length} rounds of a VM with ` +
      `${faults} random faults among them, and alone in a daemon of its own, in turns; medians, ` +
      `ratios per round. Guest on CPU ${cpus.guest}, all processes of both daemons on CPU ` +
      `${cpus.handler}.`,
    sides: ["no VM, or alone", `${vmCount} VMs`],
    commands: [full.commandLine, vms.command, faulterCommand(run, "SOCKET", planOf(1)).join(" ")],
    measures: [
      ...memoryMeasures(atFirst, withAll, vmCount),
      compare(rounds, "p50_us"),
      compare(rounds, "p99_us"),
    ],
    samples: rounds.map(({ alone, amongAll }) => ({
      "alone p50": alone.p50_us,
      "among all p50": amongAll.p50_us,
      "alone p99": alone.p99_us,
      "among all p99": amongAll.p99_us,
    })),
  };
}

/** Each VM has a session, and so a socket, of its own. */
async function fill(
  run: PromiseRun,
  daemon: BenchDaemon,
  memoryPath: string,
  count: number,
): Promise<ManyVms> {
  const vms = new ManyVms(run, { socketPath: "", memoryPath }, TOUCHED_PAGES);
  try {
    for (let index = 0; index < count; index++) {
      const { socketPath } = await daemon.client.createSession({ memory: memoryPath });
      await vms.moveToSocket(socketPath);
      await vms.hold(1);
    }
    return vms;
  } catch (error) {
    await vms[Symbol.asyncDispose]();
    throw error;
  }
}

function sizesOf(pids: DaemonPids): Sizes {
  const sizeOf = (pid: number): Size => {
    const { rssAnon, rssShmem } = memoryKib(pid);
    return { rssAnonKib: rssAnon, rssShmemKib: rssShmem, fds: openFds(pid) };
  };
  return {
    supervisor: sizeOf(pids.supervisor),
    pager: sizeOf(pids.pager),
    standby: sizeOf(pids.standby),
  };
}

function memoryMeasures(before: Sizes, after: Sizes, vmCount: number): Measure[] {
  const mib = (sizes: Sizes, role: Role): number => sizes[role].rssAnonKib / 1024;
  const all = (sizes: Sizes): number => roles.reduce((sum, role) => sum + mib(sizes, role), 0);
  return [
    measure("RssAnon, all three", "MiB", all(after), {
      reference: all(before),
      target: { of: "ours", limit: ALL_LIMIT_MIB },
    }),
    ...roles.map((role) =>
      measure(`… ${role}`, "MiB", mib(after, role), { reference: mib(before, role) }),
    ),
    measure("RssShmem, pager (page states)", "MiB", after.pager.rssShmemKib / 1024),
    measure("RssAnon per VM", "KiB", ((all(after) - all(before)) * 1024) / vmCount),
    ...roles.map((role) =>
      measure(`descriptors, ${role}`, "fds", after[role].fds, { reference: before[role].fds }),
    ),
  ];
}

function compare(rounds: readonly Round[], figure: "p50_us" | "p99_us"): Measure {
  const name = `fault, ${figure.slice(0, 3)}`;
  return measure(name, "µs", median(rounds.map(({ amongAll }) => amongAll[figure])), {
    reference: median(rounds.map(({ alone }) => alone[figure])),
    ratio: median(rounds.map(({ alone, amongAll }) => amongAll[figure] / alone[figure])),
    ...(figure === "p99_us" ? { target: { of: "ratio", limit: P99_LIMIT } } : {}),
  });
}
