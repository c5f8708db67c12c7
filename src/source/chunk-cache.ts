/**
 * Brings chunks into the arena, each once however many VMs ask for it at the same time, and only
 * after its digest was checked. Main thread only.
 *
 * What a store gives is not trusted: a chunk that is damaged is fetched anew, past every copy on
 * the way, and from every origin that knows it. What nobody has whole is an error for those who
 * asked; it is never zeroes.
 */
import { setTimeout as delay } from "node:timers/promises";
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import { Durations } from "../base/histogram.ts";
import type { ChunkId, Digest } from "../snapshot/chunk-id.ts";
import { type ChunkArena, MAX_CHUNK_BYTES, MAX_CHUNKS } from "./chunk-arena.ts";
import type { Urgency } from "./object-store.ts";

/** Where stored chunks come from: a store, or several tiers of them. */
export interface ChunkOrigin {
  /** For messages. */
  readonly location: string;
  /**
   * The stored bytes, or null if there is no such chunk. Ends by its own deadlines. `isAgain`: what
   * it gave before was damaged, so no copy on the way will do, only the original.
   */
  fetch(id: ChunkId, isAgain: boolean, urgency: Urgency): Promise<Uint8Array | null>;
  /** A guest now waits for what was fetched ahead. */
  hurry(id: ChunkId): void;
}

export interface ChunkDescription {
  readonly id: ChunkId;
  readonly digest: Digest;
  readonly sizeBytes: number;
}

/**
 * Decompresses to an address of the arena and checks; `stored` null: checks what is there already.
 * Null, or what is wrong with the bytes.
 */
export type DecodeChunk = (
  stored: Uint8Array | null,
  chunk: ChunkDescription,
  address: number,
) => Promise<string | null>;

export interface CacheStatistics {
  /** Chunks brought in. */
  loads: number;
  /** Of these, from what an earlier process had left in the arena: nothing was fetched. */
  adopted: number;
  /** Of these, ahead of any demand. */
  prefetches: number;
  /** Stored bytes that came from origins. */
  fetchedBytes: number;
  /** Fetched chunks that were not what they should be. */
  corrupt: number;
  /** Requests that found another one for the same chunk under way. */
  joined: number;
  /** Requests that nobody could fulfil. */
  failed: number;
  /** How long origins took to give stored bytes, their queues and tries included. */
  readonly fetchTimes: Durations;
  /** How long it took to decompress and check chunks, the turn of a thread included. */
  readonly decodeTimes: Durations;
}

export interface ChunkCacheOptions {
  readonly arena: ChunkArena;
  readonly decode: DecodeChunk;
  /** Somebody should know that a store holds damaged chunks. */
  readonly onCorrupt?: (chunk: ChunkDescription, location: string, what: string) => void;
}

interface KnownChunk extends ChunkDescription {
  readonly origins: Set<ChunkOrigin>;
  /** The load under way, and how many wait for it. */
  loading: Promise<void> | null;
  waiting: number;
}

/** Fetched ahead at the same time; more is not begun. Far above what one fault asks for. */
const MAX_PREFETCHES = 64;
/** Tries per origin. Damage on the way is rare and independent; damage at rest does not heal. */
const ATTEMPTS_PER_ORIGIN = 3;
/** Workers hold chunks for microseconds: an arena that stays full is too small. */
const ROOM_DEADLINE_MS = 5000;

export class ChunkCache {
  readonly arena: ChunkArena;
  readonly statistics: CacheStatistics = {
    loads: 0,
    adopted: 0,
    prefetches: 0,
    fetchedBytes: 0,
    corrupt: 0,
    joined: 0,
    failed: 0,
    fetchTimes: new Durations(),
    decodeTimes: new Durations(),
  };
  readonly #options: ChunkCacheOptions;
  /** By chunk number. Numbers are never given to another chunk. */
  readonly #chunks: KnownChunk[] = [];
  readonly #numbers = new Map<ChunkId, number>();
  #prefetches = 0;

  constructor(options: ChunkCacheOptions) {
    this.#options = options;
    this.arena = options.arena;
  }

  /**
   * The number of a chunk, the same in every image that has it.
   * @throws FaultlineError `image-corrupt` if two images disagree about it, or it is too large
   */
  register(chunk: ChunkDescription, origin: ChunkOrigin): number {
    const number = this.#numbers.get(chunk.id);
    if (number !== undefined) {
      const known = this.#chunks[number]!;
      if (known.sizeBytes !== chunk.sizeBytes || known.digest !== chunk.digest) {
        throw new FaultlineError(
          "image-corrupt",
          `${origin.location} says that chunk ${chunk.id} has ${chunk.sizeBytes} bytes ` +
            `(${chunk.digest}), another image says ${known.sizeBytes} (${known.digest}). One of ` +
            "their indexes is damaged: run `faultline image verify` on both.",
        );
      }
      known.origins.add(origin);
      return number;
    }
    assertAcceptable(chunk, this.#chunks.length, origin);
    this.#chunks.push({ ...chunk, origins: new Set([origin]), loading: null, waiting: 0 });
    this.#numbers.set(chunk.id, this.#chunks.length - 1);
    return this.#chunks.length - 1;
  }

  /**
   * Resolves when the chunk is in the arena, and pinned once: the caller, or the worker that it
   * tells, has to unpin it. Without urgency, all demand goes before it.
   * @throws FaultlineError `unresolvable-page` if no origin has it whole
   */
  async demand(number: number, urgency: Urgency = "demand"): Promise<void> {
    const chunk = this.#chunks[number];
    assert(chunk !== undefined, "a chunk that nobody registered");
    if (this.arena.has(number)) {
      this.arena.pin(number);
      return;
    }
    chunk.waiting += 1;
    if (chunk.loading === null) {
      chunk.loading = this.#load(chunk, number, urgency);
    } else {
      this.statistics.joined += 1;
      if (urgency === "demand") this.hurry(number);
    }
    await chunk.loading;
  }

  /** Somebody waits for a chunk that is on its way without urgency. */
  hurry(number: number): void {
    const chunk = this.#chunks[number];
    assert(chunk !== undefined, "a chunk that nobody registered");
    for (const origin of chunk.origins) origin.hurry(chunk.id);
  }

  /** Brings a chunk in that somebody may need soon. Nobody is told how it ends. */
  prefetch(number: number): void {
    const chunk = this.#chunks[number];
    assert(chunk !== undefined, "a chunk that nobody registered");
    if (this.arena.has(number) || chunk.loading !== null) return;
    if (this.#prefetches === MAX_PREFETCHES) return;
    this.#prefetches += 1;
    const done = (): void => {
      this.#prefetches -= 1;
    };
    chunk.loading = this.#load(chunk, number, "prefetch");
    chunk.loading.then(done, done);
  }

  /** Ends in the arena with a pin for each that waits, or throws. */
  async #load(chunk: KnownChunk, number: number, urgency: Urgency): Promise<void> {
    try {
      const left = await this.#adopt(chunk);
      const place = left >= 0 ? left : await this.#fetchFor(chunk, urgency);
      this.arena.publish(number, place, chunk);
      this.statistics.loads += 1;
      if (urgency === "prefetch") this.statistics.prefetches += 1;
      for (let pin = 0; pin < chunk.waiting; pin++) this.arena.pin(number);
    } catch (error) {
      if (chunk.waiting > 0) this.statistics.failed += 1;
      throw error;
    } finally {
      chunk.loading = null;
      chunk.waiting = 0;
    }
  }

  /** What an earlier process has left is believed when its digest is right. -1: nothing is. */
  async #adopt(chunk: KnownChunk): Promise<number> {
    const place = this.arena.takeCandidate(chunk);
    if (place < 0) return -1;
    const what = await this.#check(null, chunk, place);
    if (what === null) {
      this.statistics.adopted += 1;
      return place;
    }
    this.#tellCorrupt(chunk, "the memory of an earlier process", what);
    return -1;
  }

  async #fetchFor(chunk: KnownChunk, urgency: Urgency): Promise<number> {
    try {
      return await this.#fetchInto(chunk, urgency);
    } catch (error) {
      // What may fail ahead (a full queue drops it) must not fail those who came to wait for it.
      if (urgency === "prefetch" && chunk.waiting > 0) return this.#fetchInto(chunk, "demand");
      throw error;
    }
  }

  /** Returns where in the arena the verified bytes lie. */
  async #fetchInto(chunk: KnownChunk, urgency: Urgency): Promise<number> {
    const reasons: unknown[] = [];
    const liars = new Set<ChunkOrigin>();
    for (let attempt = 0; attempt < ATTEMPTS_PER_ORIGIN; attempt++) {
      for (const origin of chunk.origins) {
        try {
          const stored = await this.#fetch(chunk, origin, liars.has(origin), urgency);
          if (stored === null) {
            reasons.push(new Error(`${origin.location} has no such chunk`));
            continue;
          }
          this.statistics.fetchedBytes += stored.length;
          const place = await this.#decode(stored, chunk, origin);
          if (place >= 0) return place;
          liars.add(origin);
          reasons.push(new Error(`${origin.location} gave damaged bytes`));
        } catch (error) {
          reasons.push(error);
        }
      }
    }
    throw new FaultlineError(
      "unresolvable-page",
      `No store has chunk ${chunk.id} whole, after ${reasons.length} tries`,
      { cause: reasons.at(-1) },
    );
  }

  /** Failures are not measured: they tell of deadlines. */
  async #fetch(
    { id }: KnownChunk,
    origin: ChunkOrigin,
    isAgain: boolean,
    urgency: Urgency,
  ): Promise<Uint8Array | null> {
    const startMs = performance.now();
    const stored = await origin.fetch(id, isAgain, urgency);
    this.statistics.fetchTimes.add((performance.now() - startMs) * 1000);
    return stored;
  }

  /** -1 if the bytes are damaged. */
  async #decode(stored: Uint8Array, chunk: KnownChunk, origin: ChunkOrigin): Promise<number> {
    const place = await this.#makeRoom(chunk.sizeBytes);
    const what = await this.#check(stored, chunk, place);
    if (what === null) return place;
    this.#tellCorrupt(chunk, origin.location, what);
    return -1;
  }

  /** Whatever is not right is discarded. */
  async #check(
    stored: Uint8Array | null,
    chunk: KnownChunk,
    place: number,
  ): Promise<string | null> {
    let isRight = false;
    const startMs = performance.now();
    try {
      const what = await this.#options.decode(stored, chunk, this.arena.addressOf(place));
      this.statistics.decodeTimes.add((performance.now() - startMs) * 1000);
      isRight = what === null;
      return what;
    } finally {
      if (!isRight) this.arena.discard(place);
    }
  }

  #tellCorrupt(chunk: KnownChunk, location: string, what: string): void {
    this.statistics.corrupt += 1;
    this.#options.onCorrupt?.(chunk, location, what);
  }

  async #makeRoom(sizeBytes: number): Promise<number> {
    const deadlineMs = performance.now() + ROOM_DEADLINE_MS;
    for (;;) {
      const place = this.arena.reserve(sizeBytes);
      if (place >= 0) return place;
      if (performance.now() > deadlineMs) {
        throw new FaultlineError(
          "unresolvable-page",
          `All ${this.arena.sizeBytes} bytes of the chunk cache have been in use for ` +
            `${ROOM_DEADLINE_MS / 1000} s. Raise --cache-size.`,
        );
      }
      await delay(1);
    }
  }
}

function assertAcceptable(chunk: ChunkDescription, known: number, origin: ChunkOrigin): void {
  if (chunk.sizeBytes <= 0 || chunk.sizeBytes > MAX_CHUNK_BYTES) {
    throw new FaultlineError(
      "image-corrupt",
      `${origin.location} has a chunk of ${chunk.sizeBytes} bytes; they may have up to ` +
        `${MAX_CHUNK_BYTES}. Pack the snapshot with smaller chunks.`,
    );
  }
  if (known === MAX_CHUNKS) {
    throw new FaultlineError(
      "image-corrupt",
      `This process knows ${MAX_CHUNKS} different chunks already, which is its limit. Use larger ` +
        "chunks, or serve fewer images.",
    );
  }
}
