/**
 * Fetches what restores need into this host's memory before the first VM asks: chunks into the
 * cache, blocks of memory files into the page cache. After all demand, a few at a time, and never
 * more than half of the memory that there is for it.
 */
import { runAt, runEnd } from "../base/owner-runs.ts";
import type { PartSupply } from "../engine/worker-handle.ts";
import { monotonicUs } from "../linux/clock.ts";
import type { PageRuns } from "../pager/prefaulter.ts";
import { isInChunks, type MappedImage } from "../source/mapped-image.ts";
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
  return report;
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
