/**
 * What is likely to be needed next to a chunk that is needed: its neighbours in memory. A guest
 * that goes on after a restore works in a few places, and a store that is far away takes as long
 * for ten chunks as for one.
 *
 * In a Linux guest of 256 MiB that answers its first question, nearly half of the chunks
 * that are needed lie within 256 KiB of one that was needed before, and two thirds within 1 MiB.
 */
import { runAt } from "../base/owner-runs.ts";
import type { ChunkCache } from "./chunk-cache.ts";
import type { MappedChunks } from "./mapped-image.ts";

/** To each side. */
const REACH_BYTES = 2 ** 20;

export class ReadAround {
  readonly #image: MappedChunks;
  readonly #cache: ChunkCache;
  /** Where a chunk lies in memory, the first time if more than once. */
  #firstRuns: ReadonlyMap<number, number> | null = null;

  constructor(image: MappedChunks, cache: ChunkCache) {
    this.#image = image;
    this.#cache = cache;
  }

  /** Fetches ahead what lies around a chunk; false: the image has no such chunk. */
  around(chunk: number): boolean {
    const { runs, chunkNumbers } = this.#image;
    const { starts, owners } = runs;
    // Not before it is needed: an image must be open fast.
    this.#firstRuns ??= firstRunsOf(this.#image);
    const center = this.#firstRuns.get(chunk);
    if (center === undefined) return false;
    const first = runAt(runs, Math.max(0, starts[center]! - REACH_BYTES));
    const endOffset = starts[center]! + REACH_BYTES;
    for (let run = first; run < starts.length && starts[run]! <= endOffset; run++) {
      if (run !== center && owners[run]! >= 0) this.#cache.prefetch(chunkNumbers[run]!);
    }
    return true;
  }
}

function firstRunsOf({ runs, chunkNumbers }: MappedChunks): Map<number, number> {
  const first = new Map<number, number>();
  for (let run = runs.owners.length - 1; run >= 0; run--) {
    if (runs.owners[run]! >= 0) first.set(chunkNumbers[run]!, run);
  }
  return first;
}
