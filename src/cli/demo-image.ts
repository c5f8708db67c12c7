/** The demo's snapshot as an image: packed, and then the memory file is gone. */
import { rmSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join } from "node:path";
import { formatBytes } from "../base/units.ts";
import { DEFAULT_CHUNK_BYTES, DEFAULT_LEVEL, type PackReport, packImage } from "../image/pack.ts";
import { DirectoryStore } from "../source/directory-store.ts";

const NAME = "demo";
const never = new AbortController().signal;

export interface PackedMemory {
  /** For `--memory`. */
  readonly image: string;
  readonly report: PackReport;
  readonly milliseconds: number;
}

/** Packs a memory file into a store in `folder`, and removes it. */
export async function packMemory(folder: string, memoryFile: string): Promise<PackedMemory> {
  const store = DirectoryStore.open(join(folder, "store"), { create: true });
  const startMs = performance.now();
  const report = await packImage({
    store,
    name: NAME,
    path: memoryFile,
    isDiff: false,
    parent: null,
    chunkSizeBytes: DEFAULT_CHUNK_BYTES,
    digest: "sha256",
    level: DEFAULT_LEVEL,
    jobs: availableParallelism(),
    onProgress: () => {},
    signal: never,
  });
  const milliseconds = performance.now() - startMs;
  await store.close();
  rmSync(memoryFile);
  return { image: `${store.location}/${NAME}`, report, milliseconds };
}

export function describePack({ report, milliseconds }: PackedMemory): string {
  const { chunks, zeroChunks, sharedChunks, newChunks, readBytes, storedBytes } = report;
  return (
    `   Packed as an image in ${Math.round(milliseconds)} ms, and its memory file removed: ` +
    `${formatBytes(readBytes)} of\n   data in ${chunks} chunks (${zeroChunks} zero, ` +
    `${sharedChunks} shared, ${newChunks} new), which take ${formatBytes(storedBytes)}.`
  );
}
