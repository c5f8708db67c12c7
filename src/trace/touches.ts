/**
 * What a guest did, out of what its handler saw: the pages that it touched, in order, and how long
 * it computed before each. For benchmarks and the simulator, which play it again. PURE.
 */
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { Recording } from "./recording.ts";
import { followWaits } from "./waits.ts";

export interface Touches {
  /** Of the guest's memory. */
  readonly sizeBytes: number;
  /** Ordinals of pages of 4 KiB, each once; of a huge page the first. */
  readonly pages: Uint32Array;
  /** Before each: since the last wait had ended, or had begun if that was later. */
  readonly thinkUs: Uint32Array;
}

/** `most`: the first so many. */
export function touchesOf(recording: Recording, most: number): Touches {
  const { header, records } = recording;
  const smallPages = header.pageSizeBytes / SMALL_PAGE_BYTES;
  const seen = new Set<number>();
  const pages: number[] = [];
  const thinkUs: number[] = [];
  // Where the recording begins in the middle, what was before its first touch is not known.
  let sinceUs = recording.lostInFront > 0 ? (records.timesUs[0] ?? 0) : 0;
  followWaits(recording, {
    begins: (demand) => {
      const atUs = records.timesUs[demand]!;
      const page = records.pages[demand]! * smallPages;
      if (!seen.has(page) && pages.length < most) {
        seen.add(page);
        pages.push(page);
        thinkUs.push(Math.min(Math.max(0, Math.round(atUs - sinceUs)), 0xffff_ffff));
      }
      sinceUs = Math.max(sinceUs, atUs);
    },
    ends: ({ answer }) => {
      if (answer !== null) sinceUs = Math.max(sinceUs, records.timesUs[answer]!);
    },
  });
  return {
    sizeBytes: header.pageCount * header.pageSizeBytes,
    pages: Uint32Array.from(pages),
    thinkUs: Uint32Array.from(thinkUs),
  };
}
