/** The scenarios: what a guest waits for, alone, with many threads, in a scan, among many VMs. */
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { Contestant } from "./contender.ts";
import { Crowd } from "./crowd.ts";
import { type FaultTimes, type GuestPlan, timeFaults } from "./guests.ts";
import type { Figure, Round, Sample, Scenario, Settings } from "./scenario.ts";
import { MIB } from "./workspace.ts";

const latency = (percent: 50 | 90 | 99): Figure => ({
  key: `p${percent}_us`,
  title: `p${percent}`,
  unit: "µs",
  isCompared: true,
});
const pagesPerSecond: Figure = {
  key: "pages_per_s",
  title: "pages per second",
  unit: "pages/s",
  isCompared: true,
};

const pagesOf = (settings: Settings): number => (settings.memoryMib * MIB) / SMALL_PAGE_BYTES;
const amount = (settings: Settings): string =>
  `${pagesOf(settings)} pages of 4 KiB, each once (${settings.memoryMib} MiB)`;

const random: Scenario = {
  name: "random",
  summary: "random single-page faults by one thread: how long each takes",
  describe: (settings) =>
    `One thread reads ${amount(settings)} in random order, one after the other.`,
  contenders: ["reference", "off", "auto", "mapping"],
  isPinned: true,
  figures: [latency(50), latency(90), latency(99), pagesPerSecond],
  // The spinning worker needs no wake-up, so it has to be far ahead.
  targets: [
    { contender: "off", figure: "p50_us", of: "ratio", relation: "<=", limit: 1.1 },
    { contender: "off", figure: "p99_us", of: "ratio", relation: "<=", limit: 1.1 },
    { contender: "auto", figure: "p50_us", of: "ratio", relation: "<=", limit: 0.45 },
    { contender: "auto", figure: "p99_us", of: "ratio", relation: "<=", limit: 0.8 },
  ],
  measure: async (contestant, round) => sampleOf(await fault(contestant, round, {})),
};

const threads: Scenario = {
  name: "threads",
  summary: "threads of one VM that fault at once: how many pages a second",
  describe: (settings) =>
    `${settings.threads} threads read ${amount(settings)} in random order, all at once, each its ` +
    "own share of them.",
  contenders: ["reference", "auto", "off", "mapping"],
  isPinned: false,
  figures: [pagesPerSecond, latency(50), latency(99)],
  targets: [{ contender: "auto", figure: "pages_per_s", of: "ratio", relation: ">=", limit: 0.95 }],
  measure: async (contestant, round) =>
    sampleOf(await fault(contestant, round, { threads: round.settings.threads })),
};

const sequential: Scenario = {
  name: "sequential",
  summary: "one thread scans all pages in order: how many a second",
  describe: (settings) => `One thread reads ${amount(settings)} from the first to the last.`,
  contenders: ["reference", "auto", "off", "mapping"],
  isPinned: true,
  figures: [
    pagesPerSecond,
    { key: "mib_per_s", title: "throughput", unit: "MiB/s", isCompared: true },
    latency(50),
    latency(99),
  ],
  targets: [],
  measure: async (contestant, round) => {
    const sample = sampleOf(await fault(contestant, round, { order: "sequential" }));
    return { ...sample, mib_per_s: (sample.pages_per_s! * SMALL_PAGE_BYTES) / MIB };
  },
};

const crowd: Scenario = {
  name: "crowd",
  summary: "one busy VM among many that sleep, against the same VM alone",
  describe: (settings) =>
    `One thread reads ${amount(settings)} in random order, in a VM that is alone, and in one ` +
    `beside ${settings.vms} VMs at rest. A handler that takes one VM has one process for each.`,
  contenders: ["reference", "auto", "off"],
  isPinned: true,
  figures: [
    { key: "p50_us", title: "p50, in the crowd", unit: "µs", isCompared: true },
    { key: "p99_us", title: "p99, in the crowd", unit: "µs", isCompared: true },
    { key: "alone_p50_us", title: "p50, alone", unit: "µs", isCompared: true },
    { key: "alone_p99_us", title: "p99, alone", unit: "µs", isCompared: true },
    { key: "p50_growth", title: "p50, crowd / alone", unit: "×", isCompared: false },
    { key: "p99_growth", title: "p99, crowd / alone", unit: "×", isCompared: false },
  ],
  targets: [
    { contender: "auto", figure: "p99_growth", of: "value", relation: "<=", limit: 1.2 },
    { contender: "off", figure: "p99_growth", of: "value", relation: "<=", limit: 1.2 },
  ],
  measure: async (contestant, round) => {
    // In turns, or what comes with the second VM of a pair would look like the crowd's doing.
    const isCrowdFirst = round.index % 2 === 1;
    const early = isCrowdFirst ? await faultInCrowd(contestant, round) : null;
    const alone = await fault(contestant, round, {});
    const crowded = early ?? (await faultInCrowd(contestant, round));
    return {
      p50_us: crowded.p50_us,
      p99_us: crowded.p99_us,
      alone_p50_us: alone.p50_us,
      alone_p99_us: alone.p99_us,
      p50_growth: crowded.p50_us / alone.p50_us,
      p99_growth: crowded.p99_us / alone.p99_us,
    };
  },
};

export const scenarios: readonly Scenario[] = [random, threads, sequential, crowd];

/** One fresh guest that reads every page once. */
async function fault(
  contestant: Contestant,
  round: Round,
  wishes: Partial<GuestPlan>,
): Promise<FaultTimes> {
  return await contestant.withHandler(
    async (handler) =>
      await timeFaults(round.workspace, handler, {
        memoryPath: contestant.memoryPath,
        faults: pagesOf(round.settings),
        order: "random",
        seed: round.index + 1,
        ...(contestant.cpus === null ? {} : { cpu: contestant.cpus.guest }),
        ...wishes,
      }),
  );
}

async function faultInCrowd(contestant: Contestant, round: Round): Promise<FaultTimes> {
  const { workspace, settings } = round;
  const { contender, memoryPath } = contestant;
  if (contender.command === null || !contender.servesMany) {
    await using others = await Crowd.each(workspace, contender.command!, memoryPath, settings.vms);
    const times = await fault(contestant, round, {});
    await others.disperse(null);
    return times;
  }
  return await contestant.withHandler(async (handler) => {
    await using others = await Crowd.at(workspace, handler!, settings.vms);
    const times = await fault(contestant, round, {});
    await others.disperse(handler);
    return times;
  });
}

function sampleOf({ p50_us, p90_us, p99_us, pages_per_s }: FaultTimes): Sample {
  return { p50_us, p90_us, p99_us, pages_per_s };
}
