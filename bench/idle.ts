/** What VMs cost that do nothing: CPU time and wake-ups of the handler with 100 of them. */
import { setTimeout as delay } from "node:timers/promises";
import { ReferenceCrowd, TOUCHED_PAGES } from "./support/crowd.ts";
import { ManyVms } from "./support/guests.ts";
import { type HandlerOptions, referenceCommand, startServe } from "./support/handlers.ts";
import { type CpuUse, cpuUse } from "./support/proc.ts";
import { measure, type Report } from "./support/report.ts";
import { MIB, type Workspace } from "./support/workspace.ts";

/** Some 10 s after the last work V8 collects its garbage, for the last time until there is more. */
const REST_MS = 25_000;
const WATCH_MS = 10_000;

interface Watched {
  readonly resting: CpuUse;
  readonly idle: CpuUse;
}

export async function idle(workspace: Workspace): Promise<Report> {
  const count = workspace.scaled(100, 4);
  const memoryPath = workspace.sparseFile(workspace.scaled(256, 16) * MIB);
  const options: HandlerOptions = { socketPath: workspace.newPath("sock"), memoryPath };
  const references = { ...options, socketPath: workspace.newPath("sock") };

  await using serve = (await startServe(options)).child;
  await using vms = new ManyVms(workspace, options, TOUCHED_PAGES);
  await vms.hold(count);
  const ours = await watch(workspace, [serve.pid]);

  await using crowd = await ReferenceCrowd.start(workspace, references, count);
  const theirs = await watch(
    workspace,
    crowd.handlers.map((handler) => handler.pid),
  );
  return {
    bench: "idle",
    method:
      `${count} VMs attached and asleep; what the process used in ` +
      `${workspace.scaled(WATCH_MS, 200) / 1000} s, beginning ` +
      `${workspace.scaled(REST_MS, 100) / 1000} s after the last page was touched, and before ` +
      `that. On the C side ${count} processes together.`,
    commands: [
      serve.argv.join(" "),
      vms.command,
      referenceCommand(workspace, references).join(" "),
    ],
    measures: [
      measure("CPU time (10 ms ticks)", "ticks", ours.idle.ticks, {
        reference: theirs.idle.ticks,
        target: { of: "ours", limit: 0 },
      }),
      measure("wake-ups", "times", ours.idle.sleeps, { reference: theirs.idle.sleeps }),
      measure("CPU time before that", "ticks", ours.resting.ticks, {
        reference: theirs.resting.ticks,
      }),
    ],
    samples: [],
  };
}

async function watch(workspace: Workspace, pids: readonly number[]): Promise<Watched> {
  const resting = await useDuring(pids, workspace.scaled(REST_MS, 100));
  return { resting, idle: await useDuring(pids, workspace.scaled(WATCH_MS, 200)) };
}

async function useDuring(pids: readonly number[], milliseconds: number): Promise<CpuUse> {
  const before = pids.map(cpuUse);
  await delay(milliseconds);
  const after = pids.map(cpuUse);
  const total = (uses: readonly CpuUse[], of: keyof CpuUse): number =>
    uses.reduce((sum, use) => sum + use[of], 0);
  return {
    ticks: total(after, "ticks") - total(before, "ticks"),
    sleeps: total(after, "sleeps") - total(before, "sleeps"),
  };
}
