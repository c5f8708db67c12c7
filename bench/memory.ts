/**
 * What VMs cost in memory: the private pages (RssAnon) of one process serving 1 to 101 VMs. Pages
 * of the snapshot file are the page cache's and shared, so they are not counted on either side.
 *
 * Taken one second after the last VM came, so that the garbage of its handshake counts too: V8
 * collects it some 10 s later, and who starts a hundred VMs needs that memory now.
 */
import { setTimeout as delay } from "node:timers/promises";
import { Crowd, TOUCHED_PAGES } from "../src/bench/crowd.ts";
import { ManyVms } from "../src/bench/guests.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { HandlerCommand } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import { memoryKib } from "./support/proc.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { measure, type Report } from "./support/report.ts";

const ONE_VM_LIMIT_MIB = 110;
const FURTHER_VM_LIMIT_KIB = 100;
const PAUSE_MS = 1000;

interface Growth {
  readonly oneVmKib: number;
  readonly allVmsKib: number;
  readonly furtherVmKib: number;
  readonly oneVmRssKib: number;
}

export async function memory(workspace: PromiseRun): Promise<Report> {
  const rounds = workspace.scaled(5, 1);
  const furtherVms = workspace.scaled(100, 4);
  const vmMib = workspace.scaled(256, 16);
  const memoryPath = workspace.randomFile(vmMib * MIB);
  const commands = new Set<string>();
  const growths: Growth[] = [];
  for (let round = 0; round < rounds; round++) {
    growths.push(await grow(workspace, memoryPath, furtherVms, commands));
  }
  await using crowd = await Crowd.each(workspace, workspace.referenceCommand(), memoryPath, 1);
  const reference = crowd.handlers[0]!;
  const theirs = memoryKib(reference.pid).rssAnon;
  const middle = (of: keyof Growth): number => median(growths.map((each) => each[of]));
  return {
    bench: "memory",
    method:
      `RssAnon of one process with 1 VM and with ${1 + furtherVms}, medians over ${rounds} ` +
      `processes. Each VM a process of its own, of ${vmMib} MiB, that touched ${TOUCHED_PAGES} ` +
      "pages; 1 s after the last one came. The C handler is one process for each VM, so that a " +
      "further VM costs all of it again.",
    commands: [...commands, reference.commandLine],
    measures: [
      measure("RssAnon, 1 VM", "MiB", middle("oneVmKib") / 1024, {
        reference: theirs / 1024,
        target: { of: "ours", limit: ONE_VM_LIMIT_MIB },
      }),
      measure("each further VM", "KiB", middle("furtherVmKib"), {
        reference: theirs,
        target: { of: "ours", limit: FURTHER_VM_LIMIT_KIB },
      }),
      measure("VmRSS, 1 VM", "MiB", middle("oneVmRssKib") / 1024),
    ],
    samples: growths.map((each) => ({ ...each })),
  };
}

async function grow(
  workspace: PromiseRun,
  memoryPath: string,
  furtherVms: number,
  commands: Set<string>,
): Promise<Growth> {
  const target = { socketPath: workspace.newPath("sock"), memoryPath };
  await using serve = await HandlerProcess.start(HandlerCommand.ofServe(), target);
  await using vms = new ManyVms(workspace, serve, TOUCHED_PAGES);
  commands.add(serve.commandLine).add(vms.command);
  const pauseMs = workspace.scaled(PAUSE_MS, 50);
  await vms.hold(1);
  await delay(pauseMs);
  const one = memoryKib(serve.pid);
  await vms.hold(furtherVms);
  await delay(pauseMs);
  const all = memoryKib(serve.pid);
  return {
    oneVmKib: one.rssAnon,
    allVmsKib: all.rssAnon,
    furtherVmKib: (all.rssAnon - one.rssAnon) / furtherVms,
    oneVmRssKib: one.rss,
  };
}
