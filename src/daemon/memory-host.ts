/**
 * All memory that one process serves: files and images, each opened once however many VMs are
 * restored from it, one cache for the chunks of all images, one supply of parts for the engine.
 *
 * What is open can be kept beyond the death of this process, as descriptors that somebody else
 * holds: the next one reopens it from them, and adopts the memory of the cache.
 */
import { existsSync } from "node:fs";
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import { type DurationCounts, Durations } from "../base/histogram.ts";
import type { PartSupply } from "../engine/worker-handle.ts";
import type { OwnedFd } from "../linux/fd.ts";
import type { DecodePool } from "../source/decode-pool.ts";
import { FIRST_FILE_PART, type MemoryFiles } from "../source/memory-files.ts";
import type { TierCounters } from "../source/near-chunks.ts";
import type { StoreStats } from "../source/store-stats.ts";
import type { ImageHost } from "./image-host.ts";
import { type KeptMemory, readKept } from "./kept-memory.ts";
import type { Logger } from "./log.ts";
import type { MemorySource } from "./memory-source.ts";
import { filesKey, openFiles, reopenFiles } from "./open-files.ts";
import type { ImageOptions, MemoryOptions, ServedMemory } from "./served-memory.ts";

export type { KeptMemory } from "./kept-memory.ts";

export interface MemoryHostOptions extends ImageOptions {
  readonly logger: Logger;
  /** The cache's memory as an earlier process has left it; taken over. */
  readonly arena?: OwnedFd;
  /** The cache's memory shall outlive this process: `arenaFd`. Default: only if one is given. */
  readonly keepsArena?: boolean;
  /** Started in advance by `prepareImages`; taken over. */
  readonly decoders?: DecodePool;
}

/**
 * For a process that waits to take over: loads the code that images need, and starts the threads
 * that decode, which is most of what the first image would wait for.
 */
export async function prepareImages(): Promise<DecodePool> {
  const { startDecoders } = await import("./image-host.ts");
  return startDecoders();
}

/** Of the cache of all images, since the start. */
export interface CacheNumbers {
  readonly loads: number;
  /** Of these, found in memory that an earlier process has left. */
  readonly adopted: number;
  /** Of these, had been in the cache before, and were evicted. */
  readonly again: number;
  readonly prefetches: number;
  readonly joined: number;
  readonly corrupt: number;
  readonly failed: number;
  readonly fetchedBytes: number;
  readonly fetchTimes: DurationCounts;
  readonly decodeTimes: DurationCounts;
  readonly chunks: number;
  /** What an earlier process has left, and nobody has asked for yet. */
  readonly candidates: number;
  readonly usedBytes: number;
  readonly sizeBytes: number;
  readonly evictions: number;
}

/** Of the copies of far chunks on this host, since the start. */
export interface NearNumbers extends Readonly<TierCounters> {
  readonly usedBytes: number;
}

const noCache: CacheNumbers = {
  ...{
    loads: 0,
    adopted: 0,
    again: 0,
    prefetches: 0,
    joined: 0,
    corrupt: 0,
    failed: 0,
    fetchedBytes: 0,
  },
  ...{ chunks: 0, candidates: 0, usedBytes: 0, sizeBytes: 0, evictions: 0 },
  ...{ fetchTimes: new Durations(), decodeTimes: new Durations() },
};

/** Names the store of images that are given without one. */
const STORE_VARIABLE = "FAULTLINE_STORE";

interface OpenMemory {
  readonly source: MemorySource;
  uses: number;
  kept: { readonly fds: readonly number[]; readonly memfd: OwnedFd } | null;
}

export class MemoryHost {
  /** Parts of all memory that is or will be open. */
  readonly supply: PartSupply;
  readonly #options: MemoryHostOptions;
  readonly #open = new Map<string, OpenMemory>();
  readonly #uses = new WeakMap<ServedMemory, OpenMemory>();
  readonly #files = new Set<MemoryFiles>();
  #images: ImageHost | null = null;
  #starting: Promise<ImageHost> | null = null;
  #isClosed = false;

  private constructor(options: MemoryHostOptions) {
    this.#options = options;
    this.supply = {
      demand: (part, isUrgent) =>
        part < FIRST_FILE_PART
          ? this.#chunks.demand(part, isUrgent)
          : this.#filesOf(part).load(part),
      hurry: (part) => {
        if (part < FIRST_FILE_PART) this.#chunks.hurry(part);
      },
      release: (part) => {
        if (part < FIRST_FILE_PART) this.#chunks.release(part);
      },
    };
  }

  /** What images need starts with the first image, unless an arena is given: then at once. */
  static async start(options: MemoryHostOptions): Promise<MemoryHost> {
    const host = new MemoryHost(options);
    if (options.arena !== undefined) await host.#imageHost();
    return host;
  }

  /**
   * Opens what `memory` means, or counts one more use of it if it is open and has not changed.
   * @throws FaultlineError what is wrong with the files, the image, or its store
   */
  async open(options: MemoryOptions): Promise<ServedMemory> {
    if (!this.#namesImage(options.memory)) return await this.#openFiles(options);
    if ((options.layers ?? []).length > 0) {
      throw new FaultlineError(
        "bad-option",
        `--layer cannot be used with the image ${options.memory}: pack the diff as an image of ` +
          "its own (`faultline image pack --parent IMAGE --diff FILE`), and serve that.",
      );
    }
    const images = await this.#imageHost();
    const found = await images.find(options.memory, options.workingSet ?? null);
    return this.#use(found.key, () => images.serve(found));
  }

  /**
   * As `open`, from what an earlier process has kept: no store is asked for the index, and files
   * need not be there by name any more.
   * @throws FaultlineError `image-corrupt`, and why its store cannot be used
   */
  async reopen(kept: KeptMemory): Promise<ServedMemory> {
    try {
      const { described, index, info } = readKept(kept);
      if (described.kind === "files") {
        // Even if it is open: these descriptors are as good as those.
        const source = await reopenFiles(described, kept.fds.slice(1));
        return await this.#useOrClose(source);
      }
      const images = await this.#imageHost();
      const found = await images.recall(described, index, info);
      return this.#use(found.key, () => images.serve(found));
    } finally {
      for (const fd of kept.fds) fd.close();
    }
  }

  /** What the next process needs to `reopen` it. Valid until the last use of it is closed. */
  keep(memory: ServedMemory): { readonly fds: readonly number[] } {
    const open = this.#uses.get(memory);
    assert(open !== undefined, "a memory of another host");
    open.kept ??= open.source.keep();
    return open.kept;
  }

  /** The cache's memory; null: there is no cache yet, or it goes with this process. */
  get arenaFd(): OwnedFd | null {
    return this.#images?.arenaFd ?? null;
  }

  cacheStatistics(): CacheNumbers {
    return this.#images?.cacheStatistics() ?? noCache;
  }

  /** Of the copies on this host; null: none are kept, or none were needed yet. */
  nearStatistics(): NearNumbers | null {
    return this.#images?.nearStatistics() ?? null;
  }

  /** By the location of each store behind a network. */
  storeStatistics(): ReadonlyMap<string, StoreStats> {
    return this.#images?.storeStatistics() ?? new Map();
  }

  /** Lets go of all memory, also of what is still used. */
  async close(): Promise<void> {
    this.#isClosed = true;
    for (const open of [...this.#open.values()]) await this.#letGo(open);
    const starting = this.#starting;
    await (await starting?.catch(() => null))?.close();
  }

  /**
   * A prefix such as `dir:` says it aloud. Without one it is an image if a store is named and
   * nothing of this name is a file: whoever means a file of an odd name writes `./NAME`.
   */
  #namesImage(memory: string): boolean {
    if (/^[a-z][a-z0-9]+:/.test(memory)) return true;
    if (memory.includes("/") || existsSync(memory)) return false;
    return (this.#options.store ?? process.env[STORE_VARIABLE] ?? "") !== "";
  }

  async #openFiles(options: MemoryOptions): Promise<ServedMemory> {
    const key = filesKey(options);
    const open = key === null ? undefined : this.#open.get(key);
    if (open !== undefined) return this.#oneUseOf(open);
    return await this.#useOrClose(await openFiles(options));
  }

  /** If it is open already, the other one is used. */
  async #useOrClose(source: MemorySource): Promise<ServedMemory> {
    const served = this.#use(source.key, () => source);
    if (served.mapped !== source.mapped) await source.close();
    return served;
  }

  /** Nothing is awaited here, so there is one memory of a key. */
  #use(key: string, make: () => MemorySource): ServedMemory {
    assert(!this.#isClosed, "memory is opened after the end");
    let open = this.#open.get(key);
    if (open === undefined) {
      open = { source: make(), uses: 0, kept: null };
      this.#open.set(key, open);
      if (open.source.files !== null) this.#files.add(open.source.files);
    }
    return this.#oneUseOf(open);
  }

  #oneUseOf(open: OpenMemory): ServedMemory {
    open.uses += 1;
    let isClosed = false;
    const close = async (): Promise<void> => {
      if (isClosed) return;
      isClosed = true;
      open.uses -= 1;
      if (open.uses === 0) await this.#letGo(open);
    };
    const { key: _, files: __, keep: ___, ...source } = open.source;
    const use: ServedMemory = { ...source, supply: this.supply, close };
    this.#uses.set(use, open);
    return use;
  }

  async #letGo(open: OpenMemory): Promise<void> {
    const { source } = open;
    if (!this.#open.delete(source.key)) return;
    if (source.files !== null) this.#files.delete(source.files);
    open.kept?.memfd.close();
    await source.close();
  }

  #filesOf(part: number): MemoryFiles {
    for (const files of this.#files) if (files.holds(part)) return files;
    throw new FaultlineError("unresolvable-page", "The memory file of a page is closed already.");
  }

  get #chunks(): ImageHost {
    assert(this.#images !== null, "a chunk is asked for, and no image was ever open");
    return this.#images;
  }

  /** Loaded only when asked for: most that serve a file must be ready at once. */
  async #imageHost(): Promise<ImageHost> {
    const start = async (): Promise<ImageHost> => {
      const { ImageHost } = await import("./image-host.ts");
      this.#images = ImageHost.start(this.#options);
      return this.#images;
    };
    this.#starting ??= start();
    return await this.#starting;
  }
}
