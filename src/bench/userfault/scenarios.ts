/**
 * Scenario `userfault`, in three parts: VMs with KVM Userfault, on a model of the VMM and the
 * kernel. `sync`: a vCPU that waits for each page. `ring`: vCPUs that go on meanwhile, and ask
 * through their rings. `prefault`: all pages, before anybody asks.
 */
import { SMALL_PAGE_BYTES } from "../../base/units.ts";
import { HandlerCommand, shellWord } from "../../kit/handler-command.ts";
import { type BuiltinName, builtinTitles, type Contender, type Contestant } from "../contender.ts";
import type { Figure, Round, Scenario, Settings, Target } from "../scenario.ts";
import { MIB, type Workspace } from "../workspace.ts";
import { timeUserfaults, type UserfaultTimes } from "./vm.ts";

export const USERFAULT = "userfault";
export const userfaultSummary = "VMs with KVM Userfault, on a model of the kernel";

export const partNames = ["sync", "ring", "prefault"] as const;
export type PartName = (typeof partNames)[number];
/** What a handler can do that installs nothing ahead. */
export const demandParts: readonly PartName[] = ["sync", "ring"];

/** Pages that are asked for one by one: enough for a p99. */
const SYNC_SHARE = 1 / 4;
const MOST_VCPUS = 4;

const SYNC_LIMIT = 1.15;
const RING_LIMIT = 2;
const PREFAULT_LIMIT = 1.25;

const pagesOf = ({ memoryMib }: Settings): number => (memoryMib * MIB) / SMALL_PAGE_BYTES;
const syncFaultsOf = (settings: Settings): number => pagesOf(settings) * SYNC_SHARE;

const sync: Scenario = {
  name: `${USERFAULT} sync`,
  summary: "one vCPU that waits for each page: from its request to the reply",
  describe: (settings) =>
    `One vCPU asks for ${syncFaultsOf(settings)} pages of a VM of ${settings.memoryMib} MiB, ` +
    "in random order, through the first socket: from a request until its reply was read.",
  contenders: ["reference", "off", "auto"],
  contenderOf: onDemand,
  isPinned: true,
  figures: [latency(50), latency(90), latency(99), rate("faults_per_s", "faults per second")],
  targets: (["off", "auto"] as const).flatMap((contender) =>
    ["p50_us", "p99_us"].map(
      (figure): Target => ({ contender, figure, of: "ratio", relation: "<=", limit: SYNC_LIMIT }),
    ),
  ),
  measure: async (contestant, round) => {
    const { p50_us, p90_us, p99_us, faults_per_s } = await askOneByOne(contestant, round);
    return { p50_us, p90_us, p99_us, faults_per_s };
  },
};

const ring: Scenario = {
  name: `${USERFAULT} ring`,
  summary: "vCPUs that ask through their rings: faults per second",
  describe: (settings) =>
    `vCPUs ask for all ${pagesOf(settings)} pages of a VM of ${settings.memoryMib} MiB in ` +
    "random order, through their rings, with up to 63 faults of each under way; one vCPU, and " +
    `${MOST_VCPUS}, each for its share. Beside it one vCPU that waits for each page.`,
  contenders: ["reference", "off", "auto"],
  contenderOf: onDemand,
  isPinned: true,
  figures: [
    rate("one_per_s", "faults per second, 1 vCPU"),
    rate("four_per_s", `faults per second, ${MOST_VCPUS} vCPUs`),
    rate("sync_per_s", "one by one, without the ring"),
    { key: "growth", title: "ring / one by one, 1 vCPU", unit: "×", isCompared: false },
  ],
  targets: (["off", "auto"] as const).map((contender) => {
    return { contender, figure: "growth", of: "value", relation: ">=", limit: RING_LIMIT };
  }),
  measure: async (contestant, round) => {
    // In turns, or what comes with being the last VM would look like the way's doing.
    const isSyncFirst = round.index % 2 === 1;
    const early = isSyncFirst ? await askOneByOne(contestant, round) : null;
    const one = await askByRing(contestant, round, 1);
    const four = await askByRing(contestant, round, MOST_VCPUS);
    const { faults_per_s: sync_per_s } = early ?? (await askOneByOne(contestant, round));
    return {
      one_per_s: one.faults_per_s,
      four_per_s: four.faults_per_s,
      sync_per_s,
      growth: one.faults_per_s / sync_per_s,
    };
  },
};

const prefault: Scenario = {
  name: `${USERFAULT} prefault`,
  summary: "all pages installed before anybody asks",
  describe: (settings) =>
    `${pagesOf(settings)} pages (${settings.memoryMib} MiB) that nobody asks for: from just ` +
    "before the second message was sent until the last bit was seen clear, at a look each 50 µs.",
  contenders: ["reference", "auto"],
  contenderOf: ahead,
  isPinned: true,
  figures: [
    { key: "installed_ms", title: "all installed", unit: "ms", isCompared: true },
    rate("pages_per_s", "pages per second"),
  ],
  targets: [
    {
      ...{ contender: "auto", figure: "installed_ms", of: "ratio" },
      ...{ relation: "<=", limit: PREFAULT_LIMIT },
    },
  ],
  measure: async (contestant, { workspace }) => {
    const { total_ms, faults_per_s } = await contestant.withHandler(
      async (handler) =>
        await timeUserfaults(workspace, handler!, { ...placeOf(contestant), way: "prefault" }),
    );
    return { installed_ms: total_ms, pages_per_s: faults_per_s };
  },
};

export const userfaultParts: Readonly<Record<PartName, Scenario>> = { sync, ring, prefault };

function latency(percent: 50 | 90 | 99): Figure {
  return { key: `p${percent}_us`, title: `p${percent}`, unit: "µs", isCompared: true };
}

function rate(key: string, title: string): Figure {
  return { key, title, unit: "pages/s", isCompared: true };
}

function onDemand(name: BuiltinName, workspace: Workspace): Contender {
  const title = builtinTitles[name];
  if (name === "reference") return reference(workspace, "{socket} {memory}");
  const command = HandlerCommand.ofServe(["--async-faults", "--spin", name]);
  return { name, title, command, servesMany: true };
}

function ahead(name: BuiltinName, workspace: Workspace): Contender {
  if (name === "reference") return reference(workspace, "{socket} {memory} --prefault");
  const command = HandlerCommand.ofServe(["--async-faults", "--prefault", "all"]);
  return { name, title: "serve --prefault all", command, servesMany: true };
}

function reference(workspace: Workspace, words: string): Contender {
  const program = shellWord(workspace.program("userfault-fast-handler"));
  const command = new HandlerCommand(`${program} ${words}`);
  return { name: "reference", title: builtinTitles.reference, command, servesMany: false };
}

async function askOneByOne(contestant: Contestant, round: Round): Promise<UserfaultTimes> {
  return await ask(contestant, round, "sync", syncFaultsOf(round.settings), 1);
}

async function askByRing(
  contestant: Contestant,
  round: Round,
  vcpus: number,
): Promise<UserfaultTimes> {
  return await ask(contestant, round, "ring", pagesOf(round.settings), vcpus);
}

/** One fresh VM. */
async function ask(
  contestant: Contestant,
  { workspace, index }: Round,
  way: "sync" | "ring",
  faults: number,
  vcpus: number,
): Promise<UserfaultTimes> {
  const plan = { ...placeOf(contestant), way, faults, vcpus, seed: index + 1 };
  return await contestant.withHandler(
    async (handler) => await timeUserfaults(workspace, handler!, plan),
  );
}

function placeOf({ memoryPath, cpus }: Contestant): { memoryPath: string; cpu: number | null } {
  return { memoryPath, cpu: cpus?.guest ?? null };
}
