/**
 * The memory file of the Linux guest, page by page: where its service keeps what, and damage at
 * places that its answers must show. A guest of this size has its memory at the physical addresses
 * that are the offsets in the file.
 */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { PAGE_BYTES } from "./fixtures.ts";
import { GUEST_MEMORY_BYTES } from "./linux-guest-machine.ts";
import { GOLDEN, type GuestOracle, WORD_COUNT } from "./linux-guest-oracle.ts";

export const WORDS_PER_PAGE = PAGE_BYTES / 4;

/** Where in the memory file each page of the service's array of words lies. */
export function findWordPages(memoryFile: string, oracle: GuestOracle): number[] {
  // All words are different.
  const pageOfFirstWord = new Map<number, number>();
  for (let page = 0; page < WORD_COUNT / WORDS_PER_PAGE; page++) {
    pageOfFirstWord.set(oracle.word(page * WORDS_PER_PAGE), page);
  }
  const found: number[] = [];
  for (const { place, content } of pagesOf(memoryFile)) {
    const page = pageOfFirstWord.get(content.readUInt32LE(0));
    if (page !== undefined) found[page] = place;
  }
  return found;
}

/** Where pages lie that a `fill` has written: the guest counts them as free. */
export function findFilledPages(memoryFile: string): number[] {
  const found: number[] = [];
  for (const { place, content } of pagesOf(memoryFile)) {
    const words = [0, 4, 8, 12].map((offset) => content.readUInt32LE(offset));
    if (isFilled(words)) found.push(place);
  }
  return found;
}

/** Whether words that follow each other are of the pattern that `fill` writes. */
export function isFilled(words: readonly number[]): boolean {
  return words.every(
    (word, index) => index === 0 || (word - words[index - 1]! - GOLDEN) >>> 0 === 0,
  );
}

/** Exchanges two pages of the file, and wipes a third. */
export function damagePages(memoryFile: string, places: readonly [number, number, number]): void {
  const [left, right, wiped] = places;
  const fd = openSync(memoryFile, "r+");
  try {
    const [one, other] = [Buffer.alloc(PAGE_BYTES), Buffer.alloc(PAGE_BYTES)];
    readSync(fd, one, 0, PAGE_BYTES, left);
    readSync(fd, other, 0, PAGE_BYTES, right);
    writeSync(fd, other, 0, PAGE_BYTES, left);
    writeSync(fd, one, 0, PAGE_BYTES, right);
    writeSync(fd, Buffer.alloc(PAGE_BYTES), 0, PAGE_BYTES, wiped);
  } finally {
    closeSync(fd);
  }
}

function* pagesOf(memoryFile: string): Generator<{ place: number; content: Buffer }> {
  const fd = openSync(memoryFile, "r");
  try {
    const content = Buffer.alloc(PAGE_BYTES);
    for (let place = 0; place < GUEST_MEMORY_BYTES; place += PAGE_BYTES) {
      readSync(fd, content, 0, PAGE_BYTES, place);
      yield { place, content };
    }
  } finally {
    closeSync(fd);
  }
}
