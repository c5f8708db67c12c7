/**
 * The working set of a memory image: the pages that restored VMs needed, how often and how early.
 * Plain data: `pager/` learns it and plans by it, `snapshot/` writes it down. PURE.
 *
 * Pages are always of 4 KiB, whatever the guest's page size is: VMs with small and with huge pages
 * learn the same set.
 */
import { assert } from "./assert.ts";
import { SMALL_PAGE_BYTES } from "./units.ts";

/** Columns: `pages[i]` goes with `needs[i]` and `timesUs[i]`. Nobody changes them once made. */
export interface WorkingSet {
  /** Of the memory image. */
  readonly sizeBytes: number;
  /** How many restores this was learnt from, those of its ancestors included. */
  readonly restores: number;
  /** Ascending ordinals of pages of 4 KiB. */
  readonly pages: Uint32Array;
  /** In which share of the latest restores the page was needed: 255 is every one, 0 cannot be. */
  readonly needs: Uint8Array;
  /** How long after the handler met the VM the page was needed first, in the mean of restores. */
  readonly timesUs: Uint32Array;
}

export const FULL_NEED = 255;
/** Needed in at least three of four restores. */
export const USUAL_NEED = 192;
export const MAX_TIME_US = 0xffff_ffff;
export const MAX_RESTORES = 0xffff_ffff;
/**
 * 1 GiB: what is installed ahead of a VM competes with what it asks for, and at some GiB/s more
 * than this comes too late to be ahead of anything. Such a set takes 9 bytes per page.
 */
export const MAX_WORKING_SET_PAGES = 262_144;
/** 16 TiB: the ordinals of pages have 32 bits. */
export const MAX_WORKING_SET_IMAGE_BYTES = 2 ** 32 * SMALL_PAGE_BYTES;

/** Pages of 4 KiB; the last one may be shorter in images that other tools made. */
export function smallPagesOf(sizeBytes: number): number {
  assert(sizeBytes > 0 && sizeBytes <= MAX_WORKING_SET_IMAGE_BYTES, "an image of 1 B to 16 TiB");
  return Math.ceil(sizeBytes / SMALL_PAGE_BYTES);
}

/** How many pages are needed at least so often. */
export function countNeeded({ needs }: WorkingSet, leastNeed: number): number {
  let count = 0;
  for (const need of needs) if (need >= leastNeed) count++;
  return count;
}
