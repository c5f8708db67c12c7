/**
 * What a cell of the map shows, from what is known of its pages: 16 at a time, as a page table has
 * them. PURE.
 */

import { maskOf, PAGES_PER_WORD, type PageBits } from "./page-bits.ts";
import { Cell, cellByte, FULL_SHARE } from "./protocol.ts";

/** Words of a stretch of guest memory, each of 16 pages; `firstWord` is the first of them. */
export interface PageWords {
  readonly firstWord: number;
  /** The page table's: two bits a page. */
  readonly states: Int32Array;
  /** Null: writes are not tracked. */
  readonly dirty: Uint16Array | null;
}

/** What is known of pages besides their states, for all of the VM. */
export interface PageFacts {
  /** Pages that lie in a region; null: all do. */
  readonly existing: PageBits | null;
  /** The image has no bytes of them. */
  readonly zero: PageBits;
  /** To be installed ahead; null: nothing is. */
  readonly planned: PageBits | null;
  readonly demanded: PageBits;
}

/**
 * The byte of the cell of pages `first` to `end` (exclusive): pending if any page is, else dirty if
 * any is, else the commonest kind of those that are not untouched.
 */
export function classify(words: PageWords, facts: PageFacts, first: number, end: number): number {
  let [pages, touched, dirty] = [0, 0, 0];
  let [pending, present, zero, prefaulted, removed] = [0, 0, 0, 0, 0];
  const last = Math.floor((end - 1) / PAGES_PER_WORD);
  for (let word = Math.floor(first / PAGES_PER_WORD); word <= last; word++) {
    const mask = maskOf(word, first, end) & (facts.existing?.[word] ?? 0xffff);
    pages += countBits(mask);
    const states = words.states[word - words.firstWord]!;
    const written = (words.dirty?.[word - words.firstWord] ?? 0) & mask;
    if ((states | written) === 0) continue;
    const low = evenBits(states) & mask;
    const high = evenBits(states >>> 1) & mask;
    const installed = high & ~low;
    const there = installed & ~facts.zero[word]!;
    const ahead = there & (facts.planned?.[word] ?? 0) & ~facts.demanded[word]!;
    pending += countBits(low & ~high);
    removed += countBits(low & high);
    zero += countBits(installed & facts.zero[word]!);
    prefaulted += countBits(ahead);
    present += countBits(there & ~ahead);
    dirty += countBits(written & ~(low & high));
    touched += countBits(low | high | written);
  }
  if (pages === 0) return cellByte(Cell.none, 0);
  if (touched === 0) return cellByte(Cell.untouched, 0);
  const share = Math.ceil((FULL_SHARE * touched) / pages);
  if (pending > 0) return cellByte(Cell.pending, share);
  if (dirty > 0) return cellByte(Cell.dirty, share);
  const most = Math.max(present, zero, prefaulted, removed);
  if (most === present) return cellByte(Cell.present, share);
  if (most === zero) return cellByte(Cell.zero, share);
  return cellByte(most === prefaulted ? Cell.prefaulted : Cell.removed, share);
}

/** Of a word of the page table: the pages that are there, or were removed. */
export function settledPages(states: number): number {
  return evenBits(states >>> 1);
}

/** Bits 0, 2, 4, … 30 as 16 bits. */
function evenBits(word: number): number {
  let bits = word & 0x5555_5555;
  bits = (bits | (bits >>> 1)) & 0x3333_3333;
  bits = (bits | (bits >>> 2)) & 0x0f0f_0f0f;
  bits = (bits | (bits >>> 4)) & 0x00ff_00ff;
  return (bits | (bits >>> 8)) & 0xffff;
}

/** Of 16 bits. */
function countBits(word: number): number {
  let bits = word - ((word >>> 1) & 0x5555);
  bits = (bits & 0x3333) + ((bits >>> 2) & 0x3333);
  bits = (bits + (bits >>> 4)) & 0x0f0f;
  return (bits + (bits >>> 8)) & 0x1f;
}
