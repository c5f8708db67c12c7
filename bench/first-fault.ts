/**
 * How soon a fresh process serves: from its start to the ready line, and from a VM's handshake to
 * the VM's first page. Whoever starts one handler per VM pays both for every VM.
 */
import { ManyVms } from "../src/bench/guests.ts";
import { median, quantile } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { Child } from "../src/kit/child.ts";
import { HandlerCommand, type HandlerTarget } from "../src/kit/handler-command.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { measure, type Report } from "./support/report.ts";

const FIRST_FAULT_LIMIT_MS = 5;
const READY_LIMIT_MS = 300;
const READY_DEADLINE_MS = 20_000;

interface Start {
  readonly readyMs: number;
  readonly firstMs: number;
}

export async function firstFault(workspace: PromiseRun): Promise<Report> {
  const starts = workspace.scaled(21, 2);
  const target: HandlerTarget = {
    socketPath: workspace.newPath("sock"),
    memoryPath: workspace.randomFile(workspace.scaled(64, 4) * MIB),
  };
  let vmCommand = "";
  const once = async (command: HandlerCommand): Promise<Start> => {
    const startMs = performance.now();
    await using handler = new Child(["/bin/sh", "-c", `exec ${command.shellLine(target)}`]);
    await handler.line(READY_DEADLINE_MS);
    const readyMs = performance.now() - startMs;
    await using vm = new ManyVms(workspace, target, 1);
    const firstUs = await vm.cycleOnce();
    vmCommand = vm.command;
    await vm.finish();
    await handler.finish();
    return { readyMs, firstMs: firstUs / 1000 };
  };
  const reference = workspace.referenceCommand();
  const serve = HandlerCommand.ofServe(["--once"]);
  const bare = [process.execPath, "-e", "console.log('ready')"];
  const bareMs: number[] = [];
  const theirs: Start[] = [];
  const ours: Start[] = [];
  for (let index = 0; index < starts; index++) {
    theirs.push(await once(reference));
    ours.push(await once(serve));
    bareMs.push(await bareNodeMs(bare));
  }
  const firsts = (side: readonly Start[]): number[] => side.map((each) => each.firstMs);
  const readies = (side: readonly Start[]): number[] => side.map((each) => each.readyMs);
  return {
    bench: "first-fault",
    method:
      `${starts} starts of each, alternating, nothing pinned. First fault: from just ` +
      "before the guest sends the handshake until it has its first word. " +
      "Ready: from spawn (of the shell before it) to the ready line on stdout.",
    commands: [reference.shellLine(target), serve.shellLine(target), vmCommand, bare.join(" ")],
    measures: [
      measure("first fault, median", "ms", median(firsts(ours)), {
        reference: median(firsts(theirs)),
        target: { of: "ours", limit: FIRST_FAULT_LIMIT_MS },
      }),
      measure("first fault, p90", "ms", quantile(firsts(ours), 0.9), {
        reference: quantile(firsts(theirs), 0.9),
      }),
      measure("ready, median", "ms", median(readies(ours)), {
        reference: median(readies(theirs)),
        target: { of: "ours", limit: READY_LIMIT_MS },
      }),
      measure("of it, bare Node", "ms", median(bareMs)),
    ],
    samples: ours.map((each, index) => ({
      "reference first ms": theirs[index]!.firstMs,
      "ours first ms": each.firstMs,
      "reference ready ms": theirs[index]!.readyMs,
      "ours ready ms": each.readyMs,
      "bare Node ms": bareMs[index]!,
    })),
  };
}

/** What Node takes to say a line: the part of our start that no change of ours can shorten. */
async function bareNodeMs(argv: readonly string[]): Promise<number> {
  const startMs = performance.now();
  await using node = new Child(argv);
  await node.line();
  const endMs = performance.now();
  await node.finish();
  return endMs - startMs;
}
