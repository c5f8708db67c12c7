/**
 * A near store in front of a far one: chunks that were read once are read from the local disk.
 *
 * Only chunks are kept near (`near-chunks.ts`). They are named by their digest, so a copy never
 * goes stale. An index may be published anew under its name, and is always read from the far store,
 * as are listings.
 *
 * Damage never lasts. Nothing here knows a chunk's digest, so bytes that were damaged on their way
 * may be kept, and a disk may rot; but whoever reads a chunk verifies it each time, and calls
 * `refetch` when it is wrong: that drops the near copy first, reads from the far store, and keeps
 * what that gives, to be verified like all else.
 */
import { NearChunks, type TierCounters, type TierOptions } from "./near-chunks.ts";
import { isChunkName } from "./object-name.ts";
import type { ListDepth, ObjectStore, StoredObject, Urgency } from "./object-store.ts";
import type { ReadTrail } from "./part-cost.ts";
import { SharedReads } from "./shared-reads.ts";

export type { TierCounters, TierOptions } from "./near-chunks.ts";

export class TierStore implements ObjectStore {
  readonly location: string;
  readonly #near: NearChunks;
  /** Closed with this tier: nobody else has it. */
  readonly #ownNear: NearChunks | null;
  readonly #far: ObjectStore;
  readonly #reads = new SharedReads();

  /** `near` and `far` belong to the tier from now on: closing it closes them. */
  constructor(near: ObjectStore, far: ObjectStore, options: TierOptions);
  /** `near` is shared with other tiers, and outlives them. */
  constructor(near: NearChunks, far: ObjectStore);
  constructor(near: ObjectStore | NearChunks, far: ObjectStore, options?: TierOptions) {
    this.location = far.location;
    this.#far = far;
    this.#ownNear = near instanceof NearChunks ? null : new NearChunks(near, options!);
    this.#near = near instanceof NearChunks ? near : this.#ownNear!;
  }

  get counters(): TierCounters {
    return this.#near.counters;
  }

  async read(
    name: string,
    signal: AbortSignal,
    urgency: Urgency = "demand",
    trail?: ReadTrail,
  ): Promise<Uint8Array | null> {
    if (!isChunkName(name)) return await this.#far.read(name, signal, urgency);
    const start = async (shared: AbortSignal): Promise<Uint8Array | null> => {
      const near = await this.#near.read(name, shared);
      if (trail !== undefined) trail.isNear = near !== null;
      return near ?? (await this.#fetch(name, shared, urgency, false));
    };
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
    await this.#near.drop(name);
  }

  async exists(name: string, signal: AbortSignal): Promise<boolean> {
    return await this.#far.exists(name, signal);
  }

  /** To the far store; a chunk then also to the near one. */
  async write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    await this.#far.write(name, bytes, signal);
    // The caller may use its buffer again; a Buffer's own slice() would be no copy.
    if (isChunkName(name)) this.#near.keep(name, new Uint8Array(bytes));
  }

  list(prefix: string, signal: AbortSignal, depth?: ListDepth): AsyncIterable<StoredObject> {
    return this.#far.list(prefix, signal, depth);
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    if (isChunkName(name)) await this.#near.drop(name);
    await this.#far.remove(name, signal);
  }

  async close(): Promise<void> {
    await Promise.all([this.#ownNear?.close(), this.#far.close()]);
  }

  hurry(name: string): void {
    this.#far.hurry?.(name);
  }

  /** Resolves when nothing waits to be written any more. */
  async flush(): Promise<void> {
    await this.#near.flush();
  }

  /** What is kept near, by the order of eviction. */
  get nearBytes(): number {
    return this.#near.sizeBytes;
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
    if (isAgain) this.#near.unqueue(name);
    if (bytes !== null) this.#near.keep(name, bytes);
    return bytes;
  }

  async #farRead(name: string, signal: AbortSignal, urgency: Urgency): Promise<Uint8Array | null> {
    if (this.#far.refetch === undefined) return await this.#far.read(name, signal, urgency);
    return await this.#far.refetch(name, signal, urgency);
  }
}
