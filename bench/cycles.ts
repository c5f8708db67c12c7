/**
 * What VMs leave behind: thousands of them come, touch four pages and go, and the process that
 * served them has to stay as small as it was. A C handler ends with its VM: nothing to compare.
 *
 * V8 lets garbage pile up until a full collection pays, which takes some 40,000 VMs; after each the
 * heap is as small as before (`node --trace-gc`). So growth over the first 10,000 is no leak by
 * itself, and what is judged is the peak of later ones: what even one forgotten part of a session
 * would add to it is far beyond the limit.
 */
import { setTimeout as delay } from "node:timers/promises";
import { ManyVms } from "../src/bench/guests.ts";
import { median, slope } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { HandlerCommand } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import { memoryKib, openFds } from "./support/proc.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { measure, type Report } from "./support/report.ts";

const TOUCHED_PAGES = 4;
/** Samples in each third of the run. */
const SAMPLES = 10;
/** Samples whose growth is that of heaps and caches filling up. */
const WARM_UP_SAMPLES = 2;
/**
 * Of the peak, over 10,000 VMs. The smallest buffer that a session holds has 4 KiB (its counters):
 * forgotten, it would make 40,000. V8's own steps are up to 14,000.
 */
const GROWTH_LIMIT_KIB = 16_000;
const SETTLE_MS = 500;

interface Sample {
  readonly cycles: number;
  readonly fds: number;
  readonly rssAnonKib: number;
  readonly rssKib: number;
  readonly msPerCycle: number;
}

export async function cycles(workspace: PromiseRun): Promise<Report> {
  const perThird = workspace.scaled(10_000, 60);
  await using serve = await HandlerProcess.start(HandlerCommand.ofServe(), {
    socketPath: workspace.newPath("sock"),
    memoryPath: workspace.randomFile(workspace.scaled(64, 4) * MIB),
  });
  await using vms = new ManyVms(workspace, serve, TOUCHED_PAGES);
  const samples: Sample[] = [];
  for (let index = 1; index <= 3 * SAMPLES; index++) {
    const milliseconds = await vms.cycle(perThird / SAMPLES);
    await delay(workspace.scaled(SETTLE_MS, 10));
    const { rssAnon, rss } = memoryKib(serve.pid);
    samples.push({
      cycles: (index * perThird) / SAMPLES,
      fds: openFds(serve.pid),
      rssAnonKib: rssAnon,
      rssKib: rss,
      msPerCycle: milliseconds / (perThird / SAMPLES),
    });
  }
  const warm = samples.slice(WARM_UP_SAMPLES, SAMPLES);
  const growth = slope(warm.map((each) => [each.cycles, each.rssAnonKib])) * 1000;
  const peak = (third: number): number =>
    Math.max(...samples.slice(third * SAMPLES, (third + 1) * SAMPLES).map((s) => s.rssAnonKib));
  return {
    bench: "cycles",
    method:
      `${3 * perThird} VMs one after the other on one process, each a process of its own that ` +
      `touches ${TOUCHED_PAGES} pages and exits; sampled every ${perThird / SAMPLES} at rest. ` +
      `Growth: least squares over the first ${perThird} without the first ` +
      `${(WARM_UP_SAMPLES * perThird) / SAMPLES}. Peak growth: last third against middle third.`,
    commands: [serve.commandLine, vms.command],
    measures: [
      measure("descriptors gained", "fds", samples.at(-1)!.fds - warm[0]!.fds, {
        target: { of: "ours", limit: 0 },
      }),
      measure("RssAnon, growth of the peak", "KiB", peak(2) - peak(1), {
        target: { of: "ours", limit: GROWTH_LIMIT_KIB },
      }),
      measure(`RssAnon growth per 1000, to ${perThird}`, "KiB", growth),
      measure("RssAnon, peak of all", "MiB", Math.max(...[0, 1, 2].map(peak)) / 1024),
      measure("one VM, start to end", "ms", median(samples.map((each) => each.msPerCycle))),
    ],
    samples: samples.map((each) => ({ ...each })),
  };
}
