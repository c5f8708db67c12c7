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
import { hasBit, setBit } from "../base/bitmap.ts";
import { FaultlineError } from "../base/errors.ts";
import { Durations } from "../base/histogram.ts";
import type { ChunkId, Digest } from "../snapshot/chunk-id.ts";
import { type ChunkArena, MAX_CHUNK_BYTES, MAX_CHUNKS } from "./chunk-arena.ts";
import { type ChunkDescription, ChunkTable, idWords } from "./chunk-table.ts";
import type { Urgency } from "./object-store.ts";
import { PartBill, type PartCost, type ReadTrail } from "./part-cost.ts";

/** Where stored chunks come from: a store, or several tiers of them. */
export interface ChunkOrigin {
  /** For messages. */
  readonly location: string;
  /**
   * The stored bytes, or null if there is no such chunk. Ends by its own deadlines. `isAgain`: what
   * it gave before was damaged, so no copy on the way will do, only the original.
   */
  fetch(
    id: ChunkId,
    isAgain: boolean,
    urgency: Urgency,
    trail?: ReadTrail,
  ): Promise<Uint8Array | null>;
  /** A guest now waits for what was fetched ahead. */
  hurry(id: ChunkId): void;
}

export type { ChunkDescription } from "./chunk-table.ts";

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
  /** Of these, had been in the arena before, and were evicted. */
  again: number;
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

/** A chunk that is on its way. */
interface Load extends ChunkDescription {
  readonly number: number;
  readonly origins: ReadonlySet<ChunkOrigin>;
  readonly bill: PartBill;
  /** How many wait for it. */
  waiting: number;
  /** With what it took. */
  done: Promise<PartCost>;
}

/** Fetched ahead at the same time; more is not begun. Far above what one fault asks for. */
const MAX_PREFETCHES = 64;
/**
 * Tries per origin that answers. Damage on the way is rare and independent; damage at rest does not
 * heal. One that fails is not asked again: its own policy has tried for as long as guests may wait.
 */
const ATTEMPTS_PER_ORIGIN = 3;
/** Sets are numbered by 16 bits. Those of one origin always find room. */
const MAX_MIXED_SETS = 2 ** 15;
/** Workers hold chunks for microseconds: an arena that stays full is too small. */
const ROOM_DEADLINE_MS = 5000;

export class ChunkCache {
  readonly arena: ChunkArena;
  readonly statistics: CacheStatistics = {
    loads: 0,
    adopted: 0,
    again: 0,
    prefetches: 0,
    fetchedBytes: 0,
    corrupt: 0,
    joined: 0,
    failed: 0,
    fetchTimes: new Durations(),
    decodeTimes: new Durations(),
  };
  readonly #options: ChunkCacheOptions;
  /** Numbers are never given to another chunk. */
  readonly #chunks = new ChunkTable();
  readonly #origins = new OriginSets();
  /** A bit for each chunk that was ever brought into the arena. */
  readonly #brought = new Uint8Array(MAX_CHUNKS / 8);
  /** By chunk number, what is under way. */
  readonly #loads = new Map<number, Load>();
  #prefetches = 0;

  constructor(options: ChunkCacheOptions) {
    this.#options = options;
    this.arena = options.arena;
  }

  /**
   * The number of a chunk, the same in every image that has it.
   * @throws FaultlineError `image-corrupt` if two images disagree about it, or it is too large
   */
  register({ id, digest, sizeBytes }: ChunkDescription, origin: ChunkOrigin): number {
    return this.registerWords(idWords(Buffer.from(id, "hex")), 0, digest, sizeBytes, origin);
  }

  /** The same, of a chunk whose id begins at word `at`. */
  registerWords(
    ids: Int32Array,
    at: number,
    digest: Digest,
    sizeBytes: number,
    origin: ChunkOrigin,
  ): number {
    const chunks = this.#chunks;
    let number = chunks.find(ids, at);
    if (number < 0) {
      assertAcceptable(sizeBytes, chunks.count, origin);
      number = chunks.add(ids, at, digest, sizeBytes);
    } else if (chunks.sizeBytes(number) !== sizeBytes || chunks.digest(number) !== digest) {
      throw new FaultlineError(
        "image-corrupt",
        `${origin.location} says that chunk ${chunks.describe(number).id} has ${sizeBytes} bytes ` +
          `(${digest}), another image says ${chunks.sizeBytes(number)} ` +
          `(${chunks.digest(number)}). One of their indexes is damaged: run ` +
          "`faultline image verify` on both.",
      );
    }
    chunks.setOrigins(number, this.#origins.with(chunks.origins(number), origin));
    return number;
  }

  /**
   * Resolves when the chunk is in the arena, and pinned once: the caller, or the worker that it
   * tells, has to unpin it. Without urgency, all demand goes before it.
   * @returns what that took; null: it was there
   * @throws FaultlineError `unresolvable-page` if no origin has it whole
   */
  async demand(number: number, urgency: Urgency = "demand"): Promise<PartCost | null> {
    assert(number < this.#chunks.count, "a chunk that nobody registered");
    if (this.arena.has(number)) {
      this.arena.pin(number);
      return null;
    }
    const known = this.#loads.get(number);
    if (known === undefined) {
      return await this.#begin(number, urgency, 1).done;
    }
    known.waiting += 1;
    this.statistics.joined += 1;
    if (urgency === "demand") this.hurry(number);
    return await known.done;
  }

  /** Somebody waits for a chunk that is on its way without urgency. */
  hurry(number: number): void {
    const load = this.#loads.get(number);
    if (load === undefined) return;
    for (const origin of load.origins) origin.hurry(load.id);
  }

  /** Brings a chunk in that somebody may need soon. Nobody is told how it ends. */
  prefetch(number: number): void {
    assert(number < this.#chunks.count, "a chunk that nobody registered");
    if (this.arena.has(number) || this.#loads.has(number)) return;
    if (this.#prefetches === MAX_PREFETCHES) return;
    this.#prefetches += 1;
    const done = (): void => {
      this.#prefetches -= 1;
    };
    this.#begin(number, "prefetch", 0).done.then(done, done);
  }

  #begin(number: number, urgency: Urgency, waiting: number): Load {
    const bill = new PartBill(hasBit(this.#brought, number));
    const load: Load = {
      ...this.#chunks.describe(number),
      number,
      origins: this.#origins.of(this.#chunks.origins(number)),
      waiting,
      bill,
      done: Promise.resolve(bill),
    };
    this.#loads.set(number, load);
    load.done = this.#load(load, urgency);
    return load;
  }

  /** Ends in the arena with a pin for each that waits, or throws. */
  async #load(chunk: Load, urgency: Urgency): Promise<PartCost> {
    const { number } = chunk;
    try {
      const left = await this.#adopt(chunk);
      const place = left >= 0 ? left : await this.#fetchFor(chunk, urgency);
      this.arena.publish(number, place, chunk);
      this.statistics.loads += 1;
      if (urgency === "prefetch") this.statistics.prefetches += 1;
      for (let pin = 0; pin < chunk.waiting; pin++) this.arena.pin(number);
      if (chunk.bill.isAgain) this.statistics.again += 1;
      setBit(this.#brought, number);
      return chunk.bill.close();
    } catch (error) {
      if (chunk.waiting > 0) this.statistics.failed += 1;
      throw error;
    } finally {
      this.#loads.delete(number);
    }
  }

  /** What an earlier process has left is believed when its digest is right. -1: nothing is. */
  async #adopt(chunk: Load): Promise<number> {
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

  async #fetchFor(chunk: Load, urgency: Urgency): Promise<number> {
    try {
      return await this.#fetchInto(chunk, urgency);
    } catch (error) {
      // What may fail ahead (a full queue drops it) must not fail those who came to wait for it.
      if (urgency === "prefetch" && chunk.waiting > 0) return this.#fetchInto(chunk, "demand");
      throw error;
    }
  }

  /** Returns where in the arena the verified bytes lie. */
  async #fetchInto(chunk: Load, urgency: Urgency): Promise<number> {
    const reasons: unknown[] = [];
    const liars = new Set<ChunkOrigin>();
    const answering = new Set(chunk.origins);
    for (let attempt = 0; attempt < ATTEMPTS_PER_ORIGIN; attempt++) {
      for (const origin of answering) {
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
          answering.delete(origin);
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
    { id, bill }: Pick<Load, "id" | "bill">,
    origin: ChunkOrigin,
    isAgain: boolean,
    urgency: Urgency,
  ): Promise<Uint8Array | null> {
    const startMs = performance.now();
    const trail: ReadTrail = { isNear: false };
    let stored: Uint8Array | null;
    try {
      stored = await origin.fetch(id, isAgain, urgency, trail);
    } finally {
      // Failures cost as well.
      bill[trail.isNear ? "nearUs" : "storeUs"] += (performance.now() - startMs) * 1000;
    }
    this.statistics.fetchTimes.add((performance.now() - startMs) * 1000);
    return stored;
  }

  /** -1 if the bytes are damaged. */
  async #decode(stored: Uint8Array, chunk: Load, origin: ChunkOrigin): Promise<number> {
    const startMs = performance.now();
    const place = await this.#makeRoom(chunk.sizeBytes);
    chunk.bill.roomUs += (performance.now() - startMs) * 1000;
    const what = await this.#check(stored, chunk, place);
    if (what === null) return place;
    this.#tellCorrupt(chunk, origin.location, what);
    return -1;
  }

  /** Whatever is not right is discarded. */
  async #check(stored: Uint8Array | null, chunk: Load, place: number): Promise<string | null> {
    let isRight = false;
    const startMs = performance.now();
    try {
      const what = await this.#options.decode(stored, chunk, this.arena.addressOf(place));
      const us = (performance.now() - startMs) * 1000;
      this.statistics.decodeTimes.add(us);
      chunk.bill.decodeUs += us;
      isRight = what === null;
      return what;
    } finally {
      if (!isRight) this.arena.discard(place);
    }
  }

  #tellCorrupt(chunk: Load, location: string, what: string): void {
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

/** Few sets of origins for many chunks: each set has a number, 0 is the empty one. */
class OriginSets {
  readonly #sets: ReadonlySet<ChunkOrigin>[] = [new Set()];
  /** By set, what it is with one more. */
  readonly #larger: Map<ChunkOrigin, number>[] = [new Map()];

  of(set: number): ReadonlySet<ChunkOrigin> {
    return this.#sets[set]!;
  }

  with(set: number, origin: ChunkOrigin): number {
    const origins = this.#sets[set]!;
    if (origins.has(origin)) return set;
    const known = this.#larger[set]!.get(origin);
    if (known !== undefined) return known;
    // Hundreds of stores in tens of thousands of mixtures: the chunk's other origins will do.
    if (set !== 0 && this.#sets.length >= MAX_MIXED_SETS) return set;
    this.#sets.push(new Set([...origins, origin]));
    this.#larger.push(new Map());
    this.#larger[set]!.set(origin, this.#sets.length - 1);
    return this.#sets.length - 1;
  }
}

function assertAcceptable(sizeBytes: number, known: number, origin: ChunkOrigin): void {
  if (sizeBytes <= 0 || sizeBytes > MAX_CHUNK_BYTES) {
    throw new FaultlineError(
      "image-corrupt",
      `${origin.location} has a chunk of ${sizeBytes} bytes; they may have up to ` +
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
