/**
 * A snapshot's memory as local files: a full memory file, and any number of Firecracker diff files
 * above it. Each is mapped read-only; faults are answered by copying straight from the mappings.
 */
import { read } from "node:fs";
import { promisify } from "node:util";
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import type { OwnerRuns } from "../base/owner-runs.ts";
import { alignDown, alignUp, SMALL_PAGE_BYTES } from "../base/units.ts";
import { monotonicUs } from "../linux/clock.ts";
import type { OwnedFd } from "../linux/fd.ts";
import type { DataExtent } from "../linux/file.ts";
import { MappedRegion } from "../linux/memory.ts";
import { flattenLayers } from "../snapshot/layers.ts";
import type { FileIdentity } from "../snapshot/session-file.ts";
import { withDeadline } from "./deadline.ts";
import { PartBill, type PartCost } from "./part-cost.ts";
import { assertLayerOf, SnapshotFile } from "./snapshot-file.ts";
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
export const FIRST_FILE_PART = 2 ** 32;
let nextPart = FIRST_FILE_PART;
/** A disk that takes longer is as good as dead: the VMs that wait for it are failed by policy. */
const READ_DEADLINE_MS = 30_000;

interface MappedFile {
  readonly file: SnapshotFile;
  readonly mapping: MappedRegion;
}

export class MemoryFiles {
  readonly sizeBytes: number;
  readonly layers: MappedLayers;
  readonly #files: readonly MappedFile[];
  readonly #endPart: number;
  readonly #loads = new Set<Promise<void>>();

  private constructor(files: readonly MappedFile[]) {
    this.#files = files;
    this.sizeBytes = files[0]!.file.sizeBytes;
    this.layers = {
      runs: flattenLayers(
        this.sizeBytes,
        files.map(({ file }, index) => (index === 0 ? roundOut(file) : file.extents)),
      ),
      fds: files.map(({ file }) => file.fd),
      addresses: files.map(({ mapping }) => mapping.address),
      residency: files.map(({ file }) => newResidencyNotes(file.sizeBytes)),
      firstParts: files.map(({ file }) => {
        const first = nextPart;
        nextPart += Math.ceil(file.sizeBytes / BLOCK_BYTES);
        return first;
      }),
    };
    this.#endPart = nextPart;
  }

  /**
   * Opens and maps `memoryPath` and the diff layers above it, lowest first.
   * @throws FaultlineError `memory-missing`, `memory-empty`, `memory-misaligned`, `layer-size`,
   *   `layer-holes`
   */
  static open(memoryPath: string, layerPaths: readonly string[] = []): MemoryFiles {
    const files: MappedFile[] = [];
    try {
      files.push(openFile(memoryPath, "memory file"));
      for (const path of layerPaths) {
        files.push(openFile(path, "layer"));
        assertLayerOf(files.at(-1)!.file, memoryPath, files[0]!.file.sizeBytes);
      }
      return new MemoryFiles(files);
    } catch (error) {
      for (const file of files) closeFile(file);
      throw error;
    }
  }

  /**
   * Files that an earlier process has opened and checked, as they were then: nothing is looked up
   * by name. The descriptors are taken over.
   */
  static adopt(fds: readonly OwnedFd[], identities: readonly FileIdentity[]): MemoryFiles {
    assert(fds.length === identities.length && fds.length > 0, "a descriptor for each file");
    const files: MappedFile[] = [];
    try {
      for (const [index, fd] of fds.entries()) {
        files.push(mapFile(SnapshotFile.adopt(fd, identities[index]!)));
      }
      return new MemoryFiles(files);
    } catch (error) {
      for (const file of files) closeFile(file);
      for (const fd of fds) fd.close();
      throw error;
    }
  }

  /** Whether a part is one of these files'. */
  holds(part: number): boolean {
    return part >= this.layers.firstParts[0]! && part < this.#endPart;
  }

  /** The base first. */
  get identities(): FileIdentity[] {
    return this.#files.map(({ file }) => file.identity);
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
   * @returns what that took
   * @throws FaultlineError `unresolvable-page` if it cannot be read, or not in time
   */
  async load(part: number): Promise<PartCost> {
    const bill = new PartBill();
    const layer = this.layers.firstParts.findLastIndex((first) => first <= part);
    const { path, fd } = this.#files[layer]!.file;
    const block = part - this.layers.firstParts[layer]!;
    const position = block * BLOCK_BYTES;
    const reading = readBlock(fd, position);
    this.#loads.add(reading);
    const done = (): boolean => this.#loads.delete(reading);
    reading.then(done, done);
    try {
      await withDeadline(reading, READ_DEADLINE_MS, "The disk did not answer");
    } catch (cause) {
      throw new FaultlineError(
        "unresolvable-page",
        `${path} cannot be read at offset ${position}: check its disk`,
        { cause },
      );
    }
    markWarm(this.layers.residency[layer]!, block, Math.floor(monotonicUs() / 1e6));
    bill.diskUs = monotonicUs() - bill.fromUs;
    return bill.close();
  }

  /**
   * Refuses to go on with files that somebody has written to: their bytes are no longer those that
   * running VMs were given, nor those of the snapshot.
   * @throws FaultlineError `memory-changed`
   */
  assertUnchanged(): void {
    for (const { file } of this.#files) file.assertUnchanged();
  }

  /** Resolves when nothing is read any more: a descriptor closed before may be another's then. */
  async settle(): Promise<void> {
    const reads = Promise.allSettled(this.#loads);
    await withDeadline(reads, READ_DEADLINE_MS, "The disk did not answer").catch(() => undefined);
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

function openFile(path: string, role: string): MappedFile {
  return mapFile(SnapshotFile.open(path, role));
}

function mapFile(file: SnapshotFile): MappedFile {
  try {
    return { file, mapping: MappedRegion.readOnlyFile(file.fd, file.sizeBytes) };
  } catch (error) {
    file.close();
    throw error;
  }
}

/**
 * The base file's extents in whole pages. With blocks below 4 KiB data may end inside of a page;
 * the rest of that page is a hole, which reads as zero through the mapping just as it should.
 */
function roundOut(file: SnapshotFile): DataExtent[] {
  const result: DataExtent[] = [];
  for (const { start, end } of file.extents) {
    const from = alignDown(start, SMALL_PAGE_BYTES);
    const to = Math.min(alignUp(end, SMALL_PAGE_BYTES), file.sizeBytes);
    const last = result.at(-1);
    if (last !== undefined && from <= last.end) result[result.length - 1] = { ...last, end: to };
    else result.push({ start: from, end: to });
  }
  return result;
}

function closeFile({ file, mapping }: MappedFile): void {
  mapping.unmap();
  file.close();
}
