/**
 * A trace: the pages that a restored guest touched, in order, each once, and how long it computed
 * before each. The file holds no memory (docs/FORMAT.md). Numbers are little-endian.
 *
 * ```
 *    0  "FLTRCE\r\n"            24  length of the whole file (8)
 *    8  version (4)             32  touches: page, think time, as varints
 *   12  touches (4)             -32  SHA-256 of all before it
 *   16  memory size (8)
 * ```
 *
 * A trace has one encoding only: what is not exactly so is refused.
 */
import { createHash } from "node:crypto";
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { MAX_VARINT_BYTES, unzigzag, VarintReader, VarintWriter, zigzag } from "../base/varints.ts";

export interface Trace {
  /** Of the guest's memory; whole pages. */
  readonly sizeBytes: number;
  /** Ordinals of pages of 4 KiB, in the order of touching, each once. */
  readonly pages: Uint32Array;
  /** `thinkUs[i]`: what the guest took before it touched `pages[i]`, without waiting for memory. */
  readonly thinkUs: Uint32Array;
}

const MAGIC = Buffer.from("FLTRCE\r\n");
const VERSION = 1;
const HEADER_BYTES = 32;
const DIGEST_BYTES = 32;
/** 4 GiB of pages: longer than any restore is watched. */
export const MAX_TRACE_TOUCHES = 2 ** 20;
/** 16 TiB: ordinals of pages have 32 bits. */
const MAX_MEMORY_BYTES = 2 ** 32 * SMALL_PAGE_BYTES;
const MAX_THINK_US = 0xffff_ffff;

export function encodeTrace({ sizeBytes, pages, thinkUs }: Trace): Uint8Array {
  assert(pages.length > 0 && pages.length <= MAX_TRACE_TOUCHES, "a trace within its bound");
  assert(thinkUs.length === pages.length, "a think time for each page");
  const limit = HEADER_BYTES + pages.length * 2 * MAX_VARINT_BYTES + DIGEST_BYTES;
  const bytes = Buffer.alloc(limit);
  const writer = new VarintWriter(bytes, HEADER_BYTES);
  let expected = 0;
  for (let touch = 0; touch < pages.length; touch++) {
    writer.varint(zigzag(pages[touch]! - expected));
    writer.varint(thinkUs[touch]!);
    expected = pages[touch]! + 1;
  }
  const fileBytes = writer.at + DIGEST_BYTES;
  MAGIC.copy(bytes, 0);
  bytes.writeUInt32LE(VERSION, 8);
  bytes.writeUInt32LE(pages.length, 12);
  bytes.writeBigUInt64LE(BigInt(sizeBytes), 16);
  bytes.writeBigUInt64LE(BigInt(fileBytes), 24);
  writer.bytes(sha256(bytes.subarray(0, writer.at)));
  return bytes.subarray(0, fileBytes);
}

/**
 * @param name what messages call the file
 * @throws FaultlineError `trace-corrupt`
 */
export function decodeTrace(bytes: Uint8Array, name: string): Trace {
  const file = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const damaged = (what: string): FaultlineError => refusal(name, what);
  const expect = (isTrue: boolean, what: string): void => {
    if (!isTrue) throw damaged(what);
  };
  expect(file.length >= HEADER_BYTES + DIGEST_BYTES, `it has only ${file.length} bytes`);
  expect(MAGIC.equals(file.subarray(0, MAGIC.length)), "it does not begin as one");
  const version = file.readUInt32LE(8);
  expect(version === VERSION, `it has version ${version}, not ${VERSION}`);
  const isWhole = file.readBigUInt64LE(24) === BigInt(file.length);
  expect(isWhole, "its length is not the one it names");
  const content = file.subarray(0, file.length - DIGEST_BYTES);
  const isIntact = sha256(content).equals(file.subarray(content.length));
  expect(isIntact, "it does not match its digest");
  const count = file.readUInt32LE(12);
  expect(count > 0 && count <= MAX_TRACE_TOUCHES, `it has ${count} touches`);
  const sizeBytes = Number(file.readBigUInt64LE(16));
  const isSize = sizeBytes > 0 && sizeBytes <= MAX_MEMORY_BYTES;
  expect(isSize && sizeBytes % SMALL_PAGE_BYTES === 0, `it is for ${sizeBytes} bytes of memory`);
  const reader = new VarintReader(content, HEADER_BYTES, damaged);
  const touches = readTouches(reader, count, sizeBytes / SMALL_PAGE_BYTES);
  expect(reader.isAtEnd, "something is behind its last touch");
  return { sizeBytes, ...touches };
}

function readTouches(
  reader: VarintReader,
  count: number,
  pageCount: number,
): Pick<Trace, "pages" | "thinkUs"> {
  const pages = new Uint32Array(count);
  const thinkUs = new Uint32Array(count);
  let expected = 0;
  for (let touch = 0; touch < count; touch++) {
    const page = expected + unzigzag(reader.varint());
    reader.expect(page >= 0 && page < pageCount, "a page in it lies outside of the memory");
    const think = reader.varint();
    reader.expect(think <= MAX_THINK_US, "a think time in it is too long");
    pages[touch] = page;
    thinkUs[touch] = think;
    expected = page + 1;
  }
  reader.expect(new Set(pages).size === count, "it touches a page twice");
  return { pages, thinkUs };
}

function sha256(bytes: Uint8Array): Buffer {
  return createHash("sha256").update(bytes).digest();
}

function refusal(name: string, reason: string): FaultlineError {
  return new FaultlineError(
    "trace-corrupt",
    `${name} holds no trace of this version of Faultline (${reason}). Record it anew ` +
      "(docs/BENCHMARKS.md), or give linux or synthetic.",
  );
}
