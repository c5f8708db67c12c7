/**
 * What VMs cost in memory: the private pages (RssAnon) of one process serving 1 to 101 VMs. Pages
 * of the snapshot file are the page cache's and shared, so they are not counted on either side.
 *
 * Taken twice, each with a process of its own: at once, garbage of a hundred handshakes included,
 * and at rest, when V8 has collected it.
 */
import { setTimeout as delay } from "node:timers/promises";
import { ReferenceCrowd, TOUCHED_PAGES } from "./support/crowd.ts";
import { ManyVms } from "./support/guests.ts";
import { type HandlerOptions, referenceCommand, startServe } from "./support/handlers.ts";
import { memoryKib } from "./support/proc.ts";
import { type Measure, measure, type Report, type Target } from "./support/report.ts";
import { MIB, type Workspace } from "./support/workspace.ts";

const ONE_VM_LIMIT_MIB = 110;
const FURTHER_VM_LIMIT: Target = { of: "ours", limit: 100 };
/** Before each sample; V8 collects garbage some 8 s after the last work. */
const PAUSE_MS = { "at once": 1000, "at rest": 15_000 } as const;
type When = keyof typeof PAUSE_MS;

interface Sample {
  readonly when: When;
  readonly vms: number;
  readonly rssAnonKib: number;
  readonly rssKib: number;
}

interface Growth {
  readonly samples: readonly Sample[];
  readonly commands: readonly string[];
}

export async function memory(workspace: Workspace): Promise<Report> {
  const memoryPath = workspace.randomFile(workspace.scaled(256, 16) * MIB);
  const options = (): HandlerOptions => ({ socketPath: workspace.newPath("sock"), memoryPath });
  const atOnce = await grow(workspace, options(), "at once");
  const atRest = await grow(workspace, options(), "at rest");
  const references = options();
  const theirs = await referenceKib(workspace, references);
  const first = atOnce.samples[0]!;
  return {
    bench: "memory",
    method:
      `RssAnon of one process, first with 1 VM, then with ${atOnce.samples.at(-1)!.vms}; each VM ` +
      `a process of its own, of ${workspace.scaled(256, 16)} MiB, that touched ${TOUCHED_PAGES} ` +
      "pages. The C handler is one process for each VM, so that a further VM costs all of it " +
      "again. At once: 1 s after the last VM came; at rest: 15 s after, V8 having tidied up.",
    commands: [...atOnce.commands, referenceCommand(workspace, references).join(" ")],
    measures: [
      measure("RssAnon, 1 VM", "MiB", first.rssAnonKib / 1024, {
        reference: theirs / 1024,
        target: { of: "ours", limit: ONE_VM_LIMIT_MIB },
      }),
      furtherVm(atOnce, "at once", theirs),
      furtherVm(atRest, "at rest", theirs),
      measure("VmRSS, 1 VM", "MiB", first.rssKib / 1024),
    ],
    samples: [...atOnce.samples, ...atRest.samples].map((each) => ({ ...each })),
  };
}

async function grow(workspace: Workspace, options: HandlerOptions, when: When): Promise<Growth> {
  const furtherVms = workspace.scaled(100, 4);
  const pauseMs = workspace.scaled(PAUSE_MS[when], 50);
  await using serve = (await startServe(options)).child;
  await using vms = new ManyVms(workspace, options, TOUCHED_PAGES);
  const samples: Sample[] = [];
  for (const more of [1, furtherVms / 2, furtherVms / 2]) {
    await vms.hold(more);
    await delay(pauseMs);
    const { rssAnon, rss } = memoryKib(serve.pid);
    const before = samples.at(-1)?.vms ?? 0;
    samples.push({ when, vms: before + more, rssAnonKib: rssAnon, rssKib: rss });
  }
  return { samples, commands: [serve.argv.join(" "), vms.command] };
}

function furtherVm({ samples }: Growth, when: When, theirs: number): Measure {
  const first = samples[0]!;
  const last = samples.at(-1)!;
  const each = (last.rssAnonKib - first.rssAnonKib) / (last.vms - first.vms);
  return measure(`each further VM, ${when}`, "KiB", each, {
    reference: theirs,
    target: FURTHER_VM_LIMIT,
  });
}

async function referenceKib(workspace: Workspace, options: HandlerOptions): Promise<number> {
  await using crowd = await ReferenceCrowd.start(workspace, options, 1);
  return memoryKib(crowd.handlers[0]!.pid).rssAnon;
}
