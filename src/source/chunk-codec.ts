/** Chunks between memory and a store: compressed by zstd, called by the digest of their bytes. */
import { hash } from "node:crypto";
import { compressBound, ZstdCompressor, ZstdDecompressor } from "../linux/zstd.ts";
import { type ChunkId, chunkId, type Digest } from "../snapshot/chunk-id.ts";
import type { ImageIndex } from "../snapshot/image-index.ts";

/** What casync and desync can write besides, told apart by the first bytes. */
const otherCompressions = [
  { name: "xz", magic: [0xfd, 0x37, 0x7a] },
  { name: "gzip", magic: [0x1f, 0x8b] },
] as const;

export function digestOf(bytes: Uint8Array, digest: Digest): ChunkId {
  return chunkId(hash(digest, bytes, "hex"));
}

/**
 * Tells an image's zero chunks by their ids, so that they are never read. Boundaries by content
 * cut a run of zeroes at the largest size, so only those and the last chunk are asked about.
 */
export class ZeroChunks {
  readonly #index: ImageIndex;
  readonly #full: Uint8Array;
  readonly #last: Uint8Array;

  constructor(index: ImageIndex) {
    this.#index = index;
    const { chunkSizes, chunkCount, digest } = index;
    const idOf = (sizeBytes: number): Uint8Array =>
      Buffer.from(zeroChunkId(sizeBytes, digest), "hex");
    this.#full = idOf(chunkSizes.max);
    this.#last = chunkCount === 0 ? this.#full : idOf(index.size(chunkCount - 1));
  }

  has(chunk: number): boolean {
    const index = this.#index;
    if (chunk === index.chunkCount - 1) return index.hasId(chunk, this.#last);
    return index.hasId(chunk, this.#full) && index.size(chunk) === index.chunkSizes.max;
  }
}

/** How a chunk of so many zeroes is called. */
export function zeroChunkId(sizeBytes: number, digest: Digest): ChunkId {
  return digestOf(new Uint8Array(sizeBytes), digest);
}

/** Whether all bytes are zero: the first one is, and each equals the one before it (memcmp). */
export function isZero(bytes: Buffer, start: number, end: number): boolean {
  if (start === end) return true;
  return bytes[start] === 0 && bytes.compare(bytes, start, end - 1, start + 1, end) === 0;
}

/** Compresses one chunk after the other; one for each thread. */
export class ChunkEncoder {
  readonly #compressor: ZstdCompressor;
  #target = new Uint8Array(0);

  constructor(level: number) {
    this.#compressor = new ZstdCompressor(level);
  }

  /** Valid until the next call. */
  encode(chunk: Uint8Array): Uint8Array {
    const bound = compressBound(chunk.byteLength);
    if (this.#target.byteLength < bound) this.#target = new Uint8Array(bound);
    return this.#target.subarray(0, this.#compressor.compress(chunk, this.#target));
  }

  [Symbol.dispose](): void {
    this.#compressor.close();
  }
}

/** Null, or what is wrong with the bytes. */
export function checkDigest(bytes: Uint8Array, id: ChunkId, digest: Digest): string | null {
  return digestOf(bytes, digest) === id ? null : "does not match its digest";
}

/** Decompresses and verifies; one for each thread. */
export class ChunkDecoder {
  readonly #decompressor = new ZstdDecompressor();

  /**
   * Puts a chunk's bytes into `target`, which has exactly its size. Returns null if they are what
   * the id promises, else what is wrong: `target` then holds anything at all.
   */
  decode(stored: Uint8Array, target: Uint8Array, id: ChunkId, digest: Digest): string | null {
    const outcome = this.#decompressor.decompress(stored, target);
    if ("failure" in outcome) {
      const other = otherCompressions.find(({ magic }) =>
        magic.every((byte, index) => stored[index] === byte),
      );
      if (other === undefined) return `cannot be decompressed (${outcome.failure})`;
      return `is compressed by ${other.name}, and Faultline reads zstd only`;
    }
    if (outcome.sizeBytes !== target.byteLength) {
      return `has ${outcome.sizeBytes} bytes instead of ${target.byteLength}`;
    }
    return checkDigest(target, id, digest);
  }

  [Symbol.dispose](): void {
    this.#decompressor.close();
  }
}
