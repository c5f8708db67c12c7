/**
 * The index of an image: where each chunk begins and ends, and how it is called. Chunks lie one
 * behind the other and cover the image; they have one size (ours) or boundaries chosen by their
 * content (`casync make`, `desync make`).
 */
import { assert } from "../base/assert.ts";
import { CHUNK_ID_BYTES, type ChunkId, chunkId, type Digest } from "./chunk-id.ts";

export interface ChunkSizes {
  readonly min: number;
  readonly average: number;
  readonly max: number;
}

export class ImageIndex {
  readonly digest: Digest;
  readonly chunkSizes: ChunkSizes;
  /** Where each chunk ends, ascending. */
  readonly ends: Float64Array;
  /** 32 bytes for each chunk. */
  readonly ids: Uint8Array;

  constructor(digest: Digest, chunkSizes: ChunkSizes, ends: Float64Array, ids: Uint8Array) {
    assert(ids.length === ends.length * CHUNK_ID_BYTES, "an id for every chunk");
    this.digest = digest;
    this.chunkSizes = chunkSizes;
    this.ends = ends;
    this.ids = ids;
  }

  get chunkCount(): number {
    return this.ends.length;
  }

  get sizeBytes(): number {
    return this.ends.at(-1) ?? 0;
  }

  /** Whether all chunks but the last have one size. */
  get isFixed(): boolean {
    return this.chunkSizes.min === this.chunkSizes.max;
  }

  start(chunk: number): number {
    return chunk === 0 ? 0 : this.ends[chunk - 1]!;
  }

  end(chunk: number): number {
    assert(chunk >= 0 && chunk < this.chunkCount, `no chunk ${chunk}`);
    return this.ends[chunk]!;
  }

  size(chunk: number): number {
    return this.end(chunk) - this.start(chunk);
  }

  id(chunk: number): ChunkId {
    assert(chunk >= 0 && chunk < this.chunkCount, `no chunk ${chunk}`);
    const at = chunk * CHUNK_ID_BYTES;
    const { buffer, byteOffset } = this.ids;
    return chunkId(Buffer.from(buffer, byteOffset + at, CHUNK_ID_BYTES).toString("hex"));
  }

  /** Without making a string of it. */
  hasId(chunk: number, id: Uint8Array): boolean {
    const at = chunk * CHUNK_ID_BYTES;
    for (let byte = 0; byte < CHUNK_ID_BYTES; byte++) {
      if (this.ids[at + byte] !== id[byte]) return false;
    }
    return true;
  }

  /** The chunk that holds a byte of the image. */
  chunkAt(offset: number): number {
    assert(offset >= 0 && offset < this.sizeBytes, `${offset} is outside of the image`);
    if (this.isFixed) return Math.floor(offset / this.chunkSizes.max);
    let low = 0;
    let high = this.chunkCount - 1;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.ends[middle]! > offset) high = middle;
      else low = middle + 1;
    }
    return low;
  }
}

/** An index whose chunks all have one size, but for the last. */
export function fixedIndex(
  digest: Digest,
  sizeBytes: number,
  chunkSizeBytes: number,
  ids: readonly ChunkId[],
): ImageIndex {
  assert(ids.length === Math.ceil(sizeBytes / chunkSizeBytes), "an id for every chunk");
  const ends = Float64Array.from(ids, (_, chunk) =>
    Math.min((chunk + 1) * chunkSizeBytes, sizeBytes),
  );
  const sizes = { min: chunkSizeBytes, average: chunkSizeBytes, max: chunkSizeBytes };
  return new ImageIndex(digest, sizes, ends, Buffer.from(ids.join(""), "hex"));
}
