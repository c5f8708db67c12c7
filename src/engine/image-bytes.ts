/**
 * Where the bytes of one VM's image are in this process's memory, for its fault worker. What is
 * not there is asked for: a chunk that is in no place of the arena, a block of a file that is not
 * in the page cache.
 */
import { type OwnerRuns, runAt, runEnd } from "../base/owner-runs.ts";
import { ArenaReader } from "../source/arena-reader.ts";
import {
  isInChunks,
  type MappedChunks,
  type MappedImage,
  runOfOwner,
} from "../source/mapped-image.ts";
import type { MappedLayers } from "../source/memory-files.ts";
import { BLOCK_BYTES, firstColdBlock } from "../source/warm-blocks.ts";
import type { PageBuffers } from "./page-buffers.ts";

/** Instead of an address: the bytes are not here; `missingPart` tells what to wait for. */
export const ABSENT = 0;
/** Instead of an address: the bytes cannot be read, now or later. */
export const UNREADABLE = -1;

export interface ImageBytes {
  readonly runs: OwnerRuns;
  /** After ABSENT: a part that is missing. */
  readonly missingPart: number;
  /** After ABSENT: where in the image that part ends. */
  readonly missingEnd: number;
  /** Of the monotonic clock; the caller keeps it. What is known of the page cache grows old. */
  nowSeconds: number;
  /** The address of bytes of one owner. Or ABSENT. */
  locate(owner: number, offset: number, lengthBytes: number): number;
  /** How many of these bytes, from the first on, can be located now. Asks for nothing. */
  atHand(owner: number, offset: number, lengthBytes: number): number;
  /** The address of bytes of several owners, put together. Or ABSENT, UNREADABLE. */
  assemble(offset: number, lengthBytes: number): number;
  /** Whether any of these bytes lie in a part. */
  touches(part: number, offset: number, lengthBytes: number): boolean;
  /** The addresses were used: what they point to may go. */
  release(): void;
}

/** `request` is called for every part that is found missing. */
export function imageBytesOf(
  image: MappedImage,
  buffers: PageBuffers,
  request: (part: number) => void,
): ImageBytes {
  if (isInChunks(image)) return new ChunkBytes(image, buffers, request);
  return new FileBytes(image, buffers, request);
}

class FileBytes implements ImageBytes {
  readonly runs: OwnerRuns;
  missingPart = -1;
  missingEnd = 0;
  nowSeconds = 0;
  readonly #layers: MappedLayers;
  readonly #buffers: PageBuffers;
  readonly #request: (part: number) => void;

  constructor(layers: MappedLayers, buffers: PageBuffers, request: (part: number) => void) {
    this.runs = layers.runs;
    this.#layers = layers;
    this.#buffers = buffers;
    this.#request = request;
  }

  locate(owner: number, offset: number, lengthBytes: number): number {
    if (!this.#isWarm(owner, offset, lengthBytes)) return ABSENT;
    return this.#layers.addresses[owner]! + offset;
  }

  atHand(owner: number, offset: number, lengthBytes: number): number {
    const { fds, residency } = this.#layers;
    const notes = residency[owner]!;
    const block = firstColdBlock(fds[owner]!, notes, offset, lengthBytes, this.nowSeconds);
    return block < 0 ? lengthBytes : Math.max(0, block * BLOCK_BYTES - offset);
  }

  assemble(offset: number, lengthBytes: number): number {
    const limit = offset + lengthBytes;
    let isComplete = true;
    for (let run = runAt(this.runs, offset), from = offset; from < limit; run++) {
      const to = Math.min(runEnd(this.runs, run), limit);
      const owner = this.runs.owners[run]!;
      if (owner >= 0 && !this.#isWarm(owner, from, to - from)) isComplete = false;
      from = to;
    }
    if (!isComplete) return ABSENT;
    return this.#buffers.assemble(this.#layers, offset, lengthBytes) ?? UNREADABLE;
  }

  touches(part: number, offset: number, lengthBytes: number): boolean {
    return this.#layers.firstParts.some((first) => {
      const start = (part - first) * BLOCK_BYTES;
      return start < offset + lengthBytes && start + BLOCK_BYTES > offset;
    });
  }

  /** Asks for one block at a time: the kernel reads ahead by itself where that helps. */
  #isWarm(owner: number, offset: number, lengthBytes: number): boolean {
    const { fds, residency, firstParts } = this.#layers;
    const notes = residency[owner]!;
    const block = firstColdBlock(fds[owner]!, notes, offset, lengthBytes, this.nowSeconds);
    if (block < 0) return true;
    this.missingPart = firstParts[owner]! + block;
    this.missingEnd = (block + 1) * BLOCK_BYTES;
    this.#request(this.missingPart);
    return false;
  }

  release(): void {}
}

class ChunkBytes implements ImageBytes {
  readonly runs: OwnerRuns;
  missingPart = -1;
  missingEnd = 0;
  nowSeconds = 0;
  readonly #image: MappedChunks;
  readonly #buffers: PageBuffers;
  readonly #reader: ArenaReader;
  readonly #request: (chunk: number) => void;

  constructor(image: MappedChunks, buffers: PageBuffers, request: (chunk: number) => void) {
    this.runs = image.runs;
    this.#image = image;
    this.#buffers = buffers;
    this.#reader = new ArenaReader(image.arena);
    this.#request = request;
  }

  locate(owner: number, offset: number): number {
    const address = this.#acquire(runOfOwner(owner));
    if (address === ABSENT) return ABSENT;
    return address + (offset - this.runs.starts[runOfOwner(owner)]!);
  }

  /** One owner, one chunk: all of it is there, or none. */
  atHand(_owner: number, _offset: number, lengthBytes: number): number {
    return lengthBytes;
  }

  assemble(offset: number, lengthBytes: number): number {
    const limit = offset + lengthBytes;
    const first = runAt(this.runs, offset);
    let isComplete = true;
    // All that are missing are asked for at once, and before anything is copied.
    for (let run = first; run < this.runs.starts.length && this.runs.starts[run]! < limit; run++) {
      if (this.runs.owners[run]! >= 0 && this.#acquire(run) === ABSENT) isComplete = false;
    }
    this.release();
    return isComplete ? this.#copyTogether(first, offset, limit) : ABSENT;
  }

  touches(part: number, offset: number, lengthBytes: number): boolean {
    const limit = offset + lengthBytes;
    const { starts, owners } = this.runs;
    for (let run = runAt(this.runs, offset); run < starts.length && starts[run]! < limit; run++) {
      if (owners[run]! >= 0 && this.#image.chunkNumbers[run] === part) return true;
    }
    return false;
  }

  release(): void {
    this.#reader.releaseAll();
  }

  #copyTogether(first: number, offset: number, limit: number): number {
    for (let run = first, from = offset; from < limit; run++) {
      const to = Math.min(runEnd(this.runs, run), limit);
      if (this.runs.owners[run]! < 0) {
        this.#buffers.putZeroes(from - offset, to - from);
      } else {
        const address = this.#acquire(run);
        if (address === ABSENT) return ABSENT; // Evicted in between.
        const source = address + (from - this.runs.starts[run]!);
        this.#buffers.put(from - offset, source, to - from);
        this.release();
      }
      from = to;
    }
    return this.#buffers.assemblyAddress;
  }

  #acquire(run: number): number {
    const chunk = this.#image.chunkNumbers[run]!;
    const address = this.#reader.acquire(chunk);
    if (address !== ABSENT) return address;
    this.missingPart = chunk;
    this.missingEnd = runEnd(this.runs, run);
    this.#request(chunk);
    return ABSENT;
  }
}
