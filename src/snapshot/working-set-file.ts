/**
 * The file of a working set, byte by byte (docs/FORMAT.md). Numbers are little-endian; varints have
 * seven bits a byte, the low ones first, the top bit set where another byte follows.
 *
 * ```
 *    0  "FLWSET\r\n"                  64  pages (4)   68  runs (4)
 *    8  version (4)   12 restores (4)  72  runs: gap, length - 1, as varints
 *   16  image size (8)                  …  needs: one byte per page
 *   24  the index's digest (32)         …  times: differences as varints
 *   56  length of the whole file (8)  -32  SHA-256 of all before it
 * ```
 *
 * A set has one encoding only: what is not exactly so is refused.
 */
import { createHash } from "node:crypto";
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import { formatBytes } from "../base/units.ts";
import { MAX_VARINT_BYTES, unzigzag, VarintReader, VarintWriter, zigzag } from "../base/varints.ts";
import {
  MAX_TIME_US,
  MAX_WORKING_SET_IMAGE_BYTES,
  MAX_WORKING_SET_PAGES,
  smallPagesOf,
  type WorkingSet,
} from "../base/working-set.ts";

const MAGIC = Buffer.from("FLWSET\r\n");
export const WORKING_SET_MAGIC_BYTES = MAGIC.length;
const VERSION = 1;
const HEADER_BYTES = 72;
const DIGEST_BYTES = 32;
/** A run takes two varints, a page a byte and one varint; every page may be a run of its own. */
const MAX_PAGE_BYTES = 3 * MAX_VARINT_BYTES + 1;
/** 4 MiB and a little: the largest set at its worst. Most take three bytes per page. */
export const MAX_WORKING_SET_FILE_BYTES =
  HEADER_BYTES + MAX_WORKING_SET_PAGES * MAX_PAGE_BYTES + DIGEST_BYTES;
/** In place of a digest: the set belongs to a memory file, which has no index. */
const NO_INDEX = "00".repeat(DIGEST_BYTES);

export interface WorkingSetFile {
  readonly set: WorkingSet;
  /** SHA-256 of the index of the image that the set was learnt from, in hexadecimal. */
  readonly indexSha256: string | null;
}

export function encodeWorkingSet({ set, indexSha256 }: WorkingSetFile): Uint8Array {
  const { sizeBytes, restores, pages, needs, timesUs } = set;
  assert(pages.length <= MAX_WORKING_SET_PAGES, "a working set within its bound");
  const bytes = Buffer.alloc(HEADER_BYTES + pages.length * MAX_PAGE_BYTES + DIGEST_BYTES);
  const writer = new VarintWriter(bytes, HEADER_BYTES);
  let runs = 0;
  for (let first = 0, end = 0; first < pages.length; first = end, runs++) {
    for (end = first + 1; end < pages.length && pages[end] === pages[end - 1]! + 1; ) end++;
    writer.varint(pages[first]! - (first === 0 ? 0 : pages[first - 1]! + 1));
    writer.varint(end - first - 1);
  }
  writer.bytes(needs);
  let lastUs = 0;
  for (const timeUs of timesUs) {
    writer.varint(zigzag(timeUs - lastUs));
    lastUs = timeUs;
  }
  const sizeOfFile = writer.at + DIGEST_BYTES;
  MAGIC.copy(bytes, 0);
  bytes.writeUInt32LE(VERSION, 8);
  bytes.writeUInt32LE(restores, 12);
  bytes.writeBigUInt64LE(BigInt(sizeBytes), 16);
  bytes.write(indexSha256 ?? NO_INDEX, 24, "hex");
  bytes.writeBigUInt64LE(BigInt(sizeOfFile), 56);
  bytes.writeUInt32LE(pages.length, 64);
  bytes.writeUInt32LE(runs, 68);
  writer.bytes(sha256(bytes.subarray(0, writer.at)));
  return bytes.subarray(0, sizeOfFile);
}

/** Whether it is, or was once, the file of a working set of any version. */
export function beginsAsWorkingSet(bytes: Uint8Array): boolean {
  return MAGIC.equals(bytes.subarray(0, MAGIC.length));
}

/**
 * @param name what messages call the file
 * @throws FaultlineError `image-corrupt`
 */
export function decodeWorkingSet(bytes: Uint8Array, name: string): WorkingSetFile {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const expect = (isTrue: boolean, what: string): void => {
    if (!isTrue) throw damaged(name, what);
  };
  expect(file.length <= MAX_WORKING_SET_FILE_BYTES, `it has ${formatBytes(file.length)}`);
  expect(file.length >= HEADER_BYTES + DIGEST_BYTES, `it has only ${file.length} bytes`);
  expect(beginsAsWorkingSet(file), "it does not begin as one");
  const version = file.readUInt32LE(8);
  expect(version === VERSION, `it has version ${version}, not ${VERSION}`);
  const contentBytes = file.length - DIGEST_BYTES;
  const content = file.subarray(0, contentBytes);
  expect(Number(file.readBigUInt64LE(56)) === file.length, "its length is not the one it names");
  expect(sha256(content).equals(file.subarray(contentBytes)), "it does not match its digest");

  const sizeBytes = Number(file.readBigUInt64LE(16));
  const pageCount = file.readUInt32LE(64);
  const isSize = sizeBytes >= 1 && sizeBytes <= MAX_WORKING_SET_IMAGE_BYTES;
  expect(isSize, `it is for an image of ${sizeBytes} bytes`);
  expect(pageCount <= MAX_WORKING_SET_PAGES, `it has ${pageCount} pages`);
  const reader = new VarintReader(content, HEADER_BYTES, (what) => damaged(name, what));
  const pages = readPages(reader, pageCount, file.readUInt32LE(68), smallPagesOf(sizeBytes));
  const needs = reader.bytes(pageCount);
  expect(!needs.includes(0), "a page in it is never needed");
  const timesUs = readTimes(reader, pageCount);
  expect(reader.isAtEnd, "something is behind its last page");
  const indexSha256 = file.toString("hex", 24, 24 + DIGEST_BYTES);
  return {
    set: { sizeBytes, restores: file.readUInt32LE(12), pages, needs, timesUs },
    indexSha256: indexSha256 === NO_INDEX ? null : indexSha256,
  };
}

function readPages(
  reader: VarintReader,
  pageCount: number,
  runs: number,
  limit: number,
): Uint32Array {
  const pages = new Uint32Array(pageCount);
  let count = 0;
  let end = 0;
  for (let run = 0; run < runs; run++) {
    const gap = reader.varint();
    const length = reader.varint() + 1;
    // Runs that touch would be one.
    reader.expect(run === 0 || gap > 0, "two runs of it touch");
    reader.expect(count + length <= pageCount, "its runs have more pages than it says");
    reader.expect(end + gap + length <= limit, "a page of it lies outside of the image");
    end += gap + length;
    for (let page = end - length; page < end; page++) pages[count++] = page;
  }
  reader.expect(count === pageCount, "its runs have fewer pages than it says");
  return pages;
}

function readTimes(reader: VarintReader, pageCount: number): Uint32Array {
  const timesUs = new Uint32Array(pageCount);
  let timeUs = 0;
  for (let index = 0; index < pageCount; index++) {
    timeUs += unzigzag(reader.varint());
    reader.expect(timeUs >= 0 && timeUs <= MAX_TIME_US, "a time in it cannot be");
    timesUs[index] = timeUs;
  }
  return timesUs;
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

function damaged(name: string, reason: string): FaultlineError {
  return new FaultlineError(
    "image-corrupt",
    `${name} holds no working set of this version of Faultline (${reason}). Remove it, and the ` +
      "next restores learn a new one; or get it from another store. The image is whole without it.",
  );
}
