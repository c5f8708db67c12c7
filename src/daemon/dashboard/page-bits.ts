/**
 * Sets of pages as the map needs them: 16 pages a word, as many as a word of the page table has, so
 * that a word of each says all about the same pages. Page `n` is bit `n % 16` of word `n / 16`.
 * PURE.
 */
import { type OwnerRuns, ZERO_OWNER } from "../../base/owner-runs.ts";

export const PAGES_PER_WORD = 16;
const ALL = 0xffff;

export type PageBits = Uint16Array;

export function newPageBits(pageCount: number): PageBits {
  return new Uint16Array(Math.ceil(pageCount / PAGES_PER_WORD));
}

/** The bits of a word that stand for pages `first` to `end` (exclusive). */
export function maskOf(word: number, first: number, end: number): number {
  const from = Math.max(0, first - word * PAGES_PER_WORD);
  const to = Math.min(PAGES_PER_WORD, end - word * PAGES_PER_WORD);
  return from >= to ? 0 : (ALL << from) & (ALL >>> (PAGES_PER_WORD - to));
}

export function addPage(bits: PageBits, page: number): void {
  bits[page >>> 4]! |= 1 << (page & 15);
}

export function hasPage(bits: PageBits, page: number): boolean {
  return (bits[page >>> 4]! & (1 << (page & 15))) !== 0;
}

/** Pages `first` to `end` (exclusive); beyond the set there is nothing. */
export function addPages(bits: PageBits, first: number, end: number): void {
  const limit = Math.min(end, bits.length * PAGES_PER_WORD);
  if (first >= limit) return;
  const firstWord = Math.floor(first / PAGES_PER_WORD);
  const lastWord = Math.floor((limit - 1) / PAGES_PER_WORD);
  bits[firstWord]! |= maskOf(firstWord, first, limit);
  if (lastWord === firstWord) return;
  bits.fill(ALL, firstWord + 1, lastWord);
  bits[lastWord]! |= maskOf(lastWord, first, limit);
}

/** Pages that no layer holds bytes of. */
export function zeroPagesOf(runs: OwnerRuns, pageSizeBytes: number, pageCount: number): PageBits {
  const bits = newPageBits(pageCount);
  const { starts, owners, sizeBytes } = runs;
  let zeroFrom = -1;
  for (let run = 0; run <= owners.length; run++) {
    const isZero = run < owners.length && owners[run] === ZERO_OWNER;
    if (isZero && zeroFrom < 0) zeroFrom = starts[run]!;
    if (isZero || zeroFrom < 0) continue;
    // Zero chunks are neighbours: a page may lie in two of them.
    const end = run < owners.length ? starts[run]! : sizeBytes;
    addPages(bits, Math.ceil(zeroFrom / pageSizeBytes), Math.floor(end / pageSizeBytes));
    zeroFrom = -1;
  }
  return bits;
}
