/** Before an index is written, all its chunks are made young, so that no gc removes them. */
import { FaultlineError } from "../base/errors.ts";
import { type ChunkId, chunkObjectName, chunkOfObjectName } from "../snapshot/chunk-id.ts";
import { isCollectable } from "../source/collectable-store.ts";
import type { ObjectStore } from "../source/object-store.ts";

/** The second one stores what somebody removed during the first. */
export const MAX_ATTEMPTS = 2;

/** Returns those that are not in the store, though they were found in it or are the parent's. */
export async function refreshChunks(
  store: ObjectStore,
  ids: ReadonlySet<ChunkId>,
  signal: AbortSignal,
): Promise<ReadonlySet<ChunkId>> {
  if (!isCollectable(store)) return new Set();
  const missing = await store.refresh([...ids].map(chunkObjectName), signal);
  return new Set(missing.map((name) => chunkOfObjectName(name)!));
}

/** After the last attempt. `cure` is what else may be wrong, and what to do. */
export function missingChunks(
  store: ObjectStore,
  missing: ReadonlySet<ChunkId>,
  cure: string,
): FaultlineError {
  const [first] = missing;
  return new FaultlineError(
    "store-failed",
    `${missing.size} chunks are not in ${store.location}, ${first} for one: ${cure}`,
  );
}
