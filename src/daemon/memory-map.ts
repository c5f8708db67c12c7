/**
 * What became of a VM's pages, counted per stretch of memory: the raw material of pictures. PURE.
 */
import { type OwnerRuns, ownerOf, ZERO_OWNER } from "../base/owner-runs.ts";
import { PageState, type PageTable } from "../pager/page-table.ts";

/** Pages of one stretch. They add up to the stretch's length. */
export interface PageCounts {
  /** Installed with the snapshot's bytes. */
  loaded: number;
  /** Installed as zeroes without reading anything. */
  zero: number;
  /** Taken back by the VMM. */
  removed: number;
  /** Never asked for. */
  untouched: number;
}

export interface MapRange {
  readonly firstPage: number;
  readonly pageCount: number;
}

/** Cuts `range` into `cellCount` stretches of the same length, to a page, and counts each. */
export function countPages(
  table: PageTable,
  runs: OwnerRuns,
  pageSizeBytes: number,
  range: MapRange,
  cellCount: number,
): PageCounts[] {
  const cells: PageCounts[] = [];
  for (let cell = 0; cell < cellCount; cell++) {
    const first = range.firstPage + Math.floor((range.pageCount * cell) / cellCount);
    const end = range.firstPage + Math.floor((range.pageCount * (cell + 1)) / cellCount);
    const counts: PageCounts = { loaded: 0, zero: 0, removed: 0, untouched: 0 };
    for (let page = first; page < end; page++) {
      counts[kindOf(table, runs, page, pageSizeBytes)] += 1;
    }
    cells.push(counts);
  }
  return cells;
}

function kindOf(
  table: PageTable,
  runs: OwnerRuns,
  page: number,
  pageSizeBytes: number,
): keyof PageCounts {
  switch (table.get(page)) {
    case PageState.missing:
    case PageState.pending:
      return "untouched";
    case PageState.removed:
      return "removed";
    case PageState.installed:
      return ownerOf(runs, page * pageSizeBytes, pageSizeBytes) === ZERO_OWNER ? "zero" : "loaded";
  }
}
