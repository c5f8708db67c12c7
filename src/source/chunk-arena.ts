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
 *
 * With a directory (`arena-directory.ts`) the memory outlives the process. What an earlier one has
 * left are candidates: they take their places, may be evicted, the oldest first, and are nobody's
 * chunks until somebody takes one out (`takeCandidate`), verifies it, and publishes it again.
 */
import { assert } from "../base/assert.ts";
import { MappedRegion } from "../linux/memory.ts";
import type { ChunkId } from "../snapshot/chunk-id.ts";
import type { ArenaDirectory, ArenaEntry, ArenaShape } from "./arena-directory.ts";
import type { ChunkDescription } from "./chunk-table.ts";
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

/** Of `#chunkAt`: nothing is there, or what an earlier process has left. */
const NONE = -1;
const CANDIDATE = -2;

/** How much memory an arena of so many bytes has: whole blocks, at least one. */
export function arenaShape(sizeBytes: number): ArenaShape {
  const blocks = Math.floor(sizeBytes / BLOCK_BYTES);
  assert(blocks >= 1, "an arena holds at least one block");
  return { blocks, blockBytes: BLOCK_BYTES, grainsPerBlock: GRAINS_PER_BLOCK };
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
  /** Null: the memory is this process's own, and goes with it. */
  readonly directory: ArenaDirectory | null;
  readonly #region: MappedRegion | null;
  readonly #blocks: (Block | null)[];
  readonly #freeBlocks: number[] = [];
  /** Blocks of each slot size that have a free place. */
  readonly #openBlocks = new Map<number, Set<number>>();
  readonly #queue: Sieve;
  /** By place: the published chunk, CANDIDATE or NONE. */
  readonly #chunkAt: Int32Array;
  #usedGrains = 0;
  readonly #candidates = new Map<ChunkId, ArenaEntry>();
  readonly #candidateAt = new Map<number, ChunkId>();

  /**
   * `sizeBytes` is rounded down to blocks of 4 MiB; at least one. `directory`, if given, has been
   * made for as many (`arenaShape`), and is closed with the arena.
   */
  constructor(sizeBytes: number, directory: ArenaDirectory | null = null) {
    const { blocks } = arenaShape(sizeBytes);
    const grains = blocks * GRAINS_PER_BLOCK;
    this.sizeBytes = blocks * BLOCK_BYTES;
    this.directory = directory;
    this.#region = directory === null ? MappedRegion.anonymous(this.sizeBytes) : null;
    this.shared = {
      baseAddress: this.#region?.address ?? directory!.baseAddress,
      places: new Int32Array(new SharedArrayBuffer(MAX_CHUNKS * 4)),
      pins: new Int32Array(new SharedArrayBuffer(grains * 4)),
      isUsed: new Uint8Array(new SharedArrayBuffer(grains)),
    };
    this.#blocks = new Array(blocks).fill(null);
    this.#queue = new Sieve(grains);
    this.#chunkAt = new Int32Array(grains).fill(NONE);
    if (directory !== null) this.#adopt(directory);
    for (let index = blocks - 1; index >= 0; index--) {
      if (this.#blocks[index] === null) this.#freeBlocks.push(index);
    }
  }

  get chunkCount(): number {
    return this.#queue.size - this.#candidates.size;
  }

  /** What an earlier process has left, and nobody has asked for yet. */
  get candidateCount(): number {
    return this.#candidates.size;
  }

  /** Bytes of places that are taken, by chunks and candidates. */
  get usedBytes(): number {
    return this.#usedGrains * GRAIN_BYTES;
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

  /**
   * Where an earlier process has left what may be this chunk, or -1. The place counts as reserved
   * from now on: verify what lies there, then `publish` or `discard` it.
   */
  takeCandidate({ id, digest, sizeBytes }: ChunkDescription): number {
    const entry = this.#candidates.get(id);
    if (entry === undefined || entry.digest !== digest || entry.sizeBytes !== sizeBytes) return -1;
    this.#forgetCandidate(entry.place);
    return entry.place;
  }

  /**
   * From now on workers find the chunk. Its bytes must be whole and verified. Who describes it may
   * find it again in a next process.
   */
  publish(chunk: number, place: number, description: ChunkDescription | null = null): void {
    assert(!this.has(chunk), "published twice");
    this.#chunkAt[place] = chunk;
    this.shared.isUsed[place] = 0;
    this.#queue.insert(place);
    Atomics.store(this.shared.places, chunk, place + 1);
    if (description !== null) this.directory?.write(place, description);
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
    this.#chunkAt[place] = NONE;
    this.#giveBack(place);
    return true;
  }

  addressOf(place: number): number {
    return this.shared.baseAddress + place * GRAIN_BYTES;
  }

  /** Of the block around an address; no chunk lies in two. */
  blockAddressOf(address: number): number {
    return address - ((address - this.shared.baseAddress) % BLOCK_BYTES);
  }

  close(): void {
    this.#region?.unmap();
    this.directory?.close();
  }

  /** All places that an entry names are taken; the others of their blocks are free. */
  #adopt(directory: ArenaDirectory): void {
    for (const entry of directory.readAll()) {
      const { place, id } = entry;
      const index = Math.floor(place / GRAINS_PER_BLOCK);
      this.#blocks[index] ??= newBlock(index, directory.slotGrainsOf(index));
      this.#chunkAt[place] = CANDIDATE;
      this.#candidates.set(id, entry);
      this.#candidateAt.set(place, id);
      this.#queue.insert(place);
    }
    for (const [index, block] of this.#blocks.entries()) {
      if (block === null) continue;
      const slots = block.freePlaces.length;
      const free = block.freePlaces.filter((place) => this.#chunkAt[place] === NONE);
      block.freePlaces.splice(0, slots, ...free);
      this.#usedGrains += (slots - free.length) * block.slotGrains;
      if (free.length > 0) this.#openBlocksOf(block.slotGrains).add(index);
    }
  }

  #forgetCandidate(place: number): void {
    this.#candidates.delete(this.#candidateAt.get(place)!);
    this.#candidateAt.delete(place);
    this.#queue.remove(place);
    this.#chunkAt[place] = NONE;
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
    if (this.#chunkAt[place] === CANDIDATE) {
      this.#forgetCandidate(place);
      this.#giveBack(place);
      this.evictions += 1;
      return true;
    }
    if (this.evict(this.#chunkAt[place]!)) this.evictions += 1;
    return true;
  }

  #takeFree(slotGrains: number): number {
    const open = this.#openBlocks.get(slotGrains);
    const [index] = open ?? [];
    const block = index === undefined ? this.#openBlock(slotGrains) : this.#blocks[index]!;
    if (block === null) return -1;
    const place = block.freePlaces.pop()!;
    this.#usedGrains += slotGrains;
    if (block.freePlaces.length === 0) {
      this.#openBlocks.get(slotGrains)!.delete(Math.floor(place / GRAINS_PER_BLOCK));
    }
    return place;
  }

  #openBlock(slotGrains: number): Block | null {
    const index = this.#freeBlocks.pop();
    if (index === undefined) return null;
    const block = newBlock(index, slotGrains);
    this.#blocks[index] = block;
    this.#openBlocksOf(slotGrains).add(index);
    this.directory?.setBlock(index, slotGrains);
    return block;
  }

  #openBlocksOf(slotGrains: number): Set<number> {
    const open = this.#openBlocks.get(slotGrains) ?? new Set();
    this.#openBlocks.set(slotGrains, open);
    return open;
  }

  #giveBack(place: number): void {
    // Before other bytes can come here.
    this.directory?.clear(place);
    const index = Math.floor(place / GRAINS_PER_BLOCK);
    const block = this.#blocks[index]!;
    this.#usedGrains -= block.slotGrains;
    block.freePlaces.push(place);
    const open = this.#openBlocksOf(block.slotGrains);
    open.add(index);
    if (block.freePlaces.length < GRAINS_PER_BLOCK / block.slotGrains) return;
    open.delete(index);
    this.#blocks[index] = null;
    this.directory?.setBlock(index, 0);
    this.#freeBlocks.push(index);
  }
}

function newBlock(index: number, slotGrains: number): Block {
  const slots = GRAINS_PER_BLOCK / slotGrains;
  const first = index * GRAINS_PER_BLOCK;
  const freePlaces = Array.from({ length: slots }, (_, slot) => first + slot * slotGrains);
  return { slotGrains, freePlaces };
}

/** 4 KiB, 8 KiB, … 4 MiB, in grains. */
function slotGrainsOf(sizeBytes: number): number {
  let grains = 1;
  while (grains * GRAIN_BYTES < sizeBytes) grains *= 2;
  return grains;
}
