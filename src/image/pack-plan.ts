/**
 * What is to be done for each chunk of a new image, from where its file holds data. PURE.
 *
 * ```
 *   memory file   ####....  ########  ........     a diff    ####....  ########  ........
 *   chunk         read what read      zero                   its data, read      the parent's
 *                 is data                                    over the
 *                                                            parent's
 * ```
 */
import type { ChunkId } from "../snapshot/chunk-id.ts";
import type { ImageIndex } from "../snapshot/image-index.ts";
import type { Extent } from "../snapshot/layers.ts";

export type PlannedChunk =
  /** Nothing to read: all zero. */
  | { readonly kind: "zero"; readonly chunk: number }
  /** Nothing to read: it is the parent's. */
  | { readonly kind: "known"; readonly chunk: number; readonly id: ChunkId }
  | ReadChunk;

export interface ReadChunk {
  readonly kind: "read";
  readonly chunk: number;
  readonly start: number;
  readonly end: number;
  /** What the file holds of it. */
  readonly extents: readonly Extent[];
  /** The chunks of the parent that hold the rest; without a parent it is zero. */
  readonly below: readonly number[];
}

/**
 * @param extents where the file holds data, ascending
 * @param parent what shines through the holes of a diff; null: holes are zero
 */
export function* planChunks(
  sizeBytes: number,
  chunkSizeBytes: number,
  extents: readonly Extent[],
  parent: ImageIndex | null,
): Generator<PlannedChunk> {
  let next = 0;
  for (let chunk = 0, start = 0; start < sizeBytes; chunk++, start += chunkSizeBytes) {
    const end = Math.min(start + chunkSizeBytes, sizeBytes);
    while (next < extents.length && extents[next]!.end <= start) next++;
    const inside: Extent[] = [];
    for (let at = next; at < extents.length && extents[at]!.start < end; at++) {
      const extent = extents[at]!;
      inside.push({ start: Math.max(extent.start, start), end: Math.min(extent.end, end) });
    }
    yield planChunk(chunk, { start, end }, inside, parent);
  }
}

function planChunk(
  chunk: number,
  { start, end }: Extent,
  extents: readonly Extent[],
  parent: ImageIndex | null,
): PlannedChunk {
  const [first] = extents;
  const isCovered = first !== undefined && first.start === start && first.end === end;
  if (isCovered || parent === null) {
    if (first === undefined) return { kind: "zero", chunk };
    return { kind: "read", chunk, start, end, extents, below: [] };
  }
  const below: number[] = [];
  for (let at = parent.chunkAt(start); at < parent.chunkCount && parent.start(at) < end; at++) {
    below.push(at);
  }
  const [only] = below as [number];
  const isSame = parent.start(only) === start && parent.end(only) === end;
  if (first === undefined && isSame) return { kind: "known", chunk, id: parent.id(only) };
  return { kind: "read", chunk, start, end, extents, below };
}
