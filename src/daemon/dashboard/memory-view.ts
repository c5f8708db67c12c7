/** A memory that is served, as maps and image rows need it. */
import { isInChunks, runOfOwner } from "../../source/mapped-image.ts";
import type { CacheNumbers } from "../memory-host.ts";
import type { ServedMemory } from "../served-memory.ts";
import type { CacheRow, ImageRow } from "./protocol.ts";
import { type ChunkSharing, notCounted } from "./sharing.ts";
import type { LayerNames } from "./source.ts";

/** An index in a byte, of which one value means none. */
const MAX_LAYERS = 254;
const OWN = 0;
const SHARED = 1;

/** Of files: themselves. Of an image: whether a chunk is in another open image as well. */
export function layerNamesOf(
  { mapped, identity }: ServedMemory,
  sharing: ChunkSharing,
): LayerNames {
  if (isInChunks(mapped)) {
    const { chunkNumbers } = mapped;
    return {
      names: ["own", "shared"],
      indexOf: (owner) => (sharing.isShared(chunkNumbers[runOfOwner(owner)]!) ? SHARED : OWN),
    };
  }
  const names = identity.kind === "files" ? identity.files.map(({ path }) => path) : ["memory"];
  return {
    names: names.slice(0, MAX_LAYERS),
    indexOf: (owner) => Math.min(owner, MAX_LAYERS - 1),
  };
}

/** `sessions`: that use it now. */
export function imageRowOf(
  memory: string,
  { mapped, sizeBytes, dataBytes }: ServedMemory,
  sessions: number,
  sharing: ChunkSharing,
): ImageRow {
  const shared = isInChunks(mapped) ? sharing.of(mapped) : notCounted;
  const kind = isInChunks(mapped) ? "image" : "files";
  return { memory, kind, sizeBytes, dataBytes, sessions, ...shared };
}

export function cacheRowOf(numbers: CacheNumbers): CacheRow {
  const { sizeBytes, usedBytes, chunks, loads, failed, evictions, again, prefetches } = numbers;
  return { sizeBytes, usedBytes, chunks, loads, failed, evictions, again, prefetches };
}
