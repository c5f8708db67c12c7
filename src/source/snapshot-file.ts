/** A file of a snapshot, open for reading: a whole memory file, or a Firecracker diff. */
import { closeSync, fstatSync, openSync, type Stats, statfsSync } from "node:fs";
import { resolve } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { formatBytes, isAligned, SMALL_PAGE_BYTES } from "../base/units.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { type DataExtent, dataExtents } from "../linux/file.ts";
import type { FileIdentity } from "../snapshot/session-file.ts";

export class SnapshotFile {
  /** As messages call it. */
  readonly path: string;
  /** By which it is known again: where it is, and how it was when it was opened. */
  readonly identity: FileIdentity;
  readonly fd: number;
  /** Where it holds data; the rest are holes. */
  readonly extents: readonly DataExtent[];

  private constructor(path: string, identity: FileIdentity, fd: number) {
    this.path = path;
    this.identity = identity;
    this.fd = fd;
    this.extents = dataExtents(fd, identity.sizeBytes);
  }

  /**
   * @param role what messages call the file
   * @throws FaultlineError `memory-missing`, `memory-empty`, `memory-misaligned`
   */
  static open(path: string, role: string): SnapshotFile {
    let fd: number;
    try {
      fd = openSync(path, "r");
    } catch (cause) {
      throw new FaultlineError(
        "memory-missing",
        `The ${role} ${path} cannot be opened. Give one that exists and that this user may read`,
        { cause },
      );
    }
    try {
      const stats = fstatSync(fd);
      checkStats(stats, path, role);
      const { size: sizeBytes, mtimeMs } = stats;
      return new SnapshotFile(path, { path: resolve(path), sizeBytes, mtimeMs }, fd);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  /** A file that an earlier process has opened, and said then what it is. */
  static adopt(fd: OwnedFd, identity: FileIdentity): SnapshotFile {
    return new SnapshotFile(identity.path, identity, fd.intoRawFd());
  }

  get sizeBytes(): number {
    return this.identity.sizeBytes;
  }

  /**
   * Refuses to go on with a file that somebody has written to: its bytes are no longer those that
   * were given out, nor those of the snapshot.
   * @throws FaultlineError `memory-changed`
   */
  assertUnchanged(): void {
    const { path, sizeBytes, mtimeMs } = this.identity;
    const now = fstatSync(this.fd);
    if (now.size === sizeBytes && now.mtimeMs === mtimeMs) return;
    const what =
      now.size === sizeBytes
        ? `was written to at ${now.mtime.toISOString()}`
        : `changed its size from ${sizeBytes} to ${now.size} bytes`;
    throw new FaultlineError(
      "memory-changed",
      `${path} ${what} while it was in use. Snapshot files must not change: write new ` +
        "snapshots to new files, and start again with a whole one.",
    );
  }

  close(): void {
    closeSync(this.fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

function checkStats(stats: Stats, path: string, role: string): void {
  if (!stats.isFile()) {
    throw new FaultlineError(
      "memory-missing",
      `The ${role} ${path} is not a regular file. Give the file itself.`,
    );
  }
  if (stats.size === 0) {
    throw new FaultlineError(
      "memory-empty",
      `The ${role} ${path} is empty. Was the snapshot written to the end?`,
    );
  }
  if (!isAligned(stats.size, SMALL_PAGE_BYTES)) {
    throw new FaultlineError(
      "memory-misaligned",
      `The ${role} ${path} has ${stats.size} bytes, no multiple of ${SMALL_PAGE_BYTES}. It is ` +
        "truncated, or no Firecracker memory file.",
    );
  }
}

/**
 * A diff is only as good as its holes: where the file system reports them coarser than a page, or
 * not at all, clean pages would read as zeroes instead of the layer below.
 * @throws FaultlineError `layer-size`, `layer-holes`
 */
export function assertLayerOf(layer: SnapshotFile, basePath: string, baseSize: number): void {
  const { path, extents } = layer;
  const stats = fstatSync(layer.fd);
  if (stats.size !== baseSize) {
    throw new FaultlineError(
      "layer-size",
      `The layer ${path} has ${stats.size} bytes, but ${basePath} has ` +
        `${baseSize}. A diff belongs to a snapshot of the same VM: check the pair.`,
    );
  }
  const cure =
    "Merge the diff into its base (snapshot-editor edit-memory rebase), or write snapshots to a " +
    "local file system with 4 KiB blocks.";
  const blockBytes = statfsSync(path).bsize;
  if (blockBytes > SMALL_PAGE_BYTES) {
    throw new FaultlineError(
      "layer-holes",
      `The layer ${path} lies on a file system with blocks of ${formatBytes(blockBytes)}, so its ` +
        `holes do not tell which 4 KiB pages are clean. ${cure}`,
    );
  }
  const isInPages = ({ start, end }: DataExtent): boolean =>
    isAligned(start, SMALL_PAGE_BYTES) && isAligned(end, SMALL_PAGE_BYTES);
  if (!extents.every(isInPages)) {
    throw new FaultlineError(
      "layer-holes",
      `The layer ${path} has holes that begin inside of a page: no Firecracker diff. ${cure}`,
    );
  }
  const dataBytes = extents.reduce((sum, { start, end }) => sum + end - start, 0);
  const allocatedBytes = stats.blocks * 512;
  if (dataBytes === stats.size && allocatedBytes < stats.size) {
    throw new FaultlineError(
      "layer-holes",
      `The layer ${path} is sparse (${formatBytes(allocatedBytes)} of ` +
        `${formatBytes(stats.size)}), but its file system reports no holes. ${cure}`,
    );
  }
}
