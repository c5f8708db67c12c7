/**
 * Where images are kept: whole objects by name, in a directory, behind a web server, in S3. Chunks,
 * indexes and their companions are all objects; what a name means is decided above this.
 *
 * ```
 *   ROOT/NAME.caibx                              the index: published last
 *   ROOT/NAME.json                               page size, regions, parent, …
 *   ROOT/default.castr/ab12/ab12….cacnk          a chunk, zstd
 * ```
 *
 * The tree is casync's own, so `casync extract ROOT/NAME.caibx FILE` finds the chunks by itself.
 */

export interface StoredObject {
  /** Relative to the store's root, `/` between parts. */
  readonly name: string;
  readonly sizeBytes: number;
  /** Milliseconds since the epoch, by the store's clock. */
  readonly modifiedMs: number;
}

/**
 * Errors are `FaultlineError`s that name the store and the object: `store-failed` where trying
 * again may help, `store-refused` where it cannot (rights, credentials, a store that cannot be
 * written).
 * A call that is aborted rejects with the signal's reason.
 */
export interface ObjectStore {
  /** As users write it: `dir:/var/lib/images`, `https://…`, `s3://bucket/prefix`. */
  readonly location: string;
  /** The whole object, or null if there is none. */
  read(name: string, signal: AbortSignal): Promise<Uint8Array | null>;
  exists(name: string, signal: AbortSignal): Promise<boolean>;
  /** Atomic and durable: readers see the old object or the new one, whole; also after a crash. */
  write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void>;
  /**
   * Every object whose name begins with `prefix`, in no order. `"folder"`: a store that can leaves
   * out what lies in folders below; the caller must not rely on it.
   */
  list(prefix: string, signal: AbortSignal, depth?: "all" | "folder"): AsyncIterable<StoredObject>;
  /** Succeeds if there is none. */
  remove(name: string, signal: AbortSignal): Promise<void>;
  /** Lets go of connections. */
  close(): Promise<void>;
}
