/** What node:fs cannot say about a file: where its data is, and where its holes are. */
import { EAGAIN, ENXIO, LOCK_EX, LOCK_NB, SEEK_DATA, SEEK_HOLE } from "./abi-posix.ts";
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
