/**
 * What VMs are served from: memory files, or an image of a store. Either way the engine gets a map
 * of the bytes, and somebody who brings those that are not in memory.
 */
import type { PartSupply } from "../engine/worker-handle.ts";
import type { ServedIdentity } from "../snapshot/session-file.ts";
import type { MappedImage } from "../source/mapped-image.ts";
import type { WorkingSetPlace } from "../source/working-set-place.ts";

/** One use of a memory, of which there may be others. */
export interface ServedMemory {
  readonly sizeBytes: number;
  /** How many of them are not known to be zero. */
  readonly dataBytes: number;
  /** The same object for all uses of the same memory. */
  readonly mapped: MappedImage;
  /** What these bytes are, for session files. */
  readonly identity: ServedIdentity;
  /** Of an image: the id of the chunk at a place of its index. */
  readonly chunkId?: (ordinal: number) => string;
  /** Of the whole process. */
  readonly supply: PartSupply;
  /** What may be fetched before anybody asks. */
  readonly spareBytes: number;
  /** Where what restores need is kept; null: nowhere. */
  readonly workingSet: WorkingSetPlace | null;
  /**
   * Whether new VMs may still be given these bytes.
   * @throws FaultlineError `memory-changed`
   */
  assertUnchanged(): void;
  /** Gives this use back. The last one lets go of the memory: no VM may need it any more. */
  close(): Promise<void>;
}

export interface MemoryOptions {
  /** The snapshot's full memory file, or an image: `NAME`, `dir:PATH/NAME`, `https://…/NAME`. */
  readonly memory: string;
  /** Firecracker diff files above it, lowest first. */
  readonly layers?: readonly string[];
  /**
   * A file for what restores need, or "off". Default: with an image, beside it in its store; with
   * memory files, none.
   */
  readonly workingSet?: string;
}

/** What all images of a process share. */
export interface ImageOptions {
  /** Where an image without a place is looked for; default: the environment's FAULTLINE_STORE. */
  readonly store?: string;
  /** Memory for decoded chunks, at least 4 MiB; default: 256 MiB. */
  readonly cacheBytes?: number;
  /** A folder for chunks of stores that are not on this host. Default: none are kept. */
  readonly cacheFolder?: string;
  /** What that folder may hold; default: 10 GiB. */
  readonly cacheFolderBytes?: number;
}

export const DEFAULT_CACHE_BYTES = 256 * 2 ** 20;
export const DEFAULT_CACHE_FOLDER_BYTES = 10 * 2 ** 30;
/** Instead of a file for the working set: none is used, and nothing recorded. */
export const OFF = "off";
