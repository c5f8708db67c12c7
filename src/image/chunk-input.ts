/** A stored chunk on its way into a worker thread: as a path where there is one, else as bytes. */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { compressBound } from "../linux/zstd.ts";
import { type ChunkId, chunkObjectName } from "../snapshot/chunk-id.ts";
import { DirectoryStore } from "../source/directory-store.ts";
import type { ObjectStore } from "../source/object-store.ts";

/** Null: the store does not have it. */
export type ChunkInput = { readonly path: string } | { readonly bytes: Uint8Array } | null;

/** For the main thread. The worker reads files by itself: that costs the main thread nothing. */
export async function chunkInput(
  store: ObjectStore,
  id: ChunkId,
  signal: AbortSignal,
): Promise<ChunkInput> {
  const name = chunkObjectName(id);
  if (store instanceof DirectoryStore) return { path: store.pathOf(name) };
  const bytes = await store.read(name, signal);
  return bytes === null ? null : { bytes };
}

/** A chunk that was damaged, past every nearer copy; null if there is none, or no such copies. */
export async function refetchedInput(
  store: ObjectStore,
  id: ChunkId,
  signal: AbortSignal,
): Promise<ChunkInput> {
  const bytes = await store.refetch?.(chunkObjectName(id), signal);
  return bytes === undefined || bytes === null ? null : { bytes };
}

export type StoredChunk = { readonly bytes: Uint8Array } | { readonly failure: string };

/** For the worker: the stored bytes of a chunk of `sizeBytes`, valid until the next call. */
export class ChunkInputReader {
  #buffer = new Uint8Array(0);

  read(input: ChunkInput, sizeBytes: number): StoredChunk {
    if (input === null) return { failure: "is missing" };
    // Other tools' frames, of other versions, may be a little larger than ours ever are.
    const bound = compressBound(sizeBytes) + 4096;
    if ("bytes" in input) return input.bytes.length > bound ? tooLarge(input.bytes.length) : input;
    try {
      return this.#readFile(input.path, bound);
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException;
      if (code === "ENOENT" || code === "ENOTDIR") return { failure: "is missing" };
      return { failure: `cannot be read (${code})` };
    }
  }

  #readFile(path: string, bound: number): StoredChunk {
    const fd = openSync(path, "r");
    try {
      const { size } = fstatSync(fd);
      if (size > bound) return tooLarge(size);
      if (this.#buffer.length < size) this.#buffer = new Uint8Array(Math.max(size, bound));
      const count = readSync(fd, this.#buffer, 0, size, 0);
      return { bytes: this.#buffer.subarray(0, count) };
    } finally {
      closeSync(fd);
    }
  }
}

function tooLarge(sizeBytes: number): StoredChunk {
  return { failure: `is far too large for a chunk (${sizeBytes} bytes)` };
}
