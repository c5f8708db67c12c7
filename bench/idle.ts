/**
 * What VMs cost that do nothing: CPU time and wake-ups of the handler with 100 of them.
 *
 * Looked at in windows of 10 s, both sides at once. Some 8 s after the last work, on a busy machine
 * later, V8 collects its garbage, once, which takes some 40 ms; that is in the total and not in the
 * median. Work that comes back again and again would be in both.
 */
import { setTimeout as delay } from "node:timers/promises";
import { Crowd, TOUCHED_PAGES } from "../src/bench/crowd.ts";
import { ManyVms } from "../src/bench/guests.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { HandlerCommand } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import { type CpuUse, cpuUse } from "./support/proc.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { measure, type Report } from "./support/report.ts";

const WINDOW_MS = 10_000;
const WINDOWS = 7;

interface Window {
  readonly ours: CpuUse;
  readonly theirs: CpuUse;
}

export async function idle(workspace: PromiseRun): Promise<Report> {
  const count = workspace.scaled(100, 4);
  const memoryPath = workspace.sparseFile(workspace.scaled(256, 16) * MIB);
  const target = { socketPath: workspace.newPath("sock"), memoryPath };
  await using serve = await HandlerProcess.start(HandlerCommand.ofServe(), target);
  await using vms = new ManyVms(workspace, serve, TOUCHED_PAGES);
  await vms.hold(count);
  const reference = workspace.referenceCommand();
  await using crowd = await Crowd.each(workspace, reference, memoryPath, count);
  const theirPids = crowd.handlers.map((handler) => handler.pid);

  const windowMs = workspace.scaled(WINDOW_MS, 100);
  const windows: Window[] = [];
  for (let index = 0; index < workspace.scaled(WINDOWS, 2); index++) {
    const before = { ours: useOf([serve.pid]), theirs: useOf(theirPids) };
    await delay(windowMs);
    windows.push({
      ours: since(before.ours, useOf([serve.pid])),
      theirs: since(before.theirs, useOf(theirPids)),
    });
  }
  const all = (side: keyof Window, of: keyof CpuUse): number[] =>
    windows.map((window) => window[side][of]);
  const sum = (values: readonly number[]): number =>
    values.reduce((total, each) => total + each, 0);
  return {
    bench: "idle",
    method:
      `${count} VMs attached and asleep, looked at ${windows.length} times for ` +
      `${windowMs / 1000} s. On the C side ${count} processes together. 1 tick is 10 ms.`,
    commands: [serve.commandLine, vms.command, crowd.handlers[0]!.commandLine],
    measures: [
      measure(`CPU time in ${windowMs / 1000} s, median`, "ticks", median(all("ours", "ticks")), {
        reference: median(all("theirs", "ticks")),
        target: { of: "ours", limit: 0 },
      }),
      measure(`wake-ups in ${windowMs / 1000} s, median`, "times", median(all("ours", "sleeps")), {
        reference: median(all("theirs", "sleeps")),
      }),
      measure("CPU time, all of it", "ticks", sum(all("ours", "ticks")), {
        reference: sum(all("theirs", "ticks")),
      }),
    ],
    samples: windows.map(({ ours, theirs }) => ({
      "reference ticks": theirs.ticks,
      "ours ticks": ours.ticks,
      "ours wake-ups": ours.sleeps,
    })),
  };
}

function useOf(pids: readonly number[]): CpuUse {
  const uses = pids.map(cpuUse);
  return {
    ticks: uses.reduce((sum, use) => sum + use.ticks, 0),
    sleeps: uses.reduce((sum, use) => sum + use.sleeps, 0),
  };
}

function since(before: CpuUse, after: CpuUse): CpuUse {
  return { ticks: after.ticks - before.ticks, sleeps: after.sleeps - before.sleeps };
}
