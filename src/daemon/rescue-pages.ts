/**
 * What a VM has already that is taken over: its pages go into the page table as installed, and a
 * sample of their bytes is kept to tell which memory is which part of the image.
 */
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { RegisteredArea } from "../linux/process-areas.ts";
import { PagePresence } from "../linux/process-memory.ts";
import { PageState, PageTable } from "../pager/page-table.ts";
import type { RegionMap } from "../snapshot/regions.ts";

/** Addresses remembered of each stretch; when they are full, every other one is forgotten. */
const CANDIDATES = 512;
/** Pages with content looked at in each stretch: each may have to be fetched from a store. */
const SAMPLES = 16;
/** Memory is sampled evenly: a VM has its kernel at one end, and its page cache everywhere. */
const STRETCHES_PER_AREA = 4;

/** A page of 4 KiB that the VM has. */
export interface PageSample {
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface PresentPages {
  /** Small pages that are there. */
  readonly count: number;
  readonly samples: readonly PageSample[];
  /** The table for these regions, every page that is there installed. */
  tableFor(regions: RegionMap): SharedArrayBuffer;
}

/**
 * @param mayBeMarks memory is registered for write protection: what looks swapped out may be the
 *   mere memory of a protection
 * @throws FaultlineError `no-process-access`; `session-file`: it is gone
 */
export function findPresent(
  pid: number,
  areas: readonly RegisteredArea[],
  mayBeMarks: boolean,
): PresentPages {
  using presence = PagePresence.open(pid);
  const runs: { start: number; end: number }[] = [];
  const samples: PageSample[] = [];
  let count = 0;
  for (const { start, end, pageSizeBytes } of areas) {
    const pages = (end - start) / pageSizeBytes;
    const stretchBytes = Math.ceil(pages / STRETCHES_PER_AREA) * pageSizeBytes;
    for (let from = start; from < end; from += stretchBytes) {
      const sampler = new Sampler();
      presence.forEachPage(from, Math.min(stretchBytes, end - from), (address, isPresent) => {
        if (!isPresent && mayBeMarks && !presence.isReadable(address)) return;
        count += 1;
        sampler.offer(address);
        const last = runs.at(-1);
        if (last?.end === address) last.end += SMALL_PAGE_BYTES;
        else runs.push({ start: address, end: address + SMALL_PAGE_BYTES });
      });
      samples.push(...sampler.read(presence));
    }
  }
  return { count, samples, tableFor: (regions) => tableOf(regions, runs) };
}

function tableOf(
  regions: RegionMap,
  runs: readonly { readonly start: number; readonly end: number }[],
): SharedArrayBuffer {
  const memory = new SharedArrayBuffer(PageTable.sizeBytes(regions.pageLimit));
  const table = new PageTable(regions.pageLimit, new Uint8Array(memory));
  for (const { start, end } of runs) {
    // A run may go from one region into the next.
    for (let address = start; address < end; address += regions.pageSizeBytes) {
      const region = regions.regionAt(address);
      if (region >= 0) table.set(regions.pageAt(region, address), PageState.installed);
    }
  }
  return memory;
}

/** Some of the pages of a stretch, evenly, though nobody knows how many will come. */
class Sampler {
  #addresses: number[] = [];
  #every = 1;
  #seen = 0;

  offer(address: number): void {
    if (this.#seen++ % this.#every !== 0) return;
    this.#addresses.push(address);
    if (this.#addresses.length < CANDIDATES) return;
    this.#addresses = this.#addresses.filter((_, index) => index % 2 === 0);
    this.#every *= 2;
  }

  /** Only pages that tell something: one that repeats a word is like many others. */
  read(presence: PagePresence): PageSample[] {
    const samples: PageSample[] = [];
    for (const address of this.#addresses) {
      const bytes = new Uint8Array(SMALL_PAGE_BYTES);
      if (presence.tryRead(address, bytes) && !isUniform(bytes)) samples.push({ address, bytes });
      if (samples.length === SAMPLES) break;
    }
    return samples;
  }
}

function isUniform(bytes: Uint8Array): boolean {
  const words = new Uint32Array(bytes.buffer);
  return words.every((word) => word === words[0]);
}
