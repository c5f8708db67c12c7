/**
 * Four VMs that fault at the same time: one process of ours for all, against a C handler for each.
 * Nothing is pinned, so the scheduler decides; for information.
 */
import { faulterCommand, type GuestPlan, timeFaults } from "../src/bench/guests.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB, type Workspace } from "../src/bench/workspace.ts";
import { HandlerCommand } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { measure, type Report } from "./support/report.ts";

const VMS = 4;

export async function fanOut(workspace: PromiseRun): Promise<Report> {
  const faults = workspace.scaled(16_000, 500);
  const rounds = workspace.scaled(7, 2);
  const memoryPath = workspace.randomFile(workspace.scaled(64, 4) * MIB);
  const plan: GuestPlan = { memoryPath, faults, order: "random" };
  const reference = workspace.referenceCommand();
  const start = async (command: HandlerCommand): Promise<HandlerProcess> =>
    await HandlerProcess.start(command, { socketPath: workspace.newPath("sock"), memoryPath });
  await using serve = await start(HandlerCommand.ofServe());

  const runReference = async (): Promise<number> => {
    const handlers: HandlerProcess[] = [];
    try {
      while (handlers.length < VMS) handlers.push(await start(reference));
      return await throughput(workspace, handlers, plan);
    } finally {
      for (const handler of handlers) await handler[Symbol.asyncDispose]();
    }
  };
  const runServe = async (): Promise<number> =>
    await throughput(workspace, Array<HandlerProcess>(VMS).fill(serve), plan);

  await runServe();
  const samples: { "reference faults/s": number; "ours faults/s": number }[] = [];
  for (let index = 0; index < rounds; index++) {
    const first = index % 2 === 0 ? await runServe() : await runReference();
    const second = index % 2 === 0 ? await runReference() : await runServe();
    const [ours, theirs] = index % 2 === 0 ? [first, second] : [second, first];
    samples.push({ "reference faults/s": theirs, "ours faults/s": ours });
  }
  return {
    bench: "fan-out",
    method:
      `${rounds} alternating rounds; ${VMS} VMs with one faulting thread each, ${faults} faults ` +
      "each, at the same time; faults of all over the time of the slowest. Here more is better.",
    commands: [
      reference.template,
      serve.commandLine,
      faulterCommand(workspace, serve.target.socketPath, plan).join(" "),
    ],
    measures: [
      measure("all VMs", "faults/s", median(samples.map((each) => each["ours faults/s"])), {
        reference: median(samples.map((each) => each["reference faults/s"])),
        ratio: median(samples.map((each) => each["ours faults/s"] / each["reference faults/s"])),
      }),
    ],
    samples,
  };
}

/** Faults per second. The guests start within milliseconds of each other and run for a second. */
async function throughput(
  workspace: Workspace,
  handlers: readonly HandlerProcess[],
  plan: GuestPlan,
): Promise<number> {
  const times = await Promise.all(handlers.map((each) => timeFaults(workspace, each, plan)));
  const slowestMs = Math.max(...times.map((each) => each.total_ms));
  return (handlers.length * plan.faults * 1000) / slowestMs;
}
