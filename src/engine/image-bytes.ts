/**
 * Where the bytes of one VM's image are in this process's memory, for its fault worker. Of files
 * all are there, behind mappings; chunks are there, or on their way.
 */
import { type OwnerRuns, runAt, runEnd } from "../base/owner-runs.ts";
import { ArenaReader } from "../source/arena-reader.ts";
import {
  isInChunks,
  type MappedChunks,
  type MappedImage,
  runOfOwner,
} from "../source/mapped-chunks.ts";
import type { MappedLayers } from "../source/memory-files.ts";
import type { PageBuffers } from "./page-buffers.ts";

/** Instead of an address: the bytes are not here; `missingChunk` tells which chunk to wait for. */
export const ABSENT = 0;
/** Instead of an address: the bytes cannot be read, now or later. */
export const UNREADABLE = -1;

export interface ImageBytes {
  readonly runs: OwnerRuns;
  /** After ABSENT: the number of a chunk that is missing. */
  readonly missingChunk: number;
  /** The address of the byte at `offset`, which is `owner`'s. Or ABSENT. */
  locate(owner: number, offset: number): number;
  /** The address of bytes of several owners, put together. Or ABSENT, UNREADABLE. */
  assemble(offset: number, lengthBytes: number): number;
  /** The chunk that an owner's bytes lie in; -1 for files. */
  chunkOf(owner: number): number;
  /** The addresses were used: what they point to may go. */
  release(): void;
}

/** `request` is called for every chunk that is found missing. */
export function imageBytesOf(
  image: MappedImage,
  buffers: PageBuffers,
  request: (chunk: number) => void,
): ImageBytes {
  if (isInChunks(image)) return new ChunkBytes(image, buffers, request);
  return new FileBytes(image, buffers);
}

class FileBytes implements ImageBytes {
  readonly runs: OwnerRuns;
  readonly missingChunk = -1;
  readonly #layers: MappedLayers;
  readonly #buffers: PageBuffers;

  constructor(layers: MappedLayers, buffers: PageBuffers) {
    this.runs = layers.runs;
    this.#layers = layers;
    this.#buffers = buffers;
  }

  locate(owner: number, offset: number): number {
    return this.#layers.addresses[owner]! + offset;
  }

  assemble(offset: number, lengthBytes: number): number {
    return this.#buffers.assemble(this.#layers, offset, lengthBytes) ?? UNREADABLE;
  }

  chunkOf(): number {
    return -1;
  }

  release(): void {}
}

class ChunkBytes implements ImageBytes {
  readonly runs: OwnerRuns;
  missingChunk = -1;
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

  chunkOf(owner: number): number {
    return this.#image.chunkNumbers[runOfOwner(owner)]!;
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
    this.missingChunk = chunk;
    this.#request(chunk);
    return ABSENT;
  }
}
