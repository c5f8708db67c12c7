/**
 * A near store in front of a far one: chunks that were read once are read from the local disk.
 *
 * Only chunks are kept near. They are named by their digest, so a copy never goes stale; an index
 * may be published anew under its name, and is always read from the far store, as are listings.
 *
 * Damage never lasts. Nothing here knows a chunk's digest, so bytes that were damaged on their way
 * may be kept, and a disk may rot; but whoever reads a chunk verifies it each time, and calls
 * `refetch` when it is wrong: that drops the near copy first, reads from the far store, and keeps
 * what that gives, to be verified like all else. A near store that fails is gone round, and
 * counted.
 *
 * A copy is written after its readers have got their bytes; the near store's write is atomic, so
 * that after kill -9 a copy is whole or not there. One process at a time may use a near store: the
 * order of eviction is in memory, at the start it is that of the files' age.
 */
import { isChunkName } from "./object-name.ts";
import type { ListDepth, ObjectStore, StoredObject, Urgency } from "./object-store.ts";
import { S3Fifo } from "./s3-fifo.ts";
import { SharedReads } from "./shared-reads.ts";

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

export class TierStore implements ObjectStore {
  readonly location: string;
  readonly counters = new TierCounters();
  readonly #near: ObjectStore;
  readonly #far: ObjectStore;
  readonly #maxBytes: number;
  readonly #maxPendingBytes: number;
  readonly #order = new S3Fifo();
  readonly #reads = new SharedReads();
  /** What waits to be written near, oldest first. */
  readonly #pending = new Map<string, Uint8Array>();
  #pendingBytes = 0;
  /** The write that runs, and what it writes. */
  #writing: { readonly name: string; readonly done: Promise<void> } | null = null;
  readonly #closed = new AbortController();
  readonly #loaded: Promise<void>;

  /** `near` and `far` belong to the tier from now on: closing it closes them. */
  constructor(near: ObjectStore, far: ObjectStore, options: TierOptions) {
    this.location = far.location;
    this.#near = near;
    this.#far = far;
    this.#maxBytes = options.maxBytes;
    this.#maxPendingBytes = options.maxPendingBytes ?? MAX_PENDING_BYTES;
    this.#loaded = this.#load();
  }

  async read(
    name: string,
    signal: AbortSignal,
    urgency: Urgency = "demand",
  ): Promise<Uint8Array | null> {
    if (!isChunkName(name)) return await this.#far.read(name, signal, urgency);
    const start = (shared: AbortSignal): Promise<Uint8Array | null> =>
      this.#readThrough(name, shared, urgency);
    return await this.#reads.read(name, signal, urgency, start, () => this.hurry(name));
  }

  async refetch(
    name: string,
    signal: AbortSignal,
    urgency: Urgency = "demand",
  ): Promise<Uint8Array | null> {
    if (!isChunkName(name)) return await this.#farRead(name, signal, urgency);
    signal.throwIfAborted();
    // Whoever reads from now on must not be given what is under way: it may be the damaged copy.
    this.#reads.leaveBehind(name);
    const start = async (shared: AbortSignal): Promise<Uint8Array | null> => {
      await this.forget(name);
      return await this.#fetch(name, shared, urgency, true);
    };
    return await this.#reads.read(name, signal, urgency, start, () => this.hurry(name));
  }

  /** Drops the near copy of an object. */
  async forget(name: string): Promise<void> {
    this.counters.forgotten++;
    await this.#drop(name);
  }

  async exists(name: string, signal: AbortSignal): Promise<boolean> {
    return await this.#far.exists(name, signal);
  }

  /** To the far store; a chunk then also to the near one. */
  async write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.#far.write(name, bytes, signal);
    // The caller may use its buffer again; a Buffer's own slice() would be no copy.
    if (isChunkName(name)) this.#keep(name, new Uint8Array(bytes));
  }

  list(prefix: string, signal: AbortSignal, depth?: ListDepth): AsyncIterable<StoredObject> {
    return this.#far.list(prefix, signal, depth);
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    if (isChunkName(name)) await this.#drop(name);
    await this.#far.remove(name, signal);
  }

  async close(): Promise<void> {
    this.#closed.abort(new Error("The tier was closed."));
    this.#pending.clear();
    await this.#loaded;
    await this.#writing?.done;
    await Promise.all([this.#near.close(), this.#far.close()]);
  }

  hurry(name: string): void {
    this.#far.hurry?.(name);
  }

  /** Resolves when nothing waits to be written any more. */
  async flush(): Promise<void> {
    await this.#loaded;
    while (this.#writing !== null) await this.#writing.done;
  }

  /** What is kept near, by the order of eviction. */
  get nearBytes(): number {
    return this.#order.sizeBytes;
  }

  async #readThrough(
    name: string,
    signal: AbortSignal,
    urgency: Urgency,
  ): Promise<Uint8Array | null> {
    const near = this.#pending.get(name) ?? (await this.#readNear(name, signal));
    if (near !== null) {
      this.counters.hits++;
      this.#order.touch(name);
      return near;
    }
    this.counters.misses++;
    return await this.#fetch(name, signal, urgency, false);
  }

  async #readNear(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    const bytes = await this.#nearly(() => this.#near.read(name, signal));
    signal.throwIfAborted();
    // The order also learns of what was there before its list was read.
    if (bytes !== undefined && bytes !== null) this.#order.addOld(name, bytes.length);
    return bytes ?? null;
  }

  async #fetch(
    name: string,
    signal: AbortSignal,
    urgency: Urgency,
    isAgain: boolean,
  ): Promise<Uint8Array | null> {
    const bytes = isAgain
      ? await this.#farRead(name, signal, urgency)
      : await this.#far.read(name, signal, urgency);
    // What was read anew takes the place of what still waits to be written.
    if (isAgain) this.#unqueue(name);
    if (bytes !== null) this.#keep(name, bytes);
    return bytes;
  }

  async #farRead(name: string, signal: AbortSignal, urgency: Urgency): Promise<Uint8Array | null> {
    if (this.#far.refetch === undefined) return await this.#far.read(name, signal, urgency);
    return await this.#far.refetch(name, signal, urgency);
  }

  /** Writes a copy near, some time later. */
  #keep(name: string, bytes: Uint8Array): void {
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

  #writeNext(): void {
    const [next] = this.#pending;
    if (next === undefined || this.#closed.signal.aborted) {
      this.#writing = null;
      return;
    }
    const [name, bytes] = next;
    const done = this.#writeNear(name, bytes).finally(() => this.#writeNext());
    this.#writing = { name, done };
  }

  async #writeNear(name: string, bytes: Uint8Array): Promise<void> {
    await this.#loaded;
    await this.#makeRoom(bytes.length);
    if (this.#pending.get(name) !== bytes) return; // dropped meanwhile
    const isWritten = await this.#nearly(async () => {
      await this.#near.write(name, bytes, this.#closed.signal);
      return true;
    });
    if (isWritten === true) {
      if (this.#order.has(name)) this.#order.delete(name);
      this.#order.add(name, bytes.length);
    }
    this.#unqueue(name, bytes);
  }

  #unqueue(name: string, bytes = this.#pending.get(name)): void {
    if (bytes === undefined || this.#pending.get(name) !== bytes) return;
    this.#pending.delete(name);
    this.#pendingBytes -= bytes.length;
  }

  async #makeRoom(neededBytes: number): Promise<void> {
    while (
      this.#order.count >= MAX_OBJECTS ||
      (this.#order.count > 0 && this.#order.sizeBytes + neededBytes > this.#maxBytes)
    ) {
      const name = this.#order.evict();
      if (name === null) return;
      this.counters.evictions++;
      await this.#nearly(() => this.#near.remove(name, this.#closed.signal));
    }
  }

  /** When it resolves, no near copy is there, nor will an earlier write bring one. */
  async #drop(name: string): Promise<void> {
    this.#unqueue(name);
    if (this.#writing?.name === name) await this.#writing.done;
    this.#order.delete(name);
    await this.#nearly(() => this.#near.remove(name, this.#closed.signal));
  }

  /** What is kept near already, oldest first. */
  async #load(): Promise<void> {
    await this.#nearly(async () => {
      const objects: StoredObject[] = [];
      for await (const object of this.#near.list("", this.#closed.signal)) {
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
