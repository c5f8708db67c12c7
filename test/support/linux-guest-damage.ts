/** Damage to the memory of the Linux guest, at places that its answers must show. */
import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { PAGE_BYTES } from "./fixtures.ts";
import { GUEST_MEMORY_BYTES } from "./linux-guest-machine.ts";
import { type GuestOracle, WORD_COUNT } from "./linux-guest-oracle.ts";

export const WORDS_PER_PAGE = PAGE_BYTES / 4;

/** Where in the memory file each page of the service's array of words lies. */
export function findWordPages(memoryFile: string, oracle: GuestOracle): number[] {
  // All words are different.
  const pageOfFirstWord = new Map<number, number>();
  for (let page = 0; page < WORD_COUNT / WORDS_PER_PAGE; page++) {
    pageOfFirstWord.set(oracle.word(page * WORDS_PER_PAGE), page);
  }
  const found: number[] = [];
  withFile(memoryFile, (fd) => {
    const content = Buffer.alloc(PAGE_BYTES);
    for (let place = 0; place < GUEST_MEMORY_BYTES; place += PAGE_BYTES) {
      readSync(fd, content, 0, PAGE_BYTES, place);
      const page = pageOfFirstWord.get(content.readUInt32LE(0));
      if (page !== undefined) found[page] = place;
    }
  });
  return found;
}

/** Exchanges two pages of the file, and wipes a third. */
export function damagePages(memoryFile: string, places: readonly [number, number, number]): void {
  const [left, right, wiped] = places;
  withFile(memoryFile, (fd) => {
    const [one, other] = [Buffer.alloc(PAGE_BYTES), Buffer.alloc(PAGE_BYTES)];
    readSync(fd, one, 0, PAGE_BYTES, left);
    readSync(fd, other, 0, PAGE_BYTES, right);
    writeSync(fd, other, 0, PAGE_BYTES, left);
    writeSync(fd, one, 0, PAGE_BYTES, right);
    writeSync(fd, Buffer.alloc(PAGE_BYTES), 0, PAGE_BYTES, wiped);
  });
}

function withFile(path: string, use: (fd: number) => void): void {
  const fd = openSync(path, "r+");
  try {
    use(fd);
  } finally {
    closeSync(fd);
  }
}
