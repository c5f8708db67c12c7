/**
 * An image of a store, ready to be served: its index as owner runs, its chunks known to the cache.
 * No chunk is read before somebody needs it.
 */
import { type OwnerRuns, ZERO_OWNER } from "../base/owner-runs.ts";
import { type ChunkId, chunkObjectName } from "../snapshot/chunk-id.ts";
import type { ImageIndex } from "../snapshot/image-index.ts";
import type { ChunkCache, ChunkOrigin } from "./chunk-cache.ts";
import { ZeroChunks } from "./chunk-codec.ts";
import { ID_WORDS, idWords } from "./chunk-table.ts";
import { type MappedChunks, ownerOfRun } from "./mapped-image.ts";
import type { ObjectStore, Urgency } from "./object-store.ts";
import type { ReadTrail } from "./part-cost.ts";
import type { StoredImage } from "./stored-image.ts";

export class ChunkedImage {
  readonly sizeBytes: number;
  /** Bytes of chunks that are not all zero. */
  readonly dataBytes: number;
  readonly mapped: MappedChunks;
  readonly stored: StoredImage;

  /** @throws FaultlineError `image-corrupt` if a chunk cannot be, or is another in other images */
  constructor(stored: StoredImage, cache: ChunkCache) {
    const { index } = stored;
    this.stored = stored;
    this.sizeBytes = index.sizeBytes;
    const numbers = registerChunks(index, cache, originOf(stored.store));
    this.mapped = { runs: numbers.runs, chunkNumbers: numbers.numbers, arena: cache.arena.shared };
    this.dataBytes = numbers.dataBytes;
  }
}

/** Of one store there is one origin, whatever the number of its images. */
const origins = new WeakMap<ObjectStore, ChunkOrigin>();

function originOf(store: ObjectStore): ChunkOrigin {
  let origin = origins.get(store);
  if (origin === undefined) {
    origin = {
      location: store.location,
      fetch: (id, isAgain, urgency, trail) => fetchChunk(store, id, isAgain, urgency, trail),
      hurry: (id) => store.hurry?.(chunkObjectName(id)),
    };
    origins.set(store, origin);
  }
  return origin;
}

/** Deadlines, retries and bounds are the store's (`request-policy.ts`). */
async function fetchChunk(
  store: ObjectStore,
  id: ChunkId,
  isAgain: boolean,
  urgency: Urgency,
  trail?: ReadTrail,
): Promise<Uint8Array | null> {
  const { signal } = new AbortController();
  const name = chunkObjectName(id);
  if (isAgain && store.refetch !== undefined) return await store.refetch(name, signal, urgency);
  return await store.read(name, signal, urgency, trail);
}

interface Registered {
  readonly runs: OwnerRuns;
  readonly numbers: Uint32Array;
  readonly dataBytes: number;
}

function registerChunks(index: ImageIndex, cache: ChunkCache, origin: ChunkOrigin): Registered {
  const count = index.chunkCount;
  const starts = new Float64Array(new SharedArrayBuffer(count * 8));
  const owners = new Int32Array(new SharedArrayBuffer(count * 4));
  const numbers = new Uint32Array(new SharedArrayBuffer(count * 4));
  const zeroes = new ZeroChunks(index);
  const { digest } = index;
  const ids = idWords(index.ids);
  let dataBytes = 0;
  for (let run = 0; run < count; run++) {
    starts[run] = index.start(run);
    owners[run] = ownerOfRun(run, zeroes.has(run));
    if (owners[run] === ZERO_OWNER) continue;
    const sizeBytes = index.size(run);
    numbers[run] = cache.registerWords(ids, run * ID_WORDS, digest, sizeBytes, origin);
    dataBytes += sizeBytes;
  }
  return { runs: { sizeBytes: index.sizeBytes, starts, owners }, numbers, dataBytes };
}
