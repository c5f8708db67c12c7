/** Working sets and recordings for tests: small ones by hand, any ones for properties. */
import fc from "fast-check";
import type { WorkingSet } from "../../src/base/working-set.ts";
import type { RestoreRecording } from "../../src/pager/working-set.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { openImage } from "../../src/source/stored-image.ts";
import { imageWorkingSet } from "../../src/source/working-set-place.ts";
import { PAGE_BYTES } from "./fixtures.ts";

/** [page, need, timeUs] */
export type Row = readonly [page: number, need: number, timeUs: number];

export function setOf(rows: readonly Row[], pageCount = 1000, restores = 1): WorkingSet {
  return {
    sizeBytes: pageCount * PAGE_BYTES,
    restores,
    pages: Uint32Array.from(rows, ([page]) => page),
    needs: Uint8Array.from(rows, ([, need]) => need),
    timesUs: Uint32Array.from(rows, ([, , timeUs]) => timeUs),
  };
}

export function rowsOf({ pages, needs, timesUs }: WorkingSet): Row[] {
  return Array.from(pages, (page, index) => [page, needs[index]!, timesUs[index]!]);
}

/** Gives an image in a folder this working set, as a server would. */
export async function plantWorkingSet(path: string, name: string, set: WorkingSet): Promise<void> {
  const { signal } = new AbortController();
  const store = DirectoryStore.open(path);
  await imageWorkingSet(await openImage(store, name, signal)).write(set, signal);
  await store.close();
}

export interface RecordingParts {
  /** Demanded, in this order; each 100 µs after the one before, if no times are given. */
  readonly pages?: readonly number[];
  readonly timesUs?: readonly number[];
  /** [start, count] */
  readonly ahead?: readonly (readonly [start: number, count: number])[];
  readonly pageCount?: number;
  readonly pageSizeBytes?: number;
}

export function recordingOf(parts: RecordingParts): RestoreRecording {
  const { pages = [], ahead = [], pageCount = 1000, pageSizeBytes = PAGE_BYTES } = parts;
  return {
    sizeBytes: pageCount * PAGE_BYTES,
    pageSizeBytes,
    pages: Uint32Array.from(pages),
    timesUs: Float64Array.from(parts.timesUs ?? pages.map((_, place) => 100 * (place + 1))),
    aheadStarts: Uint32Array.from(ahead, ([start]) => start),
    aheadCounts: Uint32Array.from(ahead, ([, count]) => count),
  };
}

/** Of an image of so many pages. */
export const anySet = (pageCount: number): fc.Arbitrary<WorkingSet> =>
  fc
    .record({
      pages: fc.uniqueArray(fc.nat(pageCount - 1), { maxLength: 80 }),
      needs: fc.array(fc.integer({ min: 1, max: 255 }), { minLength: 80, maxLength: 80 }),
      times: fc.array(fc.oneof(fc.nat(5000), fc.nat(2 ** 32 - 1)), {
        minLength: 80,
        maxLength: 80,
      }),
      restores: fc.integer({ min: 1, max: 2 ** 32 - 1 }),
    })
    .map(({ pages, needs, times, restores }) => {
      const rows = pages
        .sort((a, b) => a - b)
        .map((page, index): Row => [page, needs[index]!, times[index]!]);
      return setOf(rows, pageCount, restores);
    });

/** Of a guest with pages of `perPage` × 4 KiB. */
export const anyRecording = (pageCount: number, perPage = 1): fc.Arbitrary<RestoreRecording> => {
  const guestPages = Math.ceil(pageCount / perPage);
  const page = fc.nat(guestPages - 1);
  const ahead = fc.tuple(page, fc.integer({ min: 1, max: 20 }));
  return fc
    .record({
      pages: fc.array(page, { maxLength: 60 }),
      gaps: fc.array(fc.nat(10_000), { minLength: 60, maxLength: 60 }),
      ahead: fc.array(ahead, { maxLength: 10 }),
    })
    .map(({ pages, gaps, ahead }) => {
      let timeUs = 0;
      const timesUs = pages.map((_, place) => (timeUs += gaps[place]!));
      const pageSizeBytes = perPage * PAGE_BYTES;
      return recordingOf({ pages, timesUs, ahead, pageCount, pageSizeBytes });
    });
};
