/** Finds out what `--memory` means: files of this host, or an image of a store. */
import { existsSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import { MemoryFiles } from "../source/memory-files.ts";
import type { WorkingSetPlace } from "../source/working-set-place.ts";
import { assertFolder } from "./check-options.ts";
import { hostState } from "./host-state.ts";
import type { Logger } from "./log.ts";
import { type MemoryOptions, OFF, type ServedMemory } from "./served-memory.ts";

/** Names the store of images that are given without one. */
const STORE_VARIABLE = "FAULTLINE_STORE";

/** @throws FaultlineError what is wrong with the files, the image, or its store */
export async function openMemory(options: MemoryOptions, log: Logger): Promise<ServedMemory> {
  if (!namesImage(options)) return await servedFiles(options);
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

async function servedFiles(options: MemoryOptions): Promise<ServedMemory> {
  const files = MemoryFiles.open(options.memory, options.layers);
  const workingSet = await placeOf(options, files.sizeBytes);
  return {
    workingSet,
    spareBytes: hostState().spareBytes,
    sizeBytes: files.sizeBytes,
    dataBytes: files.dataBytes,
    mapped: files.layers,
    identity: { kind: "files", files: files.identities },
    supply: { demand: (part) => files.load(part), hurry: () => {}, release: () => {} },
    cacheStatistics: () => ({}),
    assertUnchanged: () => files.assertUnchanged(),
    close: async () => files.close(),
  };
}

/** A memory file has no place of its own for what its restores need. */
async function placeOf(
  { workingSet = OFF }: MemoryOptions,
  sizeBytes: number,
): Promise<WorkingSetPlace | null> {
  if (workingSet === OFF) return null;
  assertFolder(workingSet);
  const { fileWorkingSet } = await import("../source/working-set-place.ts");
  return fileWorkingSet(workingSet, sizeBytes);
}
