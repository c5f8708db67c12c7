/**
 * What one server serves: memory files, or an image of a store. Either way the engine gets a map of
 * the bytes, and somebody who brings those that are not in memory.
 */
import type { PartSupply } from "../engine/worker-handle.ts";
import type { MappedImage } from "../source/mapped-image.ts";

export interface ServedMemory {
  readonly sizeBytes: number;
  /** How many of them are not known to be zero. */
  readonly dataBytes: number;
  readonly mapped: MappedImage;
  readonly supply: PartSupply;
  /**
   * Whether new VMs may still be given these bytes.
   * @throws FaultlineError `memory-changed`
   */
  assertUnchanged(): void;
  close(): Promise<void>;
}

export interface MemoryOptions {
  /** A memory file, or an image: `NAME`, `dir:PATH/NAME`. */
  readonly memory: string;
  readonly layers?: readonly string[];
  /** Where an image without a place is looked for. */
  readonly store?: string;
  /** Decoded chunks kept in memory. */
  readonly cacheBytes?: number;
}

export const DEFAULT_CACHE_BYTES = 256 * 2 ** 20;
