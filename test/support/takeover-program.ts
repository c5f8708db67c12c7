/**
 * A handler that may be killed at any moment: the engine on descriptors that somebody else holds.
 * Adopts what is known of the VM, says `recovered`, and after a line on its stdin serves it.
 */
import { createInterface } from "node:readline";
import { Engine } from "../../src/engine/engine.ts";
import { recoverPages } from "../../src/engine/recover-pages.ts";
import { SessionMemory } from "../../src/engine/session-memory.ts";
import { SurvivingBatch, SurvivingBatches } from "../../src/engine/surviving-batches.ts";
import { UFFD_EVENT_REMOVE } from "../../src/linux/abi-userfaultfd.ts";
import { OwnedFd } from "../../src/linux/fd.ts";
import { PageState } from "../../src/pager/page-table.ts";
import { type GuestRegion, RegionMap } from "../../src/snapshot/regions.ts";
import { MemoryFiles } from "../../src/source/memory-files.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";

/** What it can get wrong on purpose, to see that the test sees it. */
export type TakeoverMistake = "forgets-events" | "forgets-removed" | "wakes-nobody";

export interface TakeoverOrder {
  readonly memoryPath: string;
  readonly vmPid: number;
  /** Whether somebody has served the VM before. */
  readonly isTakeover: boolean;
  readonly mistake: TakeoverMistake | null;
  /** It dies at the worst of all moments: it has read a REMOVE, and done nothing about it. */
  readonly isDoomed: boolean;
}

/** When no REMOVE comes, because all who give memory back wait for a page. */
const DOOM_MS = 300;

/** What the next process has to know, in the header of the session memory. */
export interface KeptRegions {
  readonly regions: readonly GuestRegion[];
  readonly pageSizeBytes: number;
  readonly survivalId: number;
}

/** Descriptors that the program inherits, by number. */
const inherited = { userfaultfd: 3, pidfd: 4, memory: 5, oldBatches: 6, newBatches: 7 };

async function main(order: TakeoverOrder): Promise<void> {
  const { mistake, isTakeover, vmPid: pid } = order;
  const { memory, header } = SessionMemory.adopt(new OwnedFd(inherited.memory));
  const kept = JSON.parse(Buffer.from(header).toString()) as KeptRegions;
  const regions = new RegionMap(kept.regions, kept.pageSizeBytes);
  const { survivalId } = kept;
  if (mistake === "forgets-removed") forgetRemoved(memory);
  using old = SurvivingBatches.adopt(new OwnedFd(inherited.oldBatches));
  const left = mistake === "forgets-events" ? null : old;
  const recovered = recoverPages({ memory, regions, batches: left, survivalId });
  const files = MemoryFiles.open(order.memoryPath);
  const batches = SurvivingBatches.adopt(new OwnedFd(inherited.newBatches));
  const engine = await Engine.start({
    ...{ workers: 1, spin: "auto", batches },
    supply: { demand: (part) => files.load(part), hurry: () => {}, release: () => {} },
  });
  const lines = createInterface(process.stdin);
  process.stdout.write(`${JSON.stringify(recovered)}\n`);
  lines.once("line", () => {
    if (order.isDoomed) readAndDie(new SurvivingBatch(batches.addressOf(0)), survivalId);
    const session = engine.attach({
      ...{ pid, regions, image: files.layers, memory, survivalId },
      isTakeover: isTakeover && mistake !== "wakes-nobody",
      userfaultfd: Userfaultfd.fromFd(new OwnedFd(inherited.userfaultfd)),
      pidfd: new OwnedFd(inherited.pidfd),
      socket: null,
      onError: "kill",
    });
    process.stdout.write("serving\n");
    void session.ended.then(async (end) => {
      process.stdout.write(`${JSON.stringify({ end, counters: session.stats.counters() })}\n`);
      await engine.close();
      files.close();
      lines.close();
    });
  });
  lines.once("close", () => process.exit());
}

function readAndDie(survivor: SurvivingBatch, survivalId: number): never {
  const uffd = Userfaultfd.fromFd(new OwnedFd(inherited.userfaultfd));
  const { batch } = survivor;
  const deadlineMs = performance.now() + DOOM_MS;
  for (let hasRemove = false; !hasRemove && performance.now() < deadlineMs; ) {
    survivor.begin(survivalId);
    for (let index = uffd.drain(batch) - 1; index >= 0; index--) {
      if (batch.eventCode(index) === UFFD_EVENT_REMOVE) hasRemove = true;
    }
  }
  process.kill(process.pid, "SIGKILL");
  throw new Error("unreachable");
}

function forgetRemoved({ pageTable }: SessionMemory): void {
  for (let page = 0; page < pageTable.pageCount; page++) {
    if (pageTable.get(page) === PageState.removed) pageTable.set(page, PageState.missing);
  }
}

await main(JSON.parse(process.argv[2]!) as TakeoverOrder);
