/**
 * What a VM has already that is taken over: its pages go into the page table as installed, and a
 * sample of their bytes is kept to tell which memory is which part of the image.
 */
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { SessionMemory } from "../engine/session-memory.ts";
import type { RegisteredArea } from "../linux/process-areas.ts";
import { PagePresence } from "../linux/process-memory.ts";
import { PageState } from "../pager/page-table.ts";
import type { RegionMap } from "../snapshot/regions.ts";

/** Addresses remembered of each area; when they are full, every other one is forgotten. */
const CANDIDATES = 512;
/** Pages with content looked at in each area: each may have to be fetched from a store. */
const SAMPLES = 64;

/** A page of 4 KiB that the VM has. */
export interface PageSample {
  readonly address: number;
  readonly bytes: Uint8Array;
}

export interface PresentPages {
  /** Small pages that are there. */
  readonly count: number;
  readonly samples: readonly PageSample[];
  /** For these regions: in its page table every page that is there is installed. */
  memoryFor(regions: RegionMap): SessionMemory;
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
  for (const { start, end } of areas) {
    const sampler = new Sampler();
    presence.forEachPage(start, end - start, (address, isPresent) => {
      if (!isPresent && mayBeMarks && !presence.isReadable(address)) return;
      count += 1;
      sampler.offer(address);
      const last = runs.at(-1);
      if (last?.end === address) last.end += SMALL_PAGE_BYTES;
      else runs.push({ start: address, end: address + SMALL_PAGE_BYTES });
    });
    samples.push(...sampler.read(presence));
  }
  return { count, samples, memoryFor: (regions) => memoryOf(regions, runs) };
}

function memoryOf(
  regions: RegionMap,
  runs: readonly { readonly start: number; readonly end: number }[],
): SessionMemory {
  const memory = SessionMemory.create(regions.pageLimit);
  for (const { start, end } of runs) {
    // A run may go from one region into the next.
    for (let address = start; address < end; address += regions.pageSizeBytes) {
      const region = regions.regionAt(address);
      if (region >= 0) memory.pageTable.set(regions.pageAt(region, address), PageState.installed);
    }
  }
  return memory;
}

/**
 * Some of an area's pages, from all over it, though nobody knows how many will come. Which ones
 * looks like chance, because guests write in patterns: every second page, the first of each run.
 */
class Sampler {
  #addresses: number[] = [];
  #every = 1;

  offer(address: number): void {
    if (scatter(address) % this.#every !== 0) return;
    this.#addresses.push(address);
    if (this.#addresses.length < CANDIDATES) return;
    this.#every *= 2;
    this.#addresses = this.#addresses.filter((each) => scatter(each) % this.#every === 0);
  }

  /** Only pages that tell something: one that repeats a word is like many others. */
  read(presence: PagePresence): PageSample[] {
    const samples: PageSample[] = [];
    const order = this.#addresses.sort((a, b) => scatter(a) - scatter(b));
    for (const address of order) {
      const bytes = new Uint8Array(SMALL_PAGE_BYTES);
      if (presence.tryRead(address, bytes) && !isUniform(bytes)) samples.push({ address, bytes });
      if (samples.length === SAMPLES) break;
    }
    return samples;
  }
}

/** 32 bits of a page's address that have no pattern (the end of splitmix32). */
function scatter(address: number): number {
  let value = (address / SMALL_PAGE_BYTES) >>> 0;
  value = Math.imul(value ^ (value >>> 16), 0x21f0aaad);
  value = Math.imul(value ^ (value >>> 15), 0x735a2d97);
  return (value ^ (value >>> 15)) >>> 0;
}

function isUniform(bytes: Uint8Array): boolean {
  const words = new Uint32Array(bytes.buffer);
  return words.every((word) => word === words[0]);
}
