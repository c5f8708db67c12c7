/**
 * How a chunk is called: the digest of its bytes before compression, as 64 hexadecimal digits, and
 * from that its place in a store (casync's `.castr` tree).
 */
import { assert } from "../base/assert.ts";

declare const chunkIdBrand: unique symbol;
export type ChunkId = string & { readonly [chunkIdBrand]: true };

/** SHA-256, or SHA-512/256 (casync's default). Both give 32 bytes. */
export const digests = ["sha256", "sha512-256"] as const;
export type Digest = (typeof digests)[number];

export const CHUNK_ID_BYTES = 32;
export const CHUNK_TREE = "default.castr";
const CHUNK_EXTENSION = ".cacnk";
const PATTERN = /^[0-9a-f]{64}$/;

export function chunkId(hex: string): ChunkId {
  assert(PATTERN.test(hex), `${hex} is no chunk id`);
  return hex as ChunkId;
}

/** `default.castr/ab12/ab12….cacnk` */
export function chunkObjectName(id: ChunkId): string {
  return `${CHUNK_TREE}/${id.slice(0, 4)}/${id}${CHUNK_EXTENSION}`;
}

/** The chunk that an object's name stands for, or null if it is something else. */
export function chunkOfObjectName(name: string): ChunkId | null {
  const id = name.slice(-(64 + CHUNK_EXTENSION.length), -CHUNK_EXTENSION.length);
  return PATTERN.test(id) && name === chunkObjectName(id as ChunkId) ? (id as ChunkId) : null;
}
