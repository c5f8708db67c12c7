/**
 * The file format of an index: casync's, byte by byte (docs/FORMAT.md). All numbers are 64 bits,
 * little-endian.
 *
 * ```
 *    0  48, type of the header          48  2^64 - 1, type of the table
 *   16  feature flags                   64  for each chunk: its end, its id (32 bytes)
 *   24  min, average, max chunk size     …  0, 0, 48, size of the table, end mark
 * ```
 */
import { FaultlineError } from "../base/errors.ts";
import { formatBytes, GIB, MIB } from "../base/units.ts";
import { CHUNK_ID_BYTES } from "./chunk-id.ts";
import { type ChunkSizes, ImageIndex } from "./image-index.ts";

const HEADER_BYTES = 48;
const TABLE_HEADER_BYTES = 16;
const ITEMS_AT = HEADER_BYTES + TABLE_HEADER_BYTES;
const ITEM_BYTES = 8 + CHUNK_ID_BYTES;
const TAIL_BYTES = 40;

const HEADER_TYPE = 0x9682_4d9c_7b12_9ff9n;
const TABLE_TYPE = 0xe75b_9e11_2f17_417dn;
const TAIL_MARK = 0x4b4f_050e_5549_ecd1n;
/** Stands for the size of the table, which a writer does not know when it begins. */
const UNKNOWN_SIZE = 0xffff_ffff_ffff_ffffn;
/** Chunks are called by SHA-512/256; by SHA-256 without it. The other flags are about archives. */
const FLAG_SHA512_256 = 0x2000_0000_0000_0000n;

/** casync's own bound. */
export const MAX_CHUNK_BYTES = 128 * MIB;
/** Enough for 1.6 TiB in chunks of 256 KiB; what is larger is no index. */
export const MAX_INDEX_BYTES = 256 * MIB;
export const MAX_INDEX_CHUNKS = Math.floor((MAX_INDEX_BYTES - ITEMS_AT - TAIL_BYTES) / ITEM_BYTES);
/** No memory of a VM is larger; and every sum below stays exact. */
const MAX_IMAGE_BYTES = 1024 * 1024 * GIB;

export function encodeIndex(index: ImageIndex): Uint8Array {
  const { chunkSizes, chunkCount, ends, ids, digest } = index;
  const tableBytes = TABLE_HEADER_BYTES + chunkCount * ITEM_BYTES + TAIL_BYTES;
  const bytes = Buffer.alloc(HEADER_BYTES + tableBytes);
  let at = 0;
  const put = (...values: readonly (bigint | number)[]): void => {
    for (const value of values) at = bytes.writeBigUInt64LE(BigInt(value), at);
  };
  put(HEADER_BYTES, HEADER_TYPE, digest === "sha512-256" ? FLAG_SHA512_256 : 0);
  put(chunkSizes.min, chunkSizes.average, chunkSizes.max);
  put(UNKNOWN_SIZE, TABLE_TYPE);
  for (let chunk = 0; chunk < chunkCount; chunk++) {
    put(ends[chunk]!);
    bytes.set(ids.subarray(chunk * CHUNK_ID_BYTES, (chunk + 1) * CHUNK_ID_BYTES), at);
    at += CHUNK_ID_BYTES;
  }
  put(0, 0, HEADER_BYTES, tableBytes, TAIL_MARK);
  return bytes;
}

/**
 * Reads an index, and believes nothing: what is not exactly as documented is refused.
 * @param name what messages call the index
 * @throws FaultlineError `image-corrupt`
 */
export function decodeIndex(bytes: Uint8Array, name: string): ImageIndex {
  const reader = new Reader(bytes, name);
  const itemsBytes = bytes.length - ITEMS_AT - TAIL_BYTES;
  if (bytes.length > MAX_INDEX_BYTES || itemsBytes < 0 || itemsBytes % ITEM_BYTES !== 0) {
    const wanted = `${ITEMS_AT + TAIL_BYTES} bytes and ${ITEM_BYTES} for each chunk`;
    const most = `at most ${formatBytes(MAX_INDEX_BYTES)}`;
    throw reader.corrupt(bytes.length, `${wanted}, ${most}`, `${bytes.length} bytes`);
  }
  reader.expect(0, BigInt(HEADER_BYTES), "the size of the header");
  reader.expect(8, HEADER_TYPE, "the type of an index");
  const digest = (reader.big(16) & FLAG_SHA512_256) === 0n ? "sha256" : "sha512-256";
  const chunkSizes = readChunkSizes(reader);
  reader.expect(HEADER_BYTES, UNKNOWN_SIZE, "a table of unknown size");
  reader.expect(HEADER_BYTES + 8, TABLE_TYPE, "the type of a table");

  const chunkCount = itemsBytes / ITEM_BYTES;
  const ends = new Float64Array(chunkCount);
  const ids = new Uint8Array(chunkCount * CHUNK_ID_BYTES);
  let start = 0;
  for (let chunk = 0; chunk < chunkCount; chunk++) {
    const at = ITEMS_AT + chunk * ITEM_BYTES;
    // Where all chunks have one size, only the last may be shorter.
    const isLast = chunk === chunkCount - 1;
    const least = chunkSizes.min === chunkSizes.max && !isLast ? chunkSizes.max : 1;
    const end = reader.number(
      at,
      start + least,
      Math.min(start + chunkSizes.max, MAX_IMAGE_BYTES),
      `the end of chunk ${chunk}`,
    );
    ends[chunk] = end;
    ids.set(bytes.subarray(at + 8, at + ITEM_BYTES), chunk * CHUNK_ID_BYTES);
    start = end;
  }
  readTail(reader, bytes.length - TAIL_BYTES, TABLE_HEADER_BYTES + itemsBytes + TAIL_BYTES);
  return new ImageIndex(digest, chunkSizes, ends, ids);
}

function readChunkSizes(reader: Reader): ChunkSizes {
  const max = reader.number(40, 1, MAX_CHUNK_BYTES, "the largest chunk size");
  const average = reader.number(32, 1, max, "the average chunk size");
  const min = reader.number(24, 1, average, "the smallest chunk size");
  return { min, average, max };
}

function readTail(reader: Reader, at: number, tableBytes: number): void {
  reader.expect(at, 0n, "the end of the table");
  reader.expect(at + 8, 0n, "the end of the table");
  reader.expect(at + 16, BigInt(HEADER_BYTES), "the size of the header");
  reader.expect(at + 24, BigInt(tableBytes), "the size of the table");
  reader.expect(at + 32, TAIL_MARK, "the mark that ends a table");
}

class Reader {
  readonly #bytes: DataView;
  readonly #name: string;

  constructor(bytes: Uint8Array, name: string) {
    this.#bytes = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#name = name;
  }

  big(at: number): bigint {
    return this.#bytes.getBigUint64(at, true);
  }

  /** A number from `least` to `most`. */
  number(at: number, least: number, most: number, what: string): number {
    const low = this.#bytes.getUint32(at, true);
    const value = this.#bytes.getUint32(at + 4, true) * 2 ** 32 + low;
    if (value >= least && value <= most) return value;
    throw this.corrupt(at, `${what} from ${least} to ${most}`, String(this.big(at)));
  }

  expect(at: number, value: bigint, what: string): void {
    const found = this.big(at);
    if (found === value) return;
    throw this.corrupt(at, `${what}, ${hex(value)}`, hex(found));
  }

  corrupt(at: number, expected: string, found: string): FaultlineError {
    return new FaultlineError(
      "image-corrupt",
      `The index ${this.#name} is damaged, or no index, at byte ${at}: expected ${expected}, ` +
        `found ${found}. Get it from another store, or pack the snapshot again.`,
    );
  }
}

function hex(value: bigint): string {
  return value < 1024n ? String(value) : `0x${value.toString(16).padStart(16, "0")}`;
}
