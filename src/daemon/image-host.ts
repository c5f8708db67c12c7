/**
 * The images of one process: each store opened once, one cache of chunks, threads that decode for
 * all of them. Chunks that several images have lie in memory once.
 */
import { availableParallelism } from "node:os";
import { resolve } from "node:path";
import { assert } from "../base/assert.ts";
import { describeError, FaultlineError } from "../base/errors.ts";
import { formatBytes } from "../base/units.ts";
import type { PartSupply } from "../engine/worker-handle.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { ArenaDirectory } from "../source/arena-directory.ts";
import { arenaShape, ChunkArena, MAX_CHUNK_BYTES } from "../source/chunk-arena.ts";
import { ChunkCache } from "../source/chunk-cache.ts";
import { ChunkedImage } from "../source/chunked-image.ts";
import { DecodePool } from "../source/decode-pool.ts";
import { DirectoryStore } from "../source/directory-store.ts";
import {
  defaultStore,
  parseImageReference,
  parseStoreReference,
} from "../source/image-reference.ts";
import { NearChunks } from "../source/near-chunks.ts";
import type { ObjectStore } from "../source/object-store.ts";
import { type OpenStoreOptions, openStore } from "../source/open-store.ts";
import type { PartCost } from "../source/part-cost.ts";
import { ReadAround } from "../source/read-around.ts";
import { PolicyStore } from "../source/store-policy.ts";
import type { StoreStats } from "../source/store-stats.ts";
import { decodeImageFiles, type ImageFiles, readImageFiles } from "../source/stored-image.ts";
import { TierStore } from "../source/tier-store.ts";
import {
  fileWorkingSet,
  imageWorkingSet,
  type WorkingSetPlace,
} from "../source/working-set-place.ts";
import { assertFolder } from "./check-options.ts";
import { type KeptImage, keepImage } from "./kept-memory.ts";
import type { CacheNumbers, MemoryHostOptions, NearNumbers } from "./memory-host.ts";
import type { MemorySource } from "./memory-source.ts";
import { DEFAULT_CACHE_BYTES, DEFAULT_CACHE_FOLDER_BYTES, OFF } from "./served-memory.ts";

/** Two threads decode faster than most stores deliver; more would take CPUs from the guests. */
const MAX_DECODE_THREADS = 2;
/** For the index and its companion; each request has its own, shorter deadline. */
const OPEN_DEADLINE_MS = 60_000;
/** Stores stay open, as chunks may come from any that was ever named. */
const MAX_STORES = 256;

/** An image whose index was read, and nothing else. */
export interface FoundImage {
  readonly key: string;
  readonly files: ImageFiles;
  /** Where its working set is, if not beside it; or "off". */
  readonly workingSet: string | null;
}

interface OpenStore {
  readonly store: ObjectStore;
  /** What counts its requests, behind the copies on this host. */
  readonly counted: PolicyStore | null;
}

export class ImageHost implements PartSupply {
  readonly #options: MemoryHostOptions;
  readonly #arena: ChunkArena;
  readonly #pool: DecodePool;
  readonly #cache: ChunkCache;
  readonly #stores = new Map<string, Promise<OpenStore>>();
  readonly #opened = new Map<string, OpenStore>();
  /** Copies of far chunks on this host; opened with the first store that is far. */
  #near: NearChunks | null = null;
  /** Of the images that are open and far. */
  readonly #arounds = new Set<ReadAround>();

  private constructor(options: MemoryHostOptions) {
    const cacheBytes = options.cacheBytes ?? DEFAULT_CACHE_BYTES;
    assert(cacheBytes >= MAX_CHUNK_BYTES, "a cache that holds no chunk");
    this.#options = options;
    this.#arena = new ChunkArena(cacheBytes, directoryFor(options, cacheBytes));
    this.#pool = options.decoders ?? startDecoders();
    this.#cache = new ChunkCache({
      arena: this.#arena,
      decode: (stored, chunk, address) => {
        const blockAddress = this.#arena.blockAddressOf(address);
        return this.#pool.decode(stored, chunk, address, blockAddress);
      },
      onCorrupt: ({ id }, location, what) => {
        const about = { chunk: id, store: location, reason: what };
        options.logger.error(about, "A chunk is damaged");
      },
    });
  }

  static start(options: MemoryHostOptions): ImageHost {
    return new ImageHost(options);
  }

  /**
   * Reads what an image is by now: its name may have come to mean another one.
   * @throws FaultlineError what is wrong with the image or its store
   */
  async find(memory: string, workingSet: string | null): Promise<FoundImage> {
    const reference = parseImageReference(memory);
    const location = reference.store ?? defaultStore(this.#options.store);
    const { store } = await this.#storeAt(location);
    const signal = AbortSignal.timeout(OPEN_DEADLINE_MS);
    return foundImage(await readImageFiles(store, reference.name, signal), workingSet);
  }

  /** The same from what an earlier process has found. */
  async recall(
    { store: location, name, workingSet }: KeptImage,
    index: Uint8Array,
    info: Uint8Array | null,
  ): Promise<FoundImage> {
    // It may be away just now: VMs wait, and most of what they need may be in the cache.
    const { store } = await this.#storeAt(location, { isUnchecked: true });
    return foundImage(decodeImageFiles(store, name, index, info), workingSet);
  }

  /** @throws FaultlineError `image-corrupt`, and what is wrong with the place of the working set */
  serve({ key, files, workingSet }: FoundImage): MemorySource {
    const { image: stored, indexBytes, infoBytes } = files;
    const { store, name, indexSha256 } = stored;
    const image = new ChunkedImage(stored, this.#cache);
    const place = placeOf(workingSet, image);
    // The next chunk of a folder is as near as this one.
    const around = isFar(store) ? new ReadAround(image.mapped, this.#cache) : null;
    if (around !== null) this.#arounds.add(around);
    return {
      key,
      files: null,
      workingSet: place,
      // The rest is for what guests ask for.
      spareBytes: this.#arena.sizeBytes / 2,
      sizeBytes: image.sizeBytes,
      dataBytes: image.dataBytes,
      mapped: image.mapped,
      identity: { kind: "image", store: store.location, name, indexSha256 },
      chunkId: (ordinal) => stored.index.id(ordinal),
      assertUnchanged: () => {},
      keep: () => {
        const memfd = keepImage({ store: store.location, name, workingSet }, indexBytes, infoBytes);
        return { fds: [memfd.fd], memfd };
      },
      close: async () => {
        if (around !== null) this.#arounds.delete(around);
      },
    };
  }

  async demand(chunk: number, isUrgent: boolean): Promise<PartCost | null> {
    const isHere = this.#cache.demand(chunk, isUrgent ? "demand" : "prefetch");
    // What is fetched ahead of demand is chosen already.
    if (isUrgent) this.#readAround(chunk);
    return await isHere;
  }

  hurry(chunk: number): void {
    this.#cache.hurry(chunk);
  }

  release(chunk: number): void {
    this.#arena.unpin(chunk);
  }

  get arenaFd(): OwnedFd | null {
    return this.#arena.directory?.memory ?? null;
  }

  cacheStatistics(): CacheNumbers {
    const { chunkCount: chunks, candidateCount: candidates } = this.#arena;
    const { usedBytes, sizeBytes, evictions } = this.#arena;
    return { ...this.#cache.statistics, chunks, candidates, usedBytes, sizeBytes, evictions };
  }

  nearStatistics(): NearNumbers | null {
    if (this.#near === null) return null;
    return { ...this.#near.counters, usedBytes: this.#near.sizeBytes };
  }

  storeStatistics(): ReadonlyMap<string, StoreStats> {
    const statistics = new Map<string, StoreStats>();
    for (const { store, counted } of this.#opened.values()) {
      if (counted !== null) statistics.set(store.location, counted.stats());
    }
    return statistics;
  }

  async close(): Promise<void> {
    for (const opening of this.#stores.values()) {
      await (await opening.catch(() => null))?.store.close();
    }
    await this.#near?.close();
    await this.#pool.close();
    this.#arena.close();
  }

  /** A chunk that several images have is read ahead around as in the first of them. */
  #readAround(chunk: number): void {
    for (const around of this.#arounds) if (around.around(chunk)) return;
  }

  async #storeAt(location: string, options: OpenStoreOptions = {}): Promise<OpenStore> {
    const key = storeKey(location);
    const known = this.#stores.get(key);
    if (known !== undefined) return await known;
    if (this.#stores.size === MAX_STORES) {
      throw new FaultlineError(
        "limit",
        `This process has ${MAX_STORES} stores open, which is its limit. Keep images together in ` +
          "fewer stores, or serve them by another process.",
      );
    }
    const opening = this.#openStore(location, options);
    this.#stores.set(key, opening);
    try {
      const opened = await opening;
      this.#opened.set(key, opened);
      return opened;
    } catch (error) {
      this.#stores.delete(key);
      throw error;
    }
  }

  /** A folder of this host needs no copies on this host. */
  async #openStore(location: string, options: OpenStoreOptions): Promise<OpenStore> {
    const store = await openStore(location, options);
    const counted = store instanceof PolicyStore ? store : null;
    if (!isFar(store)) return { store, counted };
    try {
      const near = this.#nearChunks(options.isUnchecked === true);
      return { store: near === null ? store : new TierStore(near, store), counted };
    } catch (error) {
      await store.close();
      throw error;
    }
  }

  /** Null: no copies are kept. For VMs that wait, a folder that is broken is no reason to die. */
  #nearChunks(isForWaiting: boolean): NearChunks | null {
    const { cacheFolder, cacheFolderBytes, logger } = this.#options;
    if (cacheFolder === undefined) return null;
    const maxBytes = cacheFolderBytes ?? DEFAULT_CACHE_FOLDER_BYTES;
    try {
      this.#near ??= new NearChunks(DirectoryStore.open(cacheFolder, { create: true }), {
        maxBytes,
      });
    } catch (error) {
      if (!isForWaiting) throw error;
      const fields = { cacheFolder, reason: describeError(error) };
      logger.error(fields, "Copies of chunks cannot be kept: VMs are served without them");
    }
    return this.#near;
  }
}

/** The threads that decode for all images. */
export function startDecoders(): DecodePool {
  return new DecodePool(Math.min(MAX_DECODE_THREADS, availableParallelism()));
}

/** The cache's memory if it is to outlive us: what an earlier process has left, or new. */
function directoryFor(options: MemoryHostOptions, cacheBytes: number): ArenaDirectory | null {
  const { arena, keepsArena = arena !== undefined, logger } = options;
  const shape = arenaShape(cacheBytes);
  const adopted = arena === undefined ? null : ArenaDirectory.adopt(arena, shape);
  if (adopted !== null) return adopted;
  if (arena !== undefined) {
    arena.close();
    const cache = formatBytes(cacheBytes);
    logger.warn({ cache }, "The cache of the earlier process has another size, and is dropped");
  }
  return keepsArena ? ArenaDirectory.create(shape) : null;
}

function foundImage(files: ImageFiles, workingSet: string | null): FoundImage {
  const { store, name, indexSha256 } = files.image;
  const key = JSON.stringify(["image", store.location, name, indexSha256, workingSet]);
  return { key, files, workingSet };
}

function placeOf(workingSet: string | null, image: ChunkedImage): WorkingSetPlace | null {
  if (workingSet === OFF) return null;
  if (workingSet === null) return imageWorkingSet(image.stored);
  assertFolder(workingSet);
  return fileWorkingSet(workingSet, image.sizeBytes);
}

function storeKey(location: string): string {
  const reference = parseStoreReference(location);
  if (reference.kind === "directory") return `dir:${resolve(reference.path)}`;
  return location.replace(/\/+$/, "");
}

/** Whether every request takes a while. */
function isFar(store: ObjectStore): boolean {
  return parseStoreReference(store.location).kind !== "directory";
}
