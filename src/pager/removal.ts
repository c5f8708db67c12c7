/** What a REMOVE (or UNMAP) of host addresses means for the pages of an image. PURE. */
import type { RegionMap } from "../snapshot/regions.ts";
import type { PageTable } from "./page-table.ts";

/**
 * Marks the pages of host addresses `start` to `end` (exclusive) as removed. Returns how many they
 * are. Twice is the same as once: `removed` is final.
 */
export function markRemoved(
  regions: RegionMap,
  table: PageTable,
  start: number,
  end: number,
): number {
  const { pageSizeBytes } = regions;
  let removed = 0;
  for (let region = 0; region < regions.regions.length; region++) {
    const from = Math.max(start, regions.baseOf(region));
    const to = Math.min(end, regions.endOf(region));
    if (from >= to) continue;
    // A huge page goes only as a whole, so its state changes only if all of it is in the range.
    const first = regions.pageAt(region, from + pageSizeBytes - 1);
    const last = regions.pageAt(region, to);
    if (first >= last) continue;
    table.removeRange(first, last);
    removed += last - first;
  }
  return removed;
}
