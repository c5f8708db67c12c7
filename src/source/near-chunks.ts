/**
 * Copies of chunks on this host, for any number of stores that are farther away: chunks are named
 * by their digest, so it does not matter which of them a copy came from.
 *
 * A copy is written after its readers have got their bytes; the near store's write is atomic, so
 * that after kill -9 a copy is whole or not there. A near store that fails is gone round, and
 * counted. One process at a time may use a near store: the order of eviction is in memory, at the
 * start it is that of the files' age.
 */
import { isChunkName } from "./object-name.ts";
import type { ObjectStore, StoredObject } from "./object-store.ts";
import { S3Fifo } from "./s3-fifo.ts";

export interface TierOptions {
  /** What the near store may hold; at least some thousand chunks to be of use. */
  readonly maxBytes: number;
  /** What may wait to be written; beyond it, copies are not kept. */
  readonly maxPendingBytes?: number;
}

/** Reads that come faster than the disk can write must not fill the memory. */
const MAX_PENDING_BYTES = 64 * 2 ** 20;
/** A name and its place in the order take some 300 bytes: 300 MB at most. */
const MAX_OBJECTS = 1_000_000;

export class TierCounters {
  /** Reads answered from the near store, or from what waits to be written to it. */
  hits = 0;
  misses = 0;
  evictions = 0;
  /** Near copies that were dropped because a reader found them damaged. */
  forgotten = 0;
  /** Copies not kept because too much waited to be written. */
  skipped = 0;
  /** Errors of the near store. */
  nearFailures = 0;
}

export class NearChunks {
  readonly counters = new TierCounters();
  readonly #store: ObjectStore;
  readonly #maxBytes: number;
  readonly #maxPendingBytes: number;
  readonly #order = new S3Fifo();
  /** What waits to be written, oldest first. */
  readonly #pending = new Map<string, Uint8Array>();
  #pendingBytes = 0;
  /** The write that runs, and what it writes. */
  #writing: { readonly name: string; readonly done: Promise<void> } | null = null;
  readonly #closed = new AbortController();
  readonly #loaded: Promise<void>;

  /** The store belongs to this from now on. */
  constructor(store: ObjectStore, options: TierOptions) {
    this.#store = store;
    this.#maxBytes = options.maxBytes;
    this.#maxPendingBytes = options.maxPendingBytes ?? MAX_PENDING_BYTES;
    this.#loaded = this.#load();
  }

  /** Null: there is no copy, or it cannot be read. */
  async read(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    const near = this.#pending.get(name) ?? (await this.#readStored(name, signal));
    if (near === null) {
      this.counters.misses++;
      return null;
    }
    this.counters.hits++;
    this.#order.touch(name);
    return near;
  }

  /** Writes a copy, some time later. */
  keep(name: string, bytes: Uint8Array): void {
    if (this.#closed.signal.aborted || this.#pending.has(name)) return;
    if (bytes.length > this.#maxBytes) return;
    if (this.#pendingBytes + bytes.length > this.#maxPendingBytes) {
      this.counters.skipped++;
      return;
    }
    this.#pending.set(name, bytes);
    this.#pendingBytes += bytes.length;
    if (this.#writing === null) this.#writeNext();
  }

  /** What waits to be written under this name is not written. */
  unqueue(name: string, bytes = this.#pending.get(name)): void {
    if (bytes === undefined || this.#pending.get(name) !== bytes) return;
    this.#pending.delete(name);
    this.#pendingBytes -= bytes.length;
  }

  /** When it resolves, no copy is there, nor will an earlier write bring one. */
  async drop(name: string): Promise<void> {
    this.unqueue(name);
    if (this.#writing?.name === name) await this.#writing.done;
    this.#order.delete(name);
    await this.#nearly(() => this.#store.remove(name, this.#closed.signal));
  }

  async close(): Promise<void> {
    this.#closed.abort(new Error("The tier was closed."));
    this.#pending.clear();
    await this.#loaded;
    await this.#writing?.done;
    await this.#store.close();
  }

  /** Resolves when nothing waits to be written any more. */
  async flush(): Promise<void> {
    await this.#loaded;
    while (this.#writing !== null) await this.#writing.done;
  }

  /** What is kept, by the order of eviction. */
  get sizeBytes(): number {
    return this.#order.sizeBytes;
  }

  async #readStored(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    const bytes = await this.#nearly(() => this.#store.read(name, signal));
    signal.throwIfAborted();
    // The order also learns of what was there before its list was read.
    if (bytes !== undefined && bytes !== null) this.#order.addOld(name, bytes.length);
    return bytes ?? null;
  }

  #writeNext(): void {
    const [next] = this.#pending;
    if (next === undefined || this.#closed.signal.aborted) {
      this.#writing = null;
      return;
    }
    const [name, bytes] = next;
    const done = this.#write(name, bytes).finally(() => this.#writeNext());
    this.#writing = { name, done };
  }

  async #write(name: string, bytes: Uint8Array): Promise<void> {
    await this.#loaded;
    await this.#makeRoom(bytes.length);
    if (this.#pending.get(name) !== bytes) return; // dropped meanwhile
    const isWritten = await this.#nearly(async () => {
      await this.#store.write(name, bytes, this.#closed.signal);
      return true;
    });
    if (isWritten === true) {
      if (this.#order.has(name)) this.#order.delete(name);
      this.#order.add(name, bytes.length);
    }
    this.unqueue(name, bytes);
  }

  async #makeRoom(neededBytes: number): Promise<void> {
    while (
      this.#order.count >= MAX_OBJECTS ||
      (this.#order.count > 0 && this.#order.sizeBytes + neededBytes > this.#maxBytes)
    ) {
      const name = this.#order.evict();
      if (name === null) return;
      this.counters.evictions++;
      await this.#nearly(() => this.#store.remove(name, this.#closed.signal));
    }
  }

  /** What is kept already, oldest first. */
  async #load(): Promise<void> {
    await this.#nearly(async () => {
      const objects: StoredObject[] = [];
      for await (const object of this.#store.list("", this.#closed.signal)) {
        if (isChunkName(object.name)) objects.push(object);
      }
      objects.sort((left, right) => left.modifiedMs - right.modifiedMs);
      for (const { name, sizeBytes } of objects) this.#order.addOld(name, sizeBytes);
    });
    await this.#makeRoom(0);
  }

  /** The near store only makes reads faster: its errors are counted, and not told. */
  async #nearly<T>(work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch {
      if (!this.#closed.signal.aborted) this.counters.nearFailures++;
      return undefined;
    }
  }
}
