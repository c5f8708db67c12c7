/**
 * Which layer owns which bytes of a memory image.
 *
 * A full snapshot is one file; its holes are zero. A diff snapshot is a sparse file of the same
 * size; its holes mean "look below". A stack of them is flattened once into runs, so that a lookup
 * costs the same however deep the stack is:
 *
 * ```
 *   diff 2   ..##......####..
 *   diff 1   .####......#....
 *   base     ######..########
 *   owner    012210ZZ0022220 0      Z = zero: nobody holds data here
 * ```
 *
 * PURE.
 */
import { assert } from "../base/assert.ts";
import { type OwnerRuns, ZERO_OWNER } from "../base/owner-runs.ts";

/** Bytes that a layer holds: `start` inclusive, `end` exclusive, both multiples of 4 KiB. */
export interface Extent {
  readonly start: number;
  readonly end: number;
}

interface Run {
  readonly start: number;
  readonly owner: number;
}

/** Flattens a stack, base first. Extents are ascending and do not overlap within a layer. */
export function flattenLayers(
  sizeBytes: number,
  layers: readonly (readonly Extent[])[],
): OwnerRuns {
  assert(sizeBytes > 0, "an image has bytes");
  let runs: Run[] = [{ start: 0, owner: ZERO_OWNER }];
  for (const [owner, extents] of layers.entries()) {
    runs = overlay(runs, extents, owner, sizeBytes);
  }
  const starts = new Float64Array(new SharedArrayBuffer(runs.length * 8));
  const owners = new Int32Array(new SharedArrayBuffer(runs.length * 4));
  for (const [index, run] of runs.entries()) {
    starts[index] = run.start;
    owners[index] = run.owner;
  }
  return { sizeBytes, starts, owners };
}

/** Lays one layer's extents over the runs below it, in one pass over both. */
function overlay(below: Run[], extents: readonly Extent[], owner: number, size: number): Run[] {
  const result: Run[] = [];
  const append = (start: number, runOwner: number): void => {
    const last = result.at(-1);
    if (last?.start === start) result.pop();
    if (result.at(-1)?.owner !== runOwner) result.push({ start, owner: runOwner });
  };
  let next = 0;
  let ownerBelow = ZERO_OWNER;
  const copyBelowUpTo = (limit: number): void => {
    for (; next < below.length && below[next]!.start < limit; next++) {
      ownerBelow = below[next]!.owner;
      append(below[next]!.start, ownerBelow);
    }
  };
  for (const { start, end } of extents) {
    assert(start < end && end <= size, `extent ${start}..${end} outside of the image`);
    copyBelowUpTo(start);
    append(start, owner);
    for (; next < below.length && below[next]!.start <= end; next++) {
      ownerBelow = below[next]!.owner;
    }
    if (end < size) append(end, ownerBelow);
  }
  copyBelowUpTo(size);
  return result;
}
