/** What node:fs cannot do with files: tell data from holes, lock, flush a whole file system. */
import { SysError } from "../base/errors.ts";
import { EAGAIN, EIO, ENXIO, LOCK_EX, LOCK_NB, SEEK_DATA, SEEK_HOLE } from "./abi-posix.ts";
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
