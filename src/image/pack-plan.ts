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
import type { SourceExtent } from "./pack-source.ts";

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
  /** What the source holds of it. */
  readonly extents: readonly SourceExtent[];
  /** The chunks of the parent that hold the rest; without a parent it is zero. */
  readonly below: readonly number[];
}

/**
 * @param extents where the source holds data, ascending
 * @param parent what shines through the holes of a diff; null: holes are zero
 */
export function* planChunks(
  sizeBytes: number,
  chunkSizeBytes: number,
  extents: readonly SourceExtent[],
  parent: ImageIndex | null,
): Generator<PlannedChunk> {
  let next = 0;
  for (let chunk = 0, start = 0; start < sizeBytes; chunk++, start += chunkSizeBytes) {
    const end = Math.min(start + chunkSizeBytes, sizeBytes);
    while (next < extents.length && extents[next]!.end <= start) next++;
    const inside: SourceExtent[] = [];
    for (let at = next; at < extents.length && extents[at]!.start < end; at++) {
      const extent = extents[at]!;
      const range = { start: Math.max(extent.start, start), end: Math.min(extent.end, end) };
      inside.push({ ...extent, ...range });
    }
    yield planChunk(chunk, { start, end }, inside, parent);
  }
}

function planChunk(
  chunk: number,
  { start, end }: Extent,
  extents: readonly SourceExtent[],
  parent: ImageIndex | null,
): PlannedChunk {
  const isEmpty = extents.length === 0;
  if (parent === null || covers(extents, end - start)) {
    if (isEmpty) return { kind: "zero", chunk };
    return { kind: "read", chunk, start, end, extents, below: [] };
  }
  const below: number[] = [];
  for (let at = parent.chunkAt(start); at < parent.chunkCount && parent.start(at) < end; at++) {
    below.push(at);
  }
  const [only] = below as [number];
  const isSame = parent.start(only) === start && parent.end(only) === end;
  if (isEmpty && isSame) return { kind: "known", chunk, id: parent.id(only) };
  return { kind: "read", chunk, start, end, extents, below };
}

/** Whether extents inside of a chunk leave nothing of it to others. */
export function covers(extents: readonly Extent[], sizeBytes: number): boolean {
  return extents.reduce((sum, { start, end }) => sum + end - start, 0) === sizeBytes;
}
