/**
 * A run-length map from byte offsets to owners: which layer of a snapshot holds which bytes.
 * Plain typed arrays over shared memory, so that every thread looks things up in the same copy.
 * PURE.
 */
import { assert } from "./assert.ts";

/** The owner of bytes that no layer holds: they read as zero. */
export const ZERO_OWNER = -1;
/** What a lookup says when the bytes come from several layers: assemble them. */
export const MIXED_OWNERS = -2;

/**
 * Plain data, shared with the fault workers. `owners[i]` owns from `starts[i]` to `starts[i+1]`.
 */
export interface OwnerRuns {
  readonly sizeBytes: number;
  /** Ascending byte offsets; the first is 0. */
  readonly starts: Float64Array;
  /** Layer ordinals, base = 0, or ZERO_OWNER. Neighbours differ. */
  readonly owners: Int32Array;
}

/** The run that holds a byte offset. */
export function runAt(runs: OwnerRuns, offset: number): number {
  let low = 0;
  let high = runs.starts.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (runs.starts[middle]! <= offset) low = middle;
    else high = middle - 1;
  }
  return low;
}

/** End, exclusive, of a run. */
export function runEnd(runs: OwnerRuns, run: number): number {
  return run + 1 < runs.starts.length ? runs.starts[run + 1]! : runs.sizeBytes;
}

/**
 * The one owner of `lengthBytes` at `offset`, or MIXED_OWNERS. Base and zero together count as
 * base: the holes of the base file read as zero through its mapping.
 */
export function ownerOf(runs: OwnerRuns, offset: number, lengthBytes: number): number {
  const limit = offset + lengthBytes;
  assert(limit <= runs.sizeBytes, "bytes beyond the end of the image");
  let run = runAt(runs, offset);
  let owner = runs.owners[run]!;
  while (runEnd(runs, run) < limit) {
    run += 1;
    const next = runs.owners[run]!;
    if (next === owner) continue;
    if (next > 0 || owner > 0) return MIXED_OWNERS;
    owner = 0;
  }
  return owner;
}
