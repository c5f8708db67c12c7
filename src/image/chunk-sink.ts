/**
 * Where chunks go that are packed or copied. Into a folder they go in groups: files are written
 * (by the workers of a pack), one flush of the file system makes a whole group durable, and then
 * its files get their names. An interruption loses the last groups at most; the next run finds all
 * others.
 */
import { writeFile } from "node:fs/promises";
import { type ChunkId, chunkObjectName } from "../snapshot/chunk-id.ts";
import { DirectoryStore } from "../source/directory-store.ts";
import type { ObjectStore } from "../source/object-store.ts";
import type { StagedObject, Staging } from "../source/staging.ts";
import type { StageTarget, StoredChunk } from "./pack-worker.ts";

/** Small, so that little is left at the end; a flush costs some tens of milliseconds in between. */
const GROUP_BYTES = 16 * 1024 * 1024;
const GROUP_CHUNKS = 256;
/** For each lane of a pack into a store that is no folder. */
const WRITES_AT_ONCE = 8;

export interface ChunkSink {
  /** Where workers put chunks by themselves; null: they send them. */
  readonly target: StageTarget | null;
  /** What it means when a worker could not put a chunk there. */
  errorFor(error: unknown): unknown;
  /** Takes the stored bytes of a chunk. Settles when there is room for more. */
  put(id: ChunkId, bytes: Uint8Array): Promise<void>;
  /** Takes what workers have put there, or sent. Settles when there is room for more. */
  accept(chunks: readonly StoredChunk[]): Promise<void>;
  /** Settles when all chunks are in the store, and durable. */
  finish(): Promise<void>;
  /** Waits for what is under way, whatever comes of it. */
  [Symbol.asyncDispose](): Promise<void>;
}

export async function openSink(store: ObjectStore, signal: AbortSignal): Promise<ChunkSink> {
  if (!(store instanceof DirectoryStore)) return new WritingSink(store, signal);
  return new StagingSink(store, await store.staging(signal));
}

class StagingSink implements ChunkSink {
  readonly target: StageTarget;
  readonly #store: DirectoryStore;
  readonly #staging: Staging;
  #group: StagedObject[] = [];
  #groupBytes = 0;
  #committing: Promise<void> = Promise.resolve();

  constructor(store: DirectoryStore, staging: Staging) {
    this.#store = store;
    this.#staging = staging;
    this.target = { storePath: store.path, stagingPath: staging.folder };
  }

  errorFor(error: unknown): unknown {
    return this.#store.errorFor("A chunk", error);
  }

  async put(id: ChunkId, bytes: Uint8Array): Promise<void> {
    const staged = this.#staging.newPath();
    await this.#guarded(() => writeFile(staged, bytes, { flag: "wx" }));
    await this.accept([{ id, staged, storedBytes: bytes.length, bytes: null }]);
  }

  async accept(chunks: readonly StoredChunk[]): Promise<void> {
    for (const { id, staged, storedBytes } of chunks) {
      if (staged === null) continue;
      this.#group.push({ path: staged, name: chunkObjectName(id) });
      this.#groupBytes += storedBytes;
    }
    if (this.#groupBytes >= GROUP_BYTES || this.#group.length >= GROUP_CHUNKS) await this.#commit();
  }

  async finish(): Promise<void> {
    await this.#commit();
    await this.#committing;
    await this.#guarded(() => this.#staging.flush());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#committing.catch(() => undefined);
  }

  /** Begins to commit this group, and waits for the one before: at most two are under way. */
  async #commit(): Promise<void> {
    const group = this.#group;
    const before = this.#committing;
    this.#group = [];
    this.#groupBytes = 0;
    this.#committing = before.then(() => this.#guarded(() => this.#staging.commitMany(group)));
    // Whoever waits for it next gets the failure.
    this.#committing.catch(() => undefined);
    await before;
  }

  async #guarded(action: () => Promise<void>): Promise<void> {
    try {
      await action();
    } catch (error) {
      throw this.errorFor(error);
    }
  }
}

class WritingSink implements ChunkSink {
  readonly target = null;
  readonly #store: ObjectStore;
  readonly #signal: AbortSignal;

  constructor(store: ObjectStore, signal: AbortSignal) {
    this.#store = store;
    this.#signal = signal;
  }

  errorFor(error: unknown): unknown {
    return error;
  }

  async put(id: ChunkId, bytes: Uint8Array): Promise<void> {
    await this.#store.write(chunkObjectName(id), bytes, this.#signal);
  }

  async accept(chunks: readonly StoredChunk[]): Promise<void> {
    const write = async ({ id, bytes }: StoredChunk): Promise<void> => {
      if (bytes !== null) await this.put(id, bytes);
    };
    for (let from = 0; from < chunks.length; from += WRITES_AT_ONCE) {
      await Promise.all(chunks.slice(from, from + WRITES_AT_ONCE).map(write));
    }
  }

  async finish(): Promise<void> {}

  async [Symbol.asyncDispose](): Promise<void> {}
}
