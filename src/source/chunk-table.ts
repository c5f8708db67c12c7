/**
 * The chunks that a process knows, by number and digest, in columns: an image of 8 GiB has 32,768,
 * and VMs wait while a process that takes over learns what its images are. An object and a
 * string for each take several times as long.
 */
import { randomInt } from "node:crypto";
import {
  CHUNK_ID_BYTES,
  type ChunkId,
  chunkId,
  type Digest,
  digests,
} from "../snapshot/chunk-id.ts";

export interface ChunkDescription {
  readonly id: ChunkId;
  readonly digest: Digest;
  readonly sizeBytes: number;
}

export const ID_WORDS = CHUNK_ID_BYTES / 4;
const FIRST_CAPACITY = 1024;
/** Whoever makes an index chooses its ids: they must not all fall into one slot. */
const SEED = randomInt(2 ** 31);

export class ChunkTable {
  #count = 0;
  #ids = new Int32Array(FIRST_CAPACITY * ID_WORDS);
  #sizes = new Int32Array(FIRST_CAPACITY);
  #digests = new Uint8Array(FIRST_CAPACITY);
  #origins = new Uint16Array(FIRST_CAPACITY);
  /** By hash, the number + 1, or 0; at most half of it is taken. */
  #slots = new Int32Array(2 * FIRST_CAPACITY);

  get count(): number {
    return this.#count;
  }

  /** The number of the chunk whose id begins at word `at`, or -1. */
  find(ids: Int32Array, at: number): number {
    return this.#slots[this.#slotOf(ids, at)]! - 1;
  }

  /** A chunk that is not there yet. Returns its number. */
  add(ids: Int32Array, at: number, digest: Digest, sizeBytes: number): number {
    if (this.#count === this.#sizes.length) this.#grow();
    const number = this.#count++;
    this.#ids.set(ids.subarray(at, at + ID_WORDS), number * ID_WORDS);
    this.#sizes[number] = sizeBytes;
    this.#digests[number] = digests.indexOf(digest);
    this.#slots[this.#slotOf(ids, at)] = number + 1;
    return number;
  }

  sizeBytes(number: number): number {
    return this.#sizes[number]!;
  }

  digest(number: number): Digest {
    return digests[this.#digests[number]!]!;
  }

  describe(number: number): ChunkDescription {
    const bytes = Buffer.from(this.#ids.buffer, number * CHUNK_ID_BYTES, CHUNK_ID_BYTES);
    const [digest, sizeBytes] = [this.digest(number), this.sizeBytes(number)];
    return { id: chunkId(bytes.toString("hex")), digest, sizeBytes };
  }

  /** Where the chunk is to be had: a number that means something to the caller; 0 at first. */
  origins(number: number): number {
    return this.#origins[number]!;
  }

  setOrigins(number: number, origins: number): void {
    this.#origins[number] = origins;
  }

  /** The slot that holds the id, or where it belongs. */
  #slotOf(ids: Int32Array, at: number): number {
    const mask = this.#slots.length - 1;
    let slot = hashOf(ids, at) & mask;
    for (;;) {
      const number = this.#slots[slot]! - 1;
      if (number < 0 || isSame(this.#ids, number * ID_WORDS, ids, at)) return slot;
      slot = (slot + 1) & mask;
    }
  }

  #grow(): void {
    const capacity = 2 * this.#sizes.length;
    const widen = <Column extends Int32Array | Uint16Array | Uint8Array>(
      wide: Column,
      column: Column,
    ): Column => {
      wide.set(column);
      return wide;
    };
    this.#ids = widen(new Int32Array(capacity * ID_WORDS), this.#ids);
    this.#sizes = widen(new Int32Array(capacity), this.#sizes);
    this.#digests = widen(new Uint8Array(capacity), this.#digests);
    this.#origins = widen(new Uint16Array(capacity), this.#origins);
    this.#slots = new Int32Array(2 * capacity);
    for (let number = 0; number < this.#count; number++) {
      this.#slots[this.#slotOf(this.#ids, number * ID_WORDS)] = number + 1;
    }
  }
}

/** Ids as words, as the table takes them. */
export function idWords(ids: Uint8Array): Int32Array {
  return new Int32Array(new Uint8Array(ids).buffer);
}

function hashOf(ids: Int32Array, at: number): number {
  let hash = SEED;
  for (let word = at; word < at + ID_WORDS; word++) {
    hash = Math.imul(hash ^ ids[word]!, 0x9e37_79b1);
    hash ^= hash >>> 15;
  }
  return hash >>> 0;
}

function isSame(left: Int32Array, leftAt: number, right: Int32Array, rightAt: number): boolean {
  for (let word = 0; word < ID_WORDS; word++) {
    if (left[leftAt + word] !== right[rightAt + word]) return false;
  }
  return true;
}
