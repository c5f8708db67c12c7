/**
 * Where images are kept: whole objects by name, in a directory, behind a web server, in S3. Chunks,
 * indexes and their companions are all objects; what a name means is decided above this.
 *
 * ```
 *   ROOT/NAME.caibx                              the index: published last
 *   ROOT/NAME.json                               page size, regions, parent, …
 *   ROOT/NAME.workingset                         what restores need: the one that changes
 *   ROOT/default.castr/ab12/ab12….cacnk          a chunk, zstd
 * ```
 *
 * The tree is casync's own, so `casync extract ROOT/NAME.caibx FILE` finds the chunks by itself.
 */
import type { ReadTrail } from "./part-cost.ts";

export interface StoredObject {
  /** Relative to the store's root, `/` between parts. */
  readonly name: string;
  readonly sizeBytes: number;
  /** Milliseconds since the epoch, by the store's clock. */
  readonly modifiedMs: number;
}

export type ListDepth = "all" | "folder";

/** Who waits for an object: a guest that stands still, or nobody yet. */
export type Urgency = "demand" | "prefetch";

/**
 * Errors are `FaultlineError`s that name the store and the object: `store-failed` where trying
 * again may help, `store-refused` where it cannot (rights, credentials, a store that cannot be
 * written).
 * A call that is aborted rejects with the signal's reason.
 *
 * Bytes that `read` gives may be shared with other callers: they are not to be written to.
 */
export interface ObjectStore {
  /** As users write it: `dir:/var/lib/images`, `https://…`, `s3://bucket/prefix`. */
  readonly location: string;
  /**
   * The whole object, or null if there is none. Stores that queue serve `demand` first; those that
   * keep copies nearer note in `trail` if it was one.
   */
  read(
    name: string,
    signal: AbortSignal,
    urgency?: Urgency,
    trail?: ReadTrail,
  ): Promise<Uint8Array | null>;
  exists(name: string, signal: AbortSignal): Promise<boolean>;
  /** Atomic and durable: readers see the old object or the new one, whole; also after a crash. */
  write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  /**
   * Every object whose name begins with `prefix`, in no order. `"folder"`: a store that can leaves
   * out what lies in folders below; the caller must not rely on it.
   */
  list(prefix: string, signal: AbortSignal, depth?: ListDepth): AsyncIterable<StoredObject>;
  /** Succeeds if there is none. */
  remove(name: string, signal: AbortSignal): Promise<void>;
  /** Lets go of connections. What is under way fails. */
  close(): Promise<void>;

  /** A guest now waits for an object that somebody reads as prefetch: it need not queue as such. */
  hurry?(name: string): void;
  /**
   * Like `read`, but past every copy that is kept nearer, which is dropped: for a caller who found
   * that the object it got is damaged.
   */
  refetch?(name: string, signal: AbortSignal, urgency?: Urgency): Promise<Uint8Array | null>;
}

export interface ListPage {
  readonly objects: readonly StoredObject[];
  /** What gives the next page, or null if this was the last one. */
  readonly cursor: string | null;
}

/** A store that lists by pages: each is one request, which can be repeated by itself. */
export interface PagedObjectStore extends ObjectStore {
  listPage(
    prefix: string,
    cursor: string | null,
    signal: AbortSignal,
    depth?: ListDepth,
  ): Promise<ListPage>;
}
