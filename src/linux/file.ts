/** What node:fs cannot do with files: tell data from holes, lock, flush, see the page cache. */
import { SysError } from "../base/errors.ts";
import {
  cachestat,
  cachestat_range,
  EAGAIN,
  EIO,
  ENXIO,
  LOCK_EX,
  LOCK_NB,
  SEEK_DATA,
  SEEK_HOLE,
} from "./abi-posix.ts";
import { readU64, writeU64 } from "./layout.ts";
import * as sys from "./sys.ts";

/** A run of bytes that a sparse file really holds: `start` inclusive, `end` exclusive. */
export interface DataExtent {
  readonly start: number;
  readonly end: number;
}

/** The data extents of a file in ascending order. See lseek(2), SEEK_DATA. */
export function dataExtents(fd: number, sizeBytes: number): DataExtent[] {
  const extents: DataExtent[] = [];
  let position = 0;
  while (position < sizeBytes) {
    const start = sys.lseek(fd, position, SEEK_DATA);
    if (start === -1) {
      if (sys.errno() === ENXIO) break; // No data after this position.
      throw sys.sysError("lseek(SEEK_DATA)");
    }
    if (start >= sizeBytes) break;
    const end = Math.min(sys.check(sys.lseek(fd, start, SEEK_HOLE), "lseek(SEEK_HOLE)"), sizeBytes);
    extents.push({ start, end });
    position = end;
  }
  return extents;
}

const pageBytes = sys.getpagesize();
const rangeScratch = new sys.Scratch(cachestat_range.size);
const statScratch = new sys.Scratch(cachestat.size);

/**
 * How many bytes of a range of a file are in the page cache, or -1 where the kernel cannot tell:
 * before Linux 6.5, for files that this user may neither write nor owns, for hugetlbfs. See
 * cachestat(2). Allocates nothing.
 */
export function cachedBytes(fd: number, offset: number, lengthBytes: number): number {
  writeU64(rangeScratch.words, cachestat_range.offset.off, offset);
  writeU64(rangeScratch.words, cachestat_range.offset.len, lengthBytes);
  const { SYS_cachestat } = sys.abi.syscalls;
  const result = sys.syscall(SYS_cachestat, fd, rangeScratch.address, statScratch.address, 0);
  if (result !== 0) return -1;
  return readU64(statScratch.words, cachestat.offset.nr_cache) * pageBytes;
}

/**
 * Takes the exclusive lock of an open file or folder, if it is free; closing the fd gives it back.
 */
export function tryLock(fd: number): boolean {
  if (sys.flock(fd, LOCK_EX | LOCK_NB) === 0) return true;
  if (sys.errno() === EAGAIN) return false;
  throw sys.sysError("flock");
}

/**
 * Makes durable all that was ever written to the file system of an open file or folder. One call is
 * far cheaper than an fsync for each of many files. It reports what could not be written since the
 * file system was last asked (Linux >= 5.8).
 */
export async function syncFileSystem(fd: number): Promise<void> {
  if (!(await sys.syncfsInBackground(fd))) {
    // The reason stayed with the thread of the pool: ask once more, here.
    throw sys.syncfs(fd) === 0 ? new SysError("syncfs", EIO, "EIO") : sys.sysError("syncfs");
  }
}
