/**
 * How soon a fresh process serves: from its start to the ready line, and from a VM's handshake to
 * the VM's first page. Whoever starts one handler per VM pays both for every VM.
 */

import { Child } from "../src/kit/child.ts";
import { ManyVms } from "./support/guests.ts";
import {
  type HandlerOptions,
  referenceCommand,
  type Started,
  serveCommand,
  startReference,
  startServe,
} from "./support/handlers.ts";
import { median, quantile } from "./support/numbers.ts";
import { measure, type Report } from "./support/report.ts";
import { MIB, type Workspace } from "./support/workspace.ts";

const FIRST_FAULT_LIMIT_MS = 5;
const READY_LIMIT_MS = 300;

interface Start {
  readonly readyMs: number;
  readonly firstMs: number;
}

export async function firstFault(workspace: Workspace): Promise<Report> {
  const starts = workspace.scaled(21, 2);
  const options: HandlerOptions = {
    socketPath: workspace.newPath("sock"),
    memoryPath: workspace.randomFile(workspace.scaled(64, 4) * MIB),
  };
  let vmCommand = "";
  const once = async (start: () => Promise<Started>): Promise<Start> => {
    const { child, readyMs } = await start();
    await using _ = child;
    await using vm = new ManyVms(workspace, options, 1);
    const firstUs = await vm.cycleOnce();
    vmCommand = vm.command;
    await vm.finish();
    await child.finish();
    return { readyMs, firstMs: firstUs / 1000 };
  };
  const serve = { ...options, flags: ["--once"] };
  const bare = [process.execPath, "-e", "console.log('ready')"];
  const bareMs: number[] = [];
  const theirs: Start[] = [];
  const ours: Start[] = [];
  for (let index = 0; index < starts; index++) {
    theirs.push(await once(() => startReference(workspace, options)));
    ours.push(await once(() => startServe(serve)));
    bareMs.push(await bareNodeMs(bare));
  }
  const firsts = (side: readonly Start[]): number[] => side.map((each) => each.firstMs);
  const readies = (side: readonly Start[]): number[] => side.map((each) => each.readyMs);
  return {
    bench: "first-fault",
    method:
      `${starts} starts of each, alternating, nothing pinned. First fault: from just ` +
      "before the guest sends the handshake until it has its first word. " +
      "Ready: from spawn to the ready line on stdout.",
    commands: [
      referenceCommand(workspace, options).join(" "),
      serveCommand(serve).join(" "),
      vmCommand,
      bare.join(" "),
    ],
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
