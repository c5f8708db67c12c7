/**
 * Which parts of a file are in the page cache. A copy from a mapping whose pages are not waits for
 * the disk, and with it every VM of that fault worker; so workers look first.
 *
 * Asking the kernel costs a microsecond, so its answer is believed for a second, for blocks of
 * 64 KiB, or for 2 MiB at once if all of that is there. Pages that the kernel drops within that
 * second cost one wait for the disk, as they would without all this.
 *
 * Workers and the main thread share the notes. Plain stores: whoever reads an old one asks again.
 */
import { cachedBytes } from "../linux/file.ts";

export const BLOCK_BYTES = 64 * 1024;
const GROUP_BYTES = 2 ** 21;
const BLOCKS_PER_GROUP = GROUP_BYTES / BLOCK_BYTES;

/** Shared memory of a file's notes. */
export interface ResidencyNotes {
  readonly sizeBytes: number;
  /** By block: the second until which it is believed to be there. */
  readonly warmUntil: Uint32Array;
  /** By group of 2 MiB: the second until which it need not be asked for as a whole. */
  readonly askedUntil: Uint32Array;
}

/** How long an answer is believed, at least, in seconds. */
const BELIEVED_SECONDS = 1;

export function newResidencyNotes(sizeBytes: number): ResidencyNotes {
  const shared = (count: number): Uint32Array => new Uint32Array(new SharedArrayBuffer(count * 4));
  return {
    sizeBytes,
    warmUntil: shared(Math.ceil(sizeBytes / BLOCK_BYTES)),
    askedUntil: shared(Math.ceil(sizeBytes / GROUP_BYTES)),
  };
}

/** The first block of a range that is not there, or -1. `nowSeconds`: of the monotonic clock. */
export function firstColdBlock(
  fd: number,
  notes: ResidencyNotes,
  offset: number,
  lengthBytes: number,
  nowSeconds: number,
): number {
  const last = Math.floor((offset + lengthBytes - 1) / BLOCK_BYTES);
  for (let block = Math.floor(offset / BLOCK_BYTES); block <= last; block++) {
    if (notes.warmUntil[block]! > nowSeconds) continue;
    if (isGroupWarm(fd, notes, Math.floor(block / BLOCKS_PER_GROUP), nowSeconds)) continue;
    if (!isWarm(fd, notes, block * BLOCK_BYTES, BLOCK_BYTES)) return block;
    markWarm(notes, block, nowSeconds);
  }
  return -1;
}

/** Somebody has just read the block. */
export function markWarm(notes: ResidencyNotes, block: number, nowSeconds: number): void {
  notes.warmUntil[block] = nowSeconds + 1 + BELIEVED_SECONDS;
}

function isGroupWarm(
  fd: number,
  notes: ResidencyNotes,
  group: number,
  nowSeconds: number,
): boolean {
  if (notes.askedUntil[group]! > nowSeconds) return false;
  notes.askedUntil[group] = nowSeconds + 1;
  if (!isWarm(fd, notes, group * GROUP_BYTES, GROUP_BYTES)) return false;
  const until = nowSeconds + 1 + BELIEVED_SECONDS;
  notes.warmUntil.fill(until, group * BLOCKS_PER_GROUP, (group + 1) * BLOCKS_PER_GROUP);
  return true;
}

/** Where the kernel cannot tell, everything counts as there, as if nobody had asked. */
function isWarm(fd: number, notes: ResidencyNotes, offset: number, lengthBytes: number): boolean {
  const end = Math.min(offset + lengthBytes, notes.sizeBytes);
  const cached = cachedBytes(fd, offset, end - offset);
  return cached < 0 || cached >= end - offset;
}
