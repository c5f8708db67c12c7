/**
 * An image as fault workers see it: plain data, valid in every thread of this process. Its bytes
 * lie in files or in chunks, and may have to be brought before they can be copied. What is brought
 * at once is a *part*: a chunk, by its number in the cache, or a block of a file, by a number above
 * all of these.
 */
import { type OwnerRuns, ZERO_OWNER } from "../base/owner-runs.ts";
import type { SharedArena } from "./chunk-arena.ts";
import type { MappedLayers } from "./memory-files.ts";

export interface MappedChunks {
  /**
   * One run for each chunk of the index, in its order. The owner of a run is its own ordinal + 1,
   * so that no two are the same and none is a file's base; zero chunks have ZERO_OWNER.
   */
  readonly runs: OwnerRuns;
  /** By run: the chunk's number in the cache. Of zero chunks: nothing. */
  readonly chunkNumbers: Uint32Array;
  readonly arena: SharedArena;
}

export type MappedImage = MappedLayers | MappedChunks;

export function isInChunks(image: MappedImage): image is MappedChunks {
  return "arena" in image;
}

/** The ordinal of the run, and so of the chunk, that an owner stands for. */
export function runOfOwner(owner: number): number {
  return owner - 1;
}

/** The owner of run `run`. */
export function ownerOfRun(run: number, isZero: boolean): number {
  return isZero ? ZERO_OWNER : run + 1;
}
