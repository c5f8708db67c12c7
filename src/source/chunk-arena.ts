/**
 * The memory that holds decoded chunks: bounded, shared by all images and all threads. The main
 * thread fills and evicts; fault workers copy straight from it (`arena-reader.ts`).
 *
 * ```
 *   chunk number ──places──► place ──► base + place × 4 KiB ──► the chunk's bytes
 *                               └────► pins: a worker copies from it just now
 * ```
 *
 * The memory is cut into blocks of 4 MiB, each for chunks of one size class (powers of two from
 * 4 KiB); a block that is empty serves any class again. A chunk that is not published is invisible,
 * so nobody ever sees bytes that were not verified.
 */
import { assert } from "../base/assert.ts";
import { MappedRegion } from "../linux/memory.ts";
import { Sieve } from "./sieve.ts";

/** The largest chunk. casync's and desync's are below it up to an average of 1 MiB. */
export const MAX_CHUNK_BYTES = 4 * 2 ** 20;
const BLOCK_BYTES = MAX_CHUNK_BYTES;
export const GRAIN_BYTES = 4096;
const GRAINS_PER_BLOCK = BLOCK_BYTES / GRAIN_BYTES;
/** Different chunks that one process can know: 1 TiB of 256 KiB chunks. */
export const MAX_CHUNKS = 2 ** 22;

/** What every thread needs. All arrays lie in shared memory. */
export interface SharedArena {
  readonly baseAddress: number;
  /** By chunk number: where the chunk lies (place + 1), or 0: not here. */
  readonly places: Int32Array;
  /** By place: how many copy from it right now. */
  readonly pins: Int32Array;
  /** By place: whether somebody used it since the eviction's hand last passed. */
  readonly isUsed: Uint8Array;
}

/** A block of 4 MiB that serves chunks of one size. */
interface Block {
  readonly slotGrains: number;
  readonly freePlaces: number[];
}

export class ChunkArena {
  readonly shared: SharedArena;
  readonly sizeBytes: number;
  /** Chunks that had to go. */
  evictions = 0;
  readonly #region: MappedRegion;
  readonly #blocks: (Block | null)[];
  readonly #freeBlocks: number[];
  /** Blocks of each slot size that have a free place. */
  readonly #openBlocks = new Map<number, Set<number>>();
  readonly #queue: Sieve;
  /** By place: the published chunk, or -1. */
  readonly #chunkAt: Int32Array;

  /** `sizeBytes` is rounded down to blocks of 4 MiB; at least one. */
  constructor(sizeBytes: number) {
    const blocks = Math.floor(sizeBytes / BLOCK_BYTES);
    assert(blocks >= 1, "an arena holds at least one block");
    const grains = blocks * GRAINS_PER_BLOCK;
    this.sizeBytes = blocks * BLOCK_BYTES;
    this.#region = MappedRegion.anonymous(this.sizeBytes);
    this.shared = {
      baseAddress: this.#region.address,
      places: new Int32Array(new SharedArrayBuffer(MAX_CHUNKS * 4)),
      pins: new Int32Array(new SharedArrayBuffer(grains * 4)),
      isUsed: new Uint8Array(new SharedArrayBuffer(grains)),
    };
    this.#blocks = new Array(blocks).fill(null);
    this.#freeBlocks = Array.from({ length: blocks }, (_, index) => blocks - 1 - index);
    this.#queue = new Sieve(grains);
    this.#chunkAt = new Int32Array(grains).fill(-1);
  }

  get chunkCount(): number {
    return this.#queue.size;
  }

  has(chunk: number): boolean {
    return this.shared.places[chunk] !== 0;
  }

  /**
   * Memory for a chunk of `sizeBytes`, evicting others if need be. -1: everything is in use right
   * now. Fill it, then `publish` it, or `discard` it.
   */
  reserve(sizeBytes: number): number {
    assert(sizeBytes > 0 && sizeBytes <= MAX_CHUNK_BYTES, "a chunk larger than a block");
    const slotGrains = slotGrainsOf(sizeBytes);
    for (;;) {
      const place = this.#takeFree(slotGrains);
      if (place >= 0 || !this.#evictOne()) return place;
    }
  }

  /** Reserved memory that does not become a chunk after all. */
  discard(place: number): void {
    this.#giveBack(place);
  }

  /** From now on workers find the chunk. Its bytes must be whole and verified. */
  publish(chunk: number, place: number): void {
    assert(!this.has(chunk), "published twice");
    this.#chunkAt[place] = chunk;
    this.shared.isUsed[place] = 0;
    this.#queue.insert(place);
    Atomics.store(this.shared.places, chunk, place + 1);
  }

  /** Keeps a published chunk until `unpin`. */
  pin(chunk: number): void {
    assert(this.has(chunk), "only what is here can be pinned");
    Atomics.add(this.shared.pins, this.shared.places[chunk]! - 1, 1);
  }

  unpin(chunk: number): void {
    Atomics.sub(this.shared.pins, this.shared.places[chunk]! - 1, 1);
  }

  /** Drops a chunk, unless somebody copies from it. */
  evict(chunk: number): boolean {
    const { places, pins } = this.shared;
    const place = places[chunk]! - 1;
    if (place < 0) return false;
    // First nobody finds it any more, then we look who has found it before. The reader does the
    // same the other way round, so one of us sees the other.
    Atomics.store(places, chunk, 0);
    if (Atomics.load(pins, place) !== 0) {
      Atomics.store(places, chunk, place + 1);
      return false;
    }
    this.#queue.remove(place);
    this.#chunkAt[place] = -1;
    this.#giveBack(place);
    return true;
  }

  addressOf(place: number): number {
    return this.shared.baseAddress + place * GRAIN_BYTES;
  }

  close(): void {
    this.#region.unmap();
  }

  #evictOne(): boolean {
    const { isUsed, pins } = this.shared;
    const spare = (place: number): boolean => {
      const mustStay = isUsed[place] === 1 || Atomics.load(pins, place) !== 0;
      isUsed[place] = 0;
      return mustStay;
    };
    const place = this.#queue.nextVictim(spare);
    if (place < 0) return false;
    if (this.evict(this.#chunkAt[place]!)) this.evictions += 1;
    return true;
  }

  #takeFree(slotGrains: number): number {
    const open = this.#openBlocks.get(slotGrains);
    const [index] = open ?? [];
    const block = index === undefined ? this.#openBlock(slotGrains) : this.#blocks[index]!;
    if (block === null) return -1;
    const place = block.freePlaces.pop()!;
    if (block.freePlaces.length === 0) {
      this.#openBlocks.get(slotGrains)!.delete(Math.floor(place / GRAINS_PER_BLOCK));
    }
    return place;
  }

  #openBlock(slotGrains: number): Block | null {
    const index = this.#freeBlocks.pop();
    if (index === undefined) return null;
    const slots = GRAINS_PER_BLOCK / slotGrains;
    const first = index * GRAINS_PER_BLOCK;
    const block = {
      slotGrains,
      freePlaces: Array.from({ length: slots }, (_, slot) => first + slot * slotGrains),
    };
    this.#blocks[index] = block;
    const open = this.#openBlocks.get(slotGrains) ?? new Set();
    this.#openBlocks.set(slotGrains, open.add(index));
    return block;
  }

  #giveBack(place: number): void {
    const index = Math.floor(place / GRAINS_PER_BLOCK);
    const block = this.#blocks[index]!;
    block.freePlaces.push(place);
    const open = this.#openBlocks.get(block.slotGrains)!;
    open.add(index);
    if (block.freePlaces.length < GRAINS_PER_BLOCK / block.slotGrains) return;
    open.delete(index);
    this.#blocks[index] = null;
    this.#freeBlocks.push(index);
  }
}

/** 4 KiB, 8 KiB, … 4 MiB, in grains. */
function slotGrainsOf(sizeBytes: number): number {
  let grains = 1;
  while (grains * GRAIN_BYTES < sizeBytes) grains *= 2;
  return grains;
}
