/**
 * Four VMs that fault at the same time: one process of ours for all, against a C handler for each.
 * Nothing is pinned, so the scheduler decides; for information.
 */
import { faulterCommand, timeFaults } from "./support/guests.ts";
import {
  type HandlerOptions,
  referenceCommand,
  startReference,
  startServe,
} from "./support/handlers.ts";
import { median } from "./support/numbers.ts";
import { measure, type Report } from "./support/report.ts";
import { MIB, type Workspace } from "./support/workspace.ts";

const VMS = 4;

export async function fanOut(workspace: Workspace): Promise<Report> {
  const faults = workspace.scaled(16_000, 500);
  const rounds = workspace.scaled(7, 2);
  const memoryPath = workspace.randomFile(workspace.scaled(64, 4) * MIB);
  const newOptions = (): HandlerOptions => ({ socketPath: workspace.newPath("sock"), memoryPath });
  const ownSockets = Array.from({ length: VMS }, newOptions);
  const shared = newOptions();
  await using serve = (await startServe(shared)).child;

  const runReference = async (): Promise<number> => {
    const started = ownSockets.map((options) => startReference(workspace, options));
    const handlers = (await Promise.all(started)).map(({ child }) => child);
    try {
      return await throughput(workspace, ownSockets, faults);
    } finally {
      for (const handler of handlers) await handler[Symbol.asyncDispose]();
    }
  };
  const runServe = async (): Promise<number> =>
    await throughput(workspace, Array<HandlerOptions>(VMS).fill(shared), faults);

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
      referenceCommand(workspace, ownSockets[0]!).join(" "),
      serve.argv.join(" "),
      faulterCommand(workspace, shared, faults).join(" "),
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
  targets: readonly HandlerOptions[],
  faults: number,
): Promise<number> {
  const times = await Promise.all(targets.map((each) => timeFaults(workspace, each, faults)));
  const slowestMs = Math.max(...times.map((each) => each.total_ms));
  return (targets.length * faults * 1000) / slowestMs;
}
