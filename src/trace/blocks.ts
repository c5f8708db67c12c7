/**
 * The frame of a `.fltrace` file: a header, and blocks with a checksum each, so that a file that
 * was cut off can be read up to its last whole block. Numbers are little-endian.
 *
 * ```
 *    0  "FLTLOG\r\n"            block:  0  type (4): 1 records, 2 the end
 *    8  version (4)                     4  records in it (4)
 *   12  h, size of the JSON (4)         8  p, size of the content (4)
 *   16  JSON, ends in a line feed      12  content
 *   16 + h  CRC-32 of all before       12 + p  CRC-32 of all before, of this block
 * ```
 *
 * PURE.
 */
import { FaultlineError } from "../base/errors.ts";
import { crc32 } from "./crc32.ts";
import { isHeader } from "./header.ts";
import type { RecordingHeader } from "./recording.ts";

export const BlockType = { records: 1, end: 2 } as const;

export interface Block {
  readonly type: number;
  readonly count: number;
  readonly content: Uint8Array;
  /** Where the next one begins. */
  readonly nextAt: number;
}

const MAGIC = "FLTLOG\r\n";
const VERSION = 1;
const FRONT_BYTES = 16;
const BLOCK_FRONT_BYTES = 12;
const CRC_BYTES = 4;
/** 256 regions, and names as long as paths may be. */
const MAX_HEADER_BYTES = 256 * 1024;
export const MAX_BLOCK_RECORDS = 4096;
export const MAX_CONTENT_BYTES = 128 * 1024;

export function encodeHeader(header: RecordingHeader): Uint8Array {
  const json = new TextEncoder().encode(`${JSON.stringify(header)}\n`);
  const bytes = new Uint8Array(FRONT_BYTES + json.length + CRC_BYTES);
  const view = viewOf(bytes);
  bytes.set(new TextEncoder().encode(MAGIC));
  view.setUint32(8, VERSION, true);
  view.setUint32(12, json.length, true);
  bytes.set(json, FRONT_BYTES);
  seal(bytes);
  return bytes;
}

/**
 * Null: it is longer than `bytes`.
 * @param name what messages call the file
 * @throws FaultlineError `trace-corrupt`
 */
export function decodeHeader(
  bytes: Uint8Array,
  name: string,
): { readonly header: RecordingHeader; readonly nextAt: number } | null {
  const magic = new TextEncoder().encode(MAGIC);
  const begins = magic.every((byte, at) => at >= bytes.length || bytes[at] === byte);
  if (!begins) throw corrupt(name, "it does not begin as one");
  if (bytes.length < FRONT_BYTES) return null;
  const view = viewOf(bytes);
  const version = view.getUint32(8, true);
  if (version !== VERSION) throw corrupt(name, `it has version ${version}, not ${VERSION}`);
  const jsonBytes = view.getUint32(12, true);
  if (jsonBytes > MAX_HEADER_BYTES) throw corrupt(name, "its header is too long");
  const nextAt = FRONT_BYTES + jsonBytes + CRC_BYTES;
  if (bytes.length < nextAt) return null;
  if (!isSealed(bytes.subarray(0, nextAt))) {
    throw corrupt(name, "its header does not match its checksum");
  }
  const header = parseJson(bytes.subarray(FRONT_BYTES, FRONT_BYTES + jsonBytes));
  if (!isHeader(header)) throw corrupt(name, "its header lacks what it should tell");
  return { header, nextAt };
}

export function encodeBlock(type: number, count: number, content: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(BLOCK_FRONT_BYTES + content.length + CRC_BYTES);
  const view = viewOf(bytes);
  view.setUint32(0, type, true);
  view.setUint32(4, count, true);
  view.setUint32(8, content.length, true);
  bytes.set(content, BLOCK_FRONT_BYTES);
  seal(bytes);
  return bytes;
}

/** The block at `at`; `short`: it is longer than `bytes`; `damaged`: it is none. */
export function decodeBlock(bytes: Uint8Array, at: number): Block | "short" | "damaged" {
  const rest = bytes.subarray(at);
  if (rest.length < BLOCK_FRONT_BYTES) return "short";
  const view = viewOf(rest);
  const [type, count, size] = [0, 4, 8].map((place) => view.getUint32(place, true)) as [
    number,
    number,
    number,
  ];
  const isKnown = type === BlockType.records || type === BlockType.end;
  if (!isKnown || count > MAX_BLOCK_RECORDS || size > MAX_CONTENT_BYTES) return "damaged";
  const wholeBytes = BLOCK_FRONT_BYTES + size + CRC_BYTES;
  if (rest.length < wholeBytes) return "short";
  const whole = rest.subarray(0, wholeBytes);
  if (!isSealed(whole)) return "damaged";
  const content = whole.subarray(BLOCK_FRONT_BYTES, BLOCK_FRONT_BYTES + size);
  return { type, count, content, nextAt: at + wholeBytes };
}

export function corrupt(name: string, reason: string): FaultlineError {
  return new FaultlineError(
    "trace-corrupt",
    `${name} holds no recording of this version of Faultline (${reason}). Record it anew with ` +
      "`faultline trace record`.",
  );
}

/** Undefined: it is none. */
export function parseJson(bytes: Uint8Array): unknown {
  try {
    return JSON.parse(new TextDecoder("utf-8", { fatal: true }).decode(bytes));
  } catch {
    return undefined;
  }
}

/** The last four bytes are the checksum of all others. */
function seal(bytes: Uint8Array): void {
  const at = bytes.length - CRC_BYTES;
  viewOf(bytes).setUint32(at, crc32(bytes.subarray(0, at)), true);
}

function isSealed(bytes: Uint8Array): boolean {
  const at = bytes.length - CRC_BYTES;
  return viewOf(bytes).getUint32(at, true) === crc32(bytes.subarray(0, at));
}

function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}
