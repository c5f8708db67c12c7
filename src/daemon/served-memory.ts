/**
 * What one server serves: memory files, or an image of a store. Either way the engine gets a map of
 * the bytes, and somebody who brings those that are not in memory.
 */
import { existsSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import type { PartSupply } from "../engine/worker-handle.ts";
import type { MappedImage } from "../source/mapped-image.ts";
import { MemoryFiles } from "../source/memory-files.ts";
import type { Logger } from "./log.ts";

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
/** Names the store of images that are given without one. */
const STORE_VARIABLE = "FAULTLINE_STORE";

/** @throws FaultlineError what is wrong with the files, the image, or its store */
export async function openMemory(options: MemoryOptions, log: Logger): Promise<ServedMemory> {
  if (!namesImage(options)) return servedFiles(options);
  if ((options.layers ?? []).length > 0) {
    throw new FaultlineError(
      "bad-option",
      `--layer cannot be used with the image ${options.memory}: pack the diff as an image of its ` +
        "own (`faultline image pack --parent IMAGE --diff FILE`), and serve that.",
    );
  }
  // Loaded only when asked for: most that serve a file must be ready at once.
  const { servedImage } = await import("./served-image.ts");
  return await servedImage(options, log);
}

/**
 * A prefix such as `dir:` says it aloud. Without one it is an image if a store is named and nothing
 * of this name is a file: whoever means a file of an odd name writes `./NAME`.
 */
function namesImage({ memory, store }: MemoryOptions): boolean {
  if (/^[a-z][a-z0-9]+:/.test(memory)) return true;
  if (memory.includes("/") || existsSync(memory)) return false;
  return (store ?? process.env[STORE_VARIABLE] ?? "") !== "";
}

function servedFiles({ memory, layers }: MemoryOptions): ServedMemory {
  const files = MemoryFiles.open(memory, layers);
  return {
    sizeBytes: files.sizeBytes,
    dataBytes: files.dataBytes,
    mapped: files.layers,
    supply: { demand: (part) => files.load(part), release: () => {} },
    assertUnchanged: () => files.assertUnchanged(),
    close: async () => files.close(),
  };
}
