/** An image of a store, as one server serves it: its own cache, its own decoding threads. */
import { availableParallelism } from "node:os";
import { assert } from "../base/assert.ts";
import { formatBytes } from "../base/units.ts";
import { ChunkArena, MAX_CHUNK_BYTES } from "../source/chunk-arena.ts";
import { ChunkCache } from "../source/chunk-cache.ts";
import { ChunkedImage } from "../source/chunked-image.ts";
import { DecodePool } from "../source/decode-pool.ts";
import { DirectoryStore } from "../source/directory-store.ts";
import {
  defaultStore,
  parseImageReference,
  parseStoreReference,
} from "../source/image-reference.ts";
import type { ObjectStore } from "../source/object-store.ts";
import { openStore } from "../source/open-store.ts";
import { ReadAround } from "../source/read-around.ts";
import { TierStore } from "../source/tier-store.ts";
import {
  fileWorkingSet,
  imageWorkingSet,
  type WorkingSetPlace,
} from "../source/working-set-place.ts";
import { assertFolder } from "./check-options.ts";
import type { Logger } from "./log.ts";
import {
  DEFAULT_CACHE_BYTES,
  DEFAULT_CACHE_FOLDER_BYTES,
  type MemoryOptions,
  OFF,
  type ServedMemory,
} from "./served-memory.ts";

/** Two threads decode faster than most stores deliver; more would take CPUs from the guests. */
const MAX_DECODE_THREADS = 2;
/** For the index and its companion; each request has its own, shorter deadline. */
const OPEN_DEADLINE_MS = 60_000;

/** @throws FaultlineError what is wrong with the image or its store */
export async function servedImage(options: MemoryOptions, log: Logger): Promise<ServedMemory> {
  const reference = parseImageReference(options.memory);
  const store = await openTiers(reference.store ?? defaultStore(options.store), options);
  const cacheBytes = options.cacheBytes ?? DEFAULT_CACHE_BYTES;
  assert(cacheBytes >= MAX_CHUNK_BYTES, "a cache that holds no chunk");
  const arena = new ChunkArena(cacheBytes);
  const pool = new DecodePool(arena, Math.min(MAX_DECODE_THREADS, availableParallelism()));
  const close = async (): Promise<void> => {
    await store.close();
    await pool.close();
    arena.close();
  };
  try {
    const cache = new ChunkCache({
      arena,
      decode: (stored, chunk, address) => pool.decode(stored, chunk, address),
      onCorrupt: ({ id }, location, what) => {
        log.error({ chunk: id, store: location, reason: what }, "A chunk is damaged");
      },
    });
    const signal = AbortSignal.timeout(OPEN_DEADLINE_MS);
    const image = await ChunkedImage.open(store, reference.name, cache, signal);
    // The next chunk of a folder is as near as this one.
    const around = isFar(store) ? new ReadAround(image.mapped, cache) : null;
    return {
      workingSet: placeOf(options, image),
      // The rest is for what guests ask for.
      spareBytes: arena.sizeBytes / 2,
      sizeBytes: image.sizeBytes,
      dataBytes: image.dataBytes,
      mapped: image.mapped,
      identity: {
        kind: "image",
        store: store.location,
        name: reference.name,
        indexSha256: image.stored.indexSha256,
      },
      supply: {
        demand: (chunk, isUrgent) => {
          const isHere = cache.demand(chunk, isUrgent ? "demand" : "prefetch");
          // What is fetched ahead of demand is chosen already.
          if (isUrgent) around?.around(chunk);
          return isHere;
        },
        hurry: (chunk) => cache.hurry(chunk),
        release: (chunk) => arena.unpin(chunk),
      },
      cacheStatistics: () => describeCache(cache),
      assertUnchanged: () => {},
      close,
    };
  } catch (error) {
    await close();
    throw error;
  }
}

function describeCache({ statistics, arena }: ChunkCache): Record<string, string | number> {
  const { loads, prefetches, fetchedBytes, joined, corrupt, failed } = statistics;
  return {
    chunks: arena.chunkCount,
    loads,
    prefetches,
    joined,
    fetched: formatBytes(fetchedBytes),
    ...(corrupt > 0 ? { corrupt } : {}),
    ...(failed > 0 ? { failed } : {}),
  };
}

function placeOf({ workingSet }: MemoryOptions, image: ChunkedImage): WorkingSetPlace | null {
  if (workingSet === OFF) return null;
  if (workingSet !== undefined) {
    assertFolder(workingSet);
    return fileWorkingSet(workingSet, image.sizeBytes);
  }
  return imageWorkingSet(image.stored);
}

/** A folder of this host needs no copies on this host. */
async function openTiers(location: string, options: MemoryOptions): Promise<ObjectStore> {
  const far = await openStore(location);
  const { cacheFolder, cacheFolderBytes = DEFAULT_CACHE_FOLDER_BYTES } = options;
  if (cacheFolder === undefined || !isFar(far)) return far;
  try {
    const near = await DirectoryStore.open(cacheFolder, { create: true });
    return new TierStore(near, far, { maxBytes: cacheFolderBytes });
  } catch (error) {
    await far.close();
    throw error;
  }
}

/** Whether every request takes a while. */
function isFar(store: ObjectStore): boolean {
  return parseStoreReference(store.location).kind !== "directory";
}
