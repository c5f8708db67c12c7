/** A file of a snapshot, open for reading: a whole memory file, or a Firecracker diff. */
import { closeSync, fstatSync, openSync, type Stats, statfsSync } from "node:fs";
import { resolve } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { formatBytes, isAligned, SMALL_PAGE_BYTES } from "../base/units.ts";
import { type DataExtent, dataExtents } from "../linux/file.ts";
import type { FileIdentity } from "../snapshot/session-file.ts";

export class SnapshotFile {
  readonly path: string;
  readonly fd: number;
  /** As they were when the file was opened. */
  readonly stats: Stats;
  /** Where it holds data; the rest are holes. */
  readonly extents: readonly DataExtent[];

  private constructor(path: string, fd: number, stats: Stats) {
    this.path = path;
    this.fd = fd;
    this.stats = stats;
    this.extents = dataExtents(fd, stats.size);
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
      return new SnapshotFile(path, fd, stats);
    } catch (error) {
      closeSync(fd);
      throw error;
    }
  }

  get sizeBytes(): number {
    return this.stats.size;
  }

  /** By which it is known again. */
  get identity(): FileIdentity {
    const { size, mtimeMs } = this.stats;
    return { path: resolve(this.path), sizeBytes: size, mtimeMs };
  }

  /**
   * Refuses to go on with a file that somebody has written to: its bytes are no longer those that
   * were given out, nor those of the snapshot.
   * @throws FaultlineError `memory-changed`
   */
  assertUnchanged(): void {
    const { path, stats } = this;
    const now = fstatSync(this.fd);
    if (now.size === stats.size && now.mtimeMs === stats.mtimeMs) return;
    const what =
      now.size === stats.size
        ? `was written to at ${now.mtime.toISOString()}`
        : `changed its size from ${stats.size} to ${now.size} bytes`;
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
  const { path, stats, extents } = layer;
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
