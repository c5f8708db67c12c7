/** Pages that a restore is known to need: made up, and written down for `serve` and for guests. */
import { writeFileSync } from "node:fs";
import { SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { FULL_NEED } from "../../src/base/working-set.ts";
import { encodeWorkingSet } from "../../src/snapshot/working-set-file.ts";
import { Random } from "../../test/support/fixtures.ts";

/** Guest pages. */
export interface PageRun {
  readonly first: number;
  readonly count: number;
}

/** A guest that reads through a run demands a page so long after the one before. */
const FAULT_US = 15;
/** Learnt in so many restores: one more changes little. */
const RESTORES = 100;

/**
 * So many pages, evenly over the memory, in runs of a random length with this mean. In the order in
 * which they are needed, which is random too.
 */
export function scatteredRuns(
  memoryPages: number,
  pages: number,
  meanLength: number,
  seed: number,
): PageRun[] {
  const random = new Random(seed);
  const slotPages = Math.floor((memoryPages * meanLength) / pages);
  const runs: PageRun[] = [];
  let left = pages;
  for (let slot = 0; left > 0 && (slot + 1) * slotPages <= memoryPages; slot++) {
    const isLast = (slot + 2) * slotPages > memoryPages;
    const wanted = isLast ? left : 1 + random.below(2 * meanLength - 1);
    const count = Math.min(left, wanted, slotPages - 1);
    // Never at the end of its slot, lest two runs touch.
    runs.push({ first: slot * slotPages + random.below(slotPages - count), count });
    left -= count;
  }
  for (let index = runs.length - 1; index > 0; index--) {
    const other = random.below(index + 1);
    [runs[index], runs[other]] = [runs[other]!, runs[index]!];
  }
  return runs;
}

export function countPages(runs: readonly PageRun[]): number {
  return runs.reduce((sum, { count }) => sum + count, 0);
}

/** As `restorer` reads them. */
export function writeRuns(path: string, runs: readonly PageRun[]): void {
  writeFileSync(path, runs.map(({ first, count }) => `${first} ${count}\n`).join(""));
}

/** As if many restores had needed these runs, in pages of 4 KiB, one after the other. */
export function writeWorkingSet(path: string, sizeBytes: number, runs: readonly PageRun[]): void {
  const timeOf = new Map<number, number>();
  for (const { first, count } of runs) {
    for (let page = first; page < first + count; page++) timeOf.set(page, timeOf.size * FAULT_US);
  }
  const pages = Uint32Array.from(timeOf.keys()).sort();
  const set = {
    sizeBytes,
    restores: RESTORES,
    pages,
    needs: new Uint8Array(pages.length).fill(FULL_NEED),
    timesUs: pages.map((page) => timeOf.get(page)!),
  };
  writeFileSync(path, encodeWorkingSet({ set, indexSha256: null }));
}

export function smallPages(sizeBytes: number): number {
  return sizeBytes / SMALL_PAGE_BYTES;
}
