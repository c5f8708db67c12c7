/**
 * Takes over what a handler that has died knew of a VM's pages. Before the VM is attached, and only
 * when the whole process is gone: a thread of it may be inside the kernel until then.
 */
import { markRemoved } from "../pager/removal.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { SessionMemory } from "./session-memory.ts";
import type { SurvivingBatches } from "./surviving-batches.ts";

export interface Recovery {
  /** The memory of the VM, adopted. */
  readonly memory: SessionMemory;
  readonly regions: RegionMap;
  /** What the dead process had read; null: it kept nothing. */
  readonly batches: SurvivingBatches | null;
  /** As which the VM was attached there. */
  readonly survivalId: number;
}

export interface RecoveredPages {
  /** Pages whose faults the dead process had read and not answered: they are missing again. */
  readonly pending: number;
  /** Pages of REMOVE events that it had read last, whether it had noted them or not. */
  readonly removed: number;
}

/**
 * Makes the page table true:
 *
 * - `pending` becomes `missing`, whether the page was installed in the last moment or not: if it
 *   was, nobody faults on it, and whoever installs it ahead is told that it is there.
 * - `removed` stays: the kernel does not know these pages from those that were never touched.
 * - `installed` stays too. A page is noted after it was installed, never before.
 * - REMOVE events that had been read become `removed`, also where that was noted before.
 *
 * May be repeated: a process that dies in the middle leaves what the next one can do again.
 */
export function recoverPages({ memory, regions, batches, survivalId }: Recovery): RecoveredPages {
  const { pageTable } = memory;
  let removed = 0;
  batches?.forEachRemoval(survivalId, (start, end) => {
    removed += markRemoved(regions, pageTable, start, end);
  });
  return { pending: pageTable.forgetPending(), removed };
}
