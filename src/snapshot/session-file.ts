/**
 * `PID.session`: what is known of the pages of one running VM, in a file that outlives its handler.
 * A header of whole pages, then two bitmaps, a bit for each page of the VM (docs/FORMAT.md):
 *
 * ```
 *   header │ written: may hold something else than the image │ removed: reads as zero if absent
 * ```
 *
 * The header never changes, but for one word: `busyOffset`, odd while the handler has read events
 * that are not in the bitmaps yet.
 */
import * as v from "valibot";
import { FaultlineError } from "../base/errors.ts";
import { alignUp, hostAddress, imageOffset, SMALL_PAGE_BYTES } from "../base/units.ts";
import { type GuestRegion, MAX_REGIONS, RegionMap } from "./regions.ts";

const MAGIC = Buffer.from("FLTSESS\n");
const VERSION = 1;
/** Of the header; the identity of what is served follows the regions. */
const FIXED_BYTES = 72;
const REGION_BYTES = 24;
/** 256 regions and the paths of many layers. */
const MAX_HEADER_BYTES = 1024 * 1024;
/** Two bits a page of 4 KiB: 256 TiB, and less than any address space. */
const MAX_IMAGE_BYTES = 2 ** 48;

const at = {
  magic: 0,
  version: 8,
  headerBytes: 12,
  pid: 16,
  pageSizeBytes: 20,
  startTicks: 24,
  imageBytes: 32,
  pageCount: 40,
  bitmapBytes: 48,
  regionCount: 56,
  servedBytes: 60,
  busy: 64,
} as const;

const size = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const fileSchema = v.object({ path: v.string(), sizeBytes: size, mtimeMs: v.number() });
export type FileIdentity = Readonly<v.InferOutput<typeof fileSchema>>;
const servedSchema = v.variant("kind", [
  v.object({
    kind: v.literal("image"),
    store: v.string(),
    name: v.string(),
    /** SHA-256 of the image's index. */
    indexSha256: v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "64 hexadecimal digits")),
  }),
  v.object({
    kind: v.literal("files"),
    /** The memory file, then the layers above it. */
    files: v.pipe(v.array(fileSchema), v.minLength(1)),
  }),
]);
/** What a VM was restored from, so that nothing else is taken for it. */
export type ServedIdentity = Readonly<v.InferOutput<typeof servedSchema>>;

const tailSchema = v.object({
  /** Of the host; process numbers and start times mean nothing after a reboot. */
  bootId: v.string(),
  served: servedSchema,
});

export interface SessionFacts {
  readonly pid: number;
  /** When the process started, as /proc/PID/stat tells: a reused pid is found out by it. */
  readonly startTicks: number;
  readonly bootId: string;
  readonly regions: RegionMap;
  readonly imageBytes: number;
  readonly served: ServedIdentity;
}

export interface SessionLayout extends SessionFacts {
  readonly pageCount: number;
  /** Where the bitmap `written` begins; `removed` follows it. */
  readonly headerBytes: number;
  readonly bitmapBytes: number;
}

/** Where the word lies that is odd while the handler records events. */
export const busyOffset = at.busy;

/** Bytes of the whole file. */
export function sessionFileBytes({ headerBytes, bitmapBytes }: SessionLayout): number {
  return headerBytes + 2 * bitmapBytes;
}

/** Of one bitmap: whole pages, so that each can be mapped alone. */
export function bitmapBytesOf(pageCount: number): number {
  return alignUp(Math.ceil(pageCount / 8), SMALL_PAGE_BYTES);
}

/** The header, in whole pages. */
export function encodeSessionHeader(facts: SessionFacts): Buffer {
  const { regions, pid, startTicks, imageBytes, bootId, served } = facts;
  const tail = Buffer.from(JSON.stringify({ bootId, served }));
  const tailOffset = FIXED_BYTES + regions.regions.length * REGION_BYTES;
  const header = Buffer.alloc(alignUp(tailOffset + tail.length, SMALL_PAGE_BYTES));
  const pageCount = imageBytes / regions.pageSizeBytes;
  MAGIC.copy(header, at.magic);
  header.writeUInt32LE(VERSION, at.version);
  header.writeUInt32LE(header.length, at.headerBytes);
  header.writeUInt32LE(pid, at.pid);
  header.writeUInt32LE(regions.pageSizeBytes, at.pageSizeBytes);
  writeNumber(header, startTicks, at.startTicks);
  writeNumber(header, imageBytes, at.imageBytes);
  writeNumber(header, pageCount, at.pageCount);
  writeNumber(header, bitmapBytesOf(pageCount), at.bitmapBytes);
  header.writeUInt32LE(regions.regions.length, at.regionCount);
  header.writeUInt32LE(tail.length, at.servedBytes);
  for (const [index, region] of regions.regions.entries()) {
    const offset = FIXED_BYTES + index * REGION_BYTES;
    writeNumber(header, region.baseHostAddress, offset);
    writeNumber(header, region.sizeBytes, offset + 8);
    writeNumber(header, region.imageOffset, offset + 16);
  }
  tail.copy(header, tailOffset);
  return header;
}

/**
 * @param bytes the file, or its beginning
 * @param fileBytes how long the whole file is
 * @param name what messages call it
 * @throws FaultlineError `session-file`
 */
export function decodeSessionHeader(bytes: Buffer, fileBytes: number, name: string): SessionLayout {
  const refuse = (what: string): never => {
    throw new FaultlineError("session-file", `${name} is no session file: ${what}.`);
  };
  if (bytes.length < FIXED_BYTES || !bytes.subarray(0, MAGIC.length).equals(MAGIC)) {
    return refuse("it does not begin as one");
  }
  const version = bytes.readUInt32LE(at.version);
  if (version !== VERSION) return refuse(`it is of version ${version}, we read ${VERSION}`);
  const headerBytes = bytes.readUInt32LE(at.headerBytes);
  const regionCount = bytes.readUInt32LE(at.regionCount);
  const tailOffset = FIXED_BYTES + regionCount * REGION_BYTES;
  const tailEnd = tailOffset + bytes.readUInt32LE(at.servedBytes);
  const isHeader = headerBytes <= Math.min(bytes.length, MAX_HEADER_BYTES);
  if (!isHeader || regionCount > MAX_REGIONS || tailEnd > headerBytes) {
    return refuse("its header is cut off");
  }
  const imageBytes = readNumber(bytes, at.imageBytes);
  const pageCount = readNumber(bytes, at.pageCount);
  const bitmapBytes = readNumber(bytes, at.bitmapBytes);
  const regions = readRegions(bytes, regionCount, refuse);
  const isWhole =
    imageBytes <= MAX_IMAGE_BYTES &&
    regions.totalBytes === imageBytes &&
    regions.pageLimit === pageCount &&
    pageCount * regions.pageSizeBytes === imageBytes &&
    bitmapBytes === bitmapBytesOf(pageCount) &&
    fileBytes === headerBytes + 2 * bitmapBytes;
  if (!isWhole) return refuse("its sizes contradict each other");
  const tail = readTail(bytes.toString("utf8", tailOffset, tailEnd), refuse);
  return {
    pid: bytes.readUInt32LE(at.pid),
    startTicks: readNumber(bytes, at.startTicks),
    ...tail,
    regions,
    imageBytes,
    pageCount,
    headerBytes,
    bitmapBytes,
  };
}

type Refuse = (what: string) => never;

function readRegions(bytes: Buffer, count: number, refuse: Refuse): RegionMap {
  const regions: GuestRegion[] = [];
  for (let index = 0; index < count; index++) {
    const offset = FIXED_BYTES + index * REGION_BYTES;
    regions.push({
      baseHostAddress: hostAddress(readNumber(bytes, offset)),
      sizeBytes: readNumber(bytes, offset + 8),
      imageOffset: imageOffset(readNumber(bytes, offset + 16)),
    });
  }
  const pageSizeBytes = bytes.readUInt32LE(at.pageSizeBytes);
  if (pageSizeBytes === 0 || pageSizeBytes % SMALL_PAGE_BYTES !== 0) {
    return refuse(`its pages have ${pageSizeBytes} bytes`);
  }
  try {
    return new RegionMap(regions, pageSizeBytes, "statement");
  } catch {
    return refuse("its regions overlap, or are not whole pages");
  }
}

function readTail(text: string, refuse: Refuse): v.InferOutput<typeof tailSchema> {
  let json: unknown;
  try {
    json = JSON.parse(text);
  } catch {
    return refuse("it does not say what was served");
  }
  const parsed = v.safeParse(tailSchema, json);
  return parsed.success ? parsed.output : refuse("it does not say what was served");
}

function writeNumber(buffer: Buffer, value: number, offset: number): void {
  buffer.writeBigUInt64LE(BigInt(value), offset);
}

function readNumber(buffer: Buffer, offset: number): number {
  return Number(buffer.readBigUInt64LE(offset));
}
