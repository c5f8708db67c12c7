/**
 * A snapshot's memory as local files: a full memory file, and any number of Firecracker diff files
 * above it. Each is mapped read-only; faults are answered by copying straight from the mappings.
 */
import { closeSync, fstatSync, openSync, read, type Stats, statfsSync } from "node:fs";
import { promisify } from "node:util";
import { FaultlineError } from "../base/errors.ts";
import type { OwnerRuns } from "../base/owner-runs.ts";
import { alignDown, alignUp, formatBytes, isAligned, SMALL_PAGE_BYTES } from "../base/units.ts";
import { monotonicUs } from "../linux/clock.ts";
import { type DataExtent, dataExtents } from "../linux/file.ts";
import { MappedRegion } from "../linux/memory.ts";
import { flattenLayers } from "../snapshot/layers.ts";
import { withDeadline } from "./deadline.ts";
import { BLOCK_BYTES, markWarm, newResidencyNotes, type ResidencyNotes } from "./warm-blocks.ts";

const readAsync = promisify(read);

/** What a fault worker needs of the files: valid in every thread of this process. */
export interface MappedLayers {
  readonly runs: OwnerRuns;
  /** The descriptor of each layer, base first. */
  readonly fds: readonly number[];
  /** The address of each layer's mapping. */
  readonly addresses: readonly number[];
  /** What is known of each layer's pages in the page cache. */
  readonly residency: readonly ResidencyNotes[];
  /** The part that is each layer's first block; its others follow. */
  readonly firstParts: readonly number[];
}

/** Parts of files are numbered from here on, over all files of this process; chunks lie below. */
const FIRST_FILE_PART = 2 ** 32;
let nextPart = FIRST_FILE_PART;
/** A disk that takes longer is as good as dead: the VMs that wait for it are failed by policy. */
const READ_DEADLINE_MS = 30_000;

interface OpenedFile {
  readonly path: string;
  readonly fd: number;
  readonly stats: Stats;
  readonly mapping: MappedRegion;
  readonly extents: readonly DataExtent[];
}

export class MemoryFiles {
  readonly sizeBytes: number;
  readonly layers: MappedLayers;
  readonly #files: readonly OpenedFile[];

  private constructor(files: readonly OpenedFile[]) {
    this.#files = files;
    this.sizeBytes = files[0]!.stats.size;
    this.layers = {
      runs: flattenLayers(
        this.sizeBytes,
        files.map((file, index) => (index === 0 ? roundOut(file) : file.extents)),
      ),
      fds: files.map((file) => file.fd),
      addresses: files.map((file) => file.mapping.address),
      residency: files.map((file) => newResidencyNotes(file.stats.size)),
      firstParts: files.map((file) => {
        const first = nextPart;
        nextPart += Math.ceil(file.stats.size / BLOCK_BYTES);
        return first;
      }),
    };
  }

  /**
   * Opens and maps `memoryPath` and the diff layers above it, lowest first.
   * @throws FaultlineError `memory-missing`, `memory-empty`, `memory-misaligned`, `layer-size`,
   *   `layer-holes`
   */
  static open(memoryPath: string, layerPaths: readonly string[] = []): MemoryFiles {
    const files: OpenedFile[] = [];
    try {
      files.push(openFile(memoryPath, "memory file"));
      const baseSize = files[0]!.stats.size;
      for (const path of layerPaths) {
        const layer = openFile(path, "layer");
        files.push(layer);
        checkLayer(layer, memoryPath, baseSize);
      }
      return new MemoryFiles(files);
    } catch (error) {
      for (const file of files) closeFile(file);
      throw error;
    }
  }

  /** Bytes that a restore would have to load if it loaded all: the rest is zero. */
  get dataBytes(): number {
    const { starts, owners } = this.layers.runs;
    let total = 0;
    for (const [index, owner] of owners.entries()) {
      const end = starts[index + 1] ?? this.sizeBytes;
      if (owner >= 0) total += end - starts[index]!;
    }
    return total;
  }

  /**
   * Reads a part from its disk into the page cache, where fault workers copy it from.
   * @throws FaultlineError `unresolvable-page` if it cannot be read, or not in time
   */
  async load(part: number): Promise<void> {
    const layer = this.layers.firstParts.findLastIndex((first) => first <= part);
    const { path, fd } = this.#files[layer]!;
    const block = part - this.layers.firstParts[layer]!;
    const position = block * BLOCK_BYTES;
    try {
      await withDeadline(readBlock(fd, position), READ_DEADLINE_MS, "The disk did not answer");
    } catch (cause) {
      throw new FaultlineError(
        "unresolvable-page",
        `${path} cannot be read at offset ${position}: check its disk`,
        { cause },
      );
    }
    markWarm(this.layers.residency[layer]!, block, Math.floor(monotonicUs() / 1e6));
  }

  /**
   * Refuses to go on with files that somebody has written to: their bytes are no longer those that
   * running VMs were given, nor those of the snapshot.
   * @throws FaultlineError `memory-changed`
   */
  assertUnchanged(): void {
    for (const { path, fd, stats } of this.#files) {
      const now = fstatSync(fd);
      if (now.size === stats.size && now.mtimeMs === stats.mtimeMs) continue;
      const what =
        now.size === stats.size
          ? `was written to at ${now.mtime.toISOString()}`
          : `changed its size from ${stats.size} to ${now.size} bytes`;
      throw new FaultlineError(
        "memory-changed",
        `${path} ${what} while it was being served. Snapshot files must not change: write new ` +
          "snapshots to new files, and start again with a whole one.",
      );
    }
  }

  close(): void {
    for (const file of this.#files) closeFile(file);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** The bytes are of no use here; that the kernel has read them is. */
async function readBlock(fd: number, position: number): Promise<void> {
  await readAsync(fd, new Uint8Array(BLOCK_BYTES), 0, BLOCK_BYTES, position);
}

function openFile(path: string, role: string): OpenedFile {
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
    const extents = dataExtents(fd, stats.size);
    return { path, fd, stats, extents, mapping: MappedRegion.readOnlyFile(fd, stats.size) };
  } catch (error) {
    closeSync(fd);
    throw error;
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
 * The base file's extents in whole pages. With blocks below 4 KiB data may end inside of a page;
 * the rest of that page is a hole, which reads as zero through the mapping just as it should.
 */
function roundOut(file: OpenedFile): DataExtent[] {
  const result: DataExtent[] = [];
  for (const { start, end } of file.extents) {
    const from = alignDown(start, SMALL_PAGE_BYTES);
    const to = Math.min(alignUp(end, SMALL_PAGE_BYTES), file.stats.size);
    const last = result.at(-1);
    if (last !== undefined && from <= last.end) result[result.length - 1] = { ...last, end: to };
    else result.push({ start: from, end: to });
  }
  return result;
}

/**
 * A diff is only as good as its holes: where the file system reports them coarser than a page, or
 * not at all, clean pages would read as zeroes instead of the layer below.
 */
function checkLayer(layer: OpenedFile, basePath: string, baseSize: number): void {
  const { path, stats, extents } = layer;
  if (stats.size !== baseSize) {
    throw new FaultlineError(
      "layer-size",
      `The layer ${path} has ${stats.size} bytes, but the memory file ${basePath} has ` +
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

function closeFile(file: OpenedFile): void {
  file.mapping.unmap();
  closeSync(file.fd);
}
