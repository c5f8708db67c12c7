/**
 * Fetches what restores need into this host's memory before the first VM asks: chunks into the
 * cache, blocks of memory files into the page cache. After all demand, a few at a time, and never
 * more than half of the memory that there is for it.
 */
import { runAt, runEnd } from "../base/owner-runs.ts";
import { MIB } from "../base/units.ts";
import type { PartSupply } from "../engine/worker-handle.ts";
import { MADV_POPULATE_READ } from "../linux/abi-posix.ts";
import { monotonicUs } from "../linux/clock.ts";
import { background } from "../linux/sys.ts";
import type { PageRuns } from "../pager/prefaulter.ts";
import { isInChunks, type MappedImage } from "../source/mapped-image.ts";
import type { MappedLayers } from "../source/memory-files.ts";
import { BLOCK_BYTES, firstColdBlock } from "../source/warm-blocks.ts";

export interface PrefetchOptions {
  readonly image: MappedImage;
  readonly supply: PartSupply;
  /** The most needed first. */
  readonly runs: PageRuns;
  readonly pageSizeBytes: number;
  readonly budgetBytes: number;
  readonly signal: AbortSignal;
}

export interface PrefetchReport {
  readonly parts: number;
  readonly bytes: number;
  /** Parts that could not be had: a VM that needs one will ask again. */
  readonly lost: number;
}

/** Far stores answer after tens of milliseconds each, and may be asked for several things. */
const AT_ONCE = 16;

/** The kernel maps as much at a time, off this thread. */
const POPULATE_BYTES = 16 * MIB;

/** Ends early when `signal` aborts. Never rejects. */
export async function prefetch(options: PrefetchOptions): Promise<PrefetchReport> {
  const { supply, signal } = options;
  const parts = partsOf(options);
  const report = { parts: 0, bytes: 0, lost: 0 };
  const lane = async (): Promise<void> => {
    for (let next = parts.next(); next.done !== true; next = parts.next()) {
      if (signal.aborted) return;
      const { part, sizeBytes } = next.value;
      try {
        await supply.demand(part, false);
        supply.release(part);
        report.parts += 1;
        report.bytes += sizeBytes;
      } catch {
        report.lost += 1;
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, lane));
  if (!isInChunks(options.image)) await populate(options.image, options);
  return report;
}

/**
 * Maps the pages of files that are to be copied. Otherwise the fault worker has a page fault of its
 * own, inside of its copy, for every 16 of them. Kernels before 5.14 cannot; then it has.
 */
async function populate(layers: MappedLayers, options: PrefetchOptions): Promise<void> {
  let leftBytes = options.budgetBytes;
  for (const [owner, blocks] of blocksOf(layers, options)) {
    const { sizeBytes } = layers.residency[owner]!;
    for (let at = 0; at < blocks.length; ) {
      let end = at + 1;
      while (end < blocks.length && isNext(blocks, at, end)) end += 1;
      const start = blocks[at]! * BLOCK_BYTES;
      const lengthBytes = Math.min((end - at) * BLOCK_BYTES, sizeBytes - start);
      leftBytes -= lengthBytes;
      if (options.signal.aborted || leftBytes < 0) return;
      await background.madvise(layers.addresses[owner]! + start, lengthBytes, MADV_POPULATE_READ);
      at = end;
    }
  }
}

function isNext(blocks: Uint32Array, first: number, index: number): boolean {
  const isLong = (index - first) * BLOCK_BYTES >= POPULATE_BYTES;
  return !isLong && blocks[index] === blocks[index - 1]! + 1;
}

/** By layer, the blocks that hold bytes of the runs, ascending. They have been brought before. */
function blocksOf(
  layers: MappedLayers,
  { runs: pages, pageSizeBytes }: PrefetchOptions,
): Map<number, Uint32Array> {
  const found = layers.addresses.map(() => new Set<number>());
  const { runs } = layers;
  for (let index = 0; index < pages.starts.length; index++) {
    const from = pages.starts[index]! * pageSizeBytes;
    const limit = Math.min(from + pages.counts[index]! * pageSizeBytes, runs.sizeBytes);
    for (let run = runAt(runs, from), at = from; at < limit; run++) {
      const end = Math.min(limit, runEnd(runs, run));
      const blocks = found[runs.owners[run]!];
      const last = Math.floor((end - 1) / BLOCK_BYTES);
      for (let block = Math.floor(at / BLOCK_BYTES); block <= last; block++) blocks?.add(block);
      at = end;
    }
  }
  return new Map(found.map((blocks, owner) => [owner, Uint32Array.from(blocks).sort()]));
}

interface Part {
  readonly part: number;
  readonly sizeBytes: number;
}

/** Each once, as far as the budget goes. */
function* partsOf({ image, runs, pageSizeBytes, budgetBytes }: PrefetchOptions): Generator<Part> {
  const seen = new Set<number>();
  let leftBytes = budgetBytes;
  for (let run = 0; run < runs.starts.length; run++) {
    const offset = runs.starts[run]! * pageSizeBytes;
    const limit = Math.min(offset + runs.counts[run]! * pageSizeBytes, image.runs.sizeBytes);
    for (const part of partsIn(image, offset, limit)) {
      if (seen.has(part.part)) continue;
      seen.add(part.part);
      leftBytes -= part.sizeBytes;
      if (leftBytes < 0) return;
      yield part;
    }
  }
}

function* partsIn(image: MappedImage, offset: number, limit: number): Generator<Part> {
  const { runs } = image;
  for (let run = runAt(runs, offset); run < runs.starts.length; run++) {
    const start = runs.starts[run]!;
    if (start >= limit) return;
    const owner = runs.owners[run]!;
    if (owner < 0) continue;
    if (isInChunks(image)) {
      yield { part: image.chunkNumbers[run]!, sizeBytes: runEnd(runs, run) - start };
      continue;
    }
    const nowSeconds = Math.floor(monotonicUs() / 1e6);
    const end = Math.min(limit, runEnd(runs, run));
    for (let at = Math.max(offset, start); at < end; ) {
      const notes = image.residency[owner]!;
      const block = firstColdBlock(image.fds[owner]!, notes, at, end - at, nowSeconds);
      if (block < 0) break;
      yield { part: image.firstParts[owner]! + block, sizeBytes: BLOCK_BYTES };
      at = (block + 1) * BLOCK_BYTES;
    }
  }
}
