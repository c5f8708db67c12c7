/**
 * The snapshot that handlers are tested with: a sparse memory file in which every page differs, so
 * that a page in the wrong place is told from a page with wrong bytes.
 *
 * | pages               | what                                                     |
 * | ------------------- | -------------------------------------------------------- |
 * | 0 …                 | data, no two pages alike                                 |
 * | holes               | a run and single pages that the file does not hold       |
 * | zeroes              | pages that the file holds, and that are zero             |
 * | hotplug, at the end | a hole: memory that was not plugged when the snapshot was |
 */
import { closeSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../base/units.ts";

/** Some pages in a row. */
export interface PageRun {
  readonly first: number;
  readonly count: number;
}

const PAGES_PER_HUGE_PAGE = HUGE_PAGE_BYTES / SMALL_PAGE_BYTES;
/** 6 MiB: three huge pages, and few enough to be read in a moment. */
const BOOT_PAGES = 3 * PAGES_PER_HUGE_PAGE;
const HOTPLUG_PAGES = 2 * PAGES_PER_HUGE_PAGE;
const HOLES: readonly PageRun[] = [
  { first: 512, count: 128 },
  { first: 700, count: 1 },
  { first: 702, count: 1 },
];
const ZEROES: PageRun = { first: 660, count: 16 };

export class MemoryImage {
  readonly path: string;
  /** Pages of 4 KiB that the guest has had since it booted. */
  readonly bootPages = BOOT_PAGES;
  /** Pages beyond them, which the file holds as one hole. */
  readonly hotplugPages: number;
  readonly holes = HOLES;
  readonly zeroes = ZEROES;

  private constructor(path: string, hotplugPages: number) {
    this.path = path;
    this.hotplugPages = hotplugPages;
  }

  /** Writes the file. */
  static create(path: string, options: { readonly hasHotplug?: boolean } = {}): MemoryImage {
    const image = new MemoryImage(path, options.hasHotplug === true ? HOTPLUG_PAGES : 0);
    const fd = openSync(path, "wx", 0o644);
    try {
      ftruncateSync(fd, image.pageCount * SMALL_PAGE_BYTES);
      bootContent ??= contentOfAll();
      let first = 0;
      for (const hole of [...HOLES, { first: BOOT_PAGES, count: 0 }]) {
        const start = first * SMALL_PAGE_BYTES;
        const end = hole.first * SMALL_PAGE_BYTES;
        writeSync(fd, bootContent, start, end - start, start);
        first = hole.first + hole.count;
      }
    } finally {
      closeSync(fd);
    }
    return image;
  }

  get pageCount(): number {
    return this.bootPages + this.hotplugPages;
  }

  get pages(): number[] {
    return pagesOf({ first: 0, count: this.pageCount });
  }
}

/** The numbers of a run's pages. */
export function pagesOf({ first, count }: PageRun): number[] {
  return Array.from({ length: count }, (_, index) => first + index);
}

/** The same pages in an order without a pattern; the same one every time. */
export function shuffled(pages: readonly number[]): number[] {
  const mixed = [...pages];
  let state = 1;
  for (let index = mixed.length - 1; index > 0; index--) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    const other = state % (index + 1);
    [mixed[index], mixed[other]] = [mixed[other]!, mixed[index]!];
  }
  return mixed;
}

/** The same for every image. */
let bootContent: Buffer | null = null;

/** Words that never repeat, but for the pages of zeroes. */
function contentOfAll(): Buffer {
  const words = new Uint32Array((BOOT_PAGES * SMALL_PAGE_BYTES) / 4);
  for (let index = 0; index < words.length; index++)
    words[index] = Math.imul(index + 1, 0x9e3779b1);
  const bytes = Buffer.from(words.buffer);
  const start = ZEROES.first * SMALL_PAGE_BYTES;
  bytes.fill(0, start, start + ZEROES.count * SMALL_PAGE_BYTES);
  return bytes;
}
