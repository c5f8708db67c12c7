/**
 * Which chunk lies where in an arena that outlives its process: the arena is a memfd, and this is
 * its first part.
 *
 * ```
 *   0        magic, version, size of the arena          one page
 *   4096     by block of 4 MiB: its slots' size in grains, or 0: it holds nothing
 *   …        by block 64 KiB: by slot an entry of 64 bytes: digest, size, age, chunk id
 *   …        the blocks themselves
 * ```
 *
 * The process may be killed between any two of its instructions, and the next one adopts what is
 * there. So nothing here is believed: an entry only says whose bytes may lie in a place. They are a
 * *candidate*, and become a chunk when their digest was checked, in place, against the id that is
 * demanded. Whatever a death leaves behind can cost a fetch, and never a wrong byte:
 *
 * - Before an entry is written its chunk is whole. Dead before that: the place counts as free.
 * - While it is written: its first word is 0 until the rest stands. If that order is lost, it names
 *   a chunk that nobody asks for, or one whose digest does not match.
 * - Before a place is given to other bytes its entry is 0. Dead in between: the place is free.
 *   Bytes that are written into a place are never named by an entry, as long as that order holds;
 *   where it does not, the digest tells.
 * - While a candidate is checked its entry stays: the next process may check it again.
 * - A block is opened before its first entry is written, and given up after the last one is 0. An
 *   entry that does not fit its block is dropped.
 * - The magic number is written last: a memfd whose maker died holds no arena.
 *
 * There is one writer at a time. Who adopts must know that the earlier process is gone, with all of
 * its threads.
 */
import { fstatSync, ftruncateSync } from "node:fs";
import { assert } from "../base/assert.ts";
import { alignUp, SMALL_PAGE_BYTES } from "../base/units.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { createMemfd, MappedRegion, viewOf } from "../linux/memory.ts";
import { CHUNK_ID_BYTES, chunkId, digests } from "../snapshot/chunk-id.ts";
import type { ChunkDescription } from "./chunk-table.ts";

const MAGIC = 0x464c_4131;
const VERSION = 1;
const ENTRY_BYTES = 64;
const ENTRY_WORDS = ENTRY_BYTES / 4;
/** In an entry, in words. */
const STATE = 0;
const SIZE = 1;
const AGE_LOW = 2;
const AGE_HIGH = 3;
const ID = 4;

/** How an arena is cut. */
export interface ArenaShape {
  readonly blocks: number;
  readonly blockBytes: number;
  readonly grainsPerBlock: number;
}

/** What an entry says of a place. */
export interface ArenaEntry extends ChunkDescription {
  readonly place: number;
  /** Grows with each entry that is written. */
  readonly age: number;
}

export class ArenaDirectory {
  readonly memory: OwnedFd;
  readonly #shape: ArenaShape;
  readonly #region: MappedRegion;
  readonly #header: Int32Array;
  /** By block. */
  readonly #slotGrains: Int32Array;
  /** By block and slot. */
  readonly #entries: Int32Array;
  readonly #bytes: Buffer;
  readonly #entriesAt: number;
  readonly #dataAt: number;
  #age = 0;

  private constructor(memory: OwnedFd, shape: ArenaShape) {
    this.memory = memory;
    this.#shape = shape;
    const { entriesAt, dataAt, sizeBytes } = layoutOf(shape);
    this.#entriesAt = entriesAt;
    this.#dataAt = dataAt;
    this.#region = MappedRegion.shared(memory.fd, sizeBytes);
    // SAFETY: nobody looks into the directory after close().
    const view = viewOf(this.#region.address, dataAt);
    this.#header = new Int32Array(view, 0, SMALL_PAGE_BYTES / 4);
    this.#slotGrains = new Int32Array(view, SMALL_PAGE_BYTES, shape.blocks);
    this.#entries = new Int32Array(view, entriesAt, (dataAt - entriesAt) / 4);
    this.#bytes = Buffer.from(view, 0, dataAt);
  }

  static create(shape: ArenaShape): ArenaDirectory {
    const memory = createMemfd("faultline-arena");
    try {
      ftruncateSync(memory.fd, layoutOf(shape).sizeBytes);
      const directory = new ArenaDirectory(memory, shape);
      directory.#header.set([0, VERSION, shape.blocks]);
      Atomics.store(directory.#header, 0, MAGIC);
      return directory;
    } catch (error) {
      memory.close();
      throw error;
    }
  }

  /** Null: it is no arena of this shape, or of another version. The memory stays the caller's. */
  static adopt(memory: OwnedFd, shape: ArenaShape): ArenaDirectory | null {
    if (fstatSync(memory.fd).size !== layoutOf(shape).sizeBytes) return null;
    const directory = new ArenaDirectory(memory, shape);
    const [magic, version, blocks] = directory.#header;
    if (magic === MAGIC && version === VERSION && blocks === shape.blocks) return directory;
    directory.#region.unmap();
    return null;
  }

  /** Where the first block begins. */
  get baseAddress(): number {
    return this.#region.address + this.#dataAt;
  }

  /** Of a block that `readAll` has found entries in. */
  slotGrainsOf(block: number): number {
    return this.#slotGrains[block]!;
  }

  /** A block holds slots of one size from now on; 0: it holds nothing. */
  setBlock(block: number, slotGrains: number): void {
    this.#slotGrains[block] = slotGrains;
  }

  /** The chunk is whole and verified. */
  write(place: number, chunk: ChunkDescription): void {
    const at = this.#entryOf(place);
    this.#age += 1;
    Atomics.store(this.#entries, at + STATE, 0);
    this.#entries[at + SIZE] = chunk.sizeBytes;
    this.#entries[at + AGE_LOW] = this.#age | 0;
    this.#entries[at + AGE_HIGH] = Math.floor(this.#age / 2 ** 32);
    this.#bytes.write(chunk.id, this.#entriesAt + (at + ID) * 4, "hex");
    Atomics.store(this.#entries, at + STATE, digests.indexOf(chunk.digest) + 1);
  }

  /** The place may be given to other bytes. */
  clear(place: number): void {
    Atomics.store(this.#entries, this.#entryOf(place) + STATE, 0);
  }

  /**
   * What an earlier process has left, the oldest first, each chunk once; all that makes no sense is
   * cleared.
   */
  readAll(): ArenaEntry[] {
    const found: ArenaEntry[] = [];
    for (let block = 0; block < this.#shape.blocks; block++) {
      const slotGrains = this.#slotGrains[block]!;
      if (slotGrains === 0) continue;
      const before = found.length;
      if (this.#isSlotSize(slotGrains)) this.#readBlock(block, slotGrains, found);
      if (found.length === before) this.setBlock(block, 0);
    }
    found.sort((left, right) => left.age - right.age);
    const seen = new Set<string>();
    const entries = found.filter(({ id, place }) => {
      if (seen.has(id)) this.clear(place);
      return seen.size < seen.add(id).size;
    });
    this.#age = found.at(-1)?.age ?? 0;
    return entries;
  }

  close(): void {
    this.#region.unmap();
    this.memory.close();
  }

  #readBlock(block: number, slotGrains: number, found: ArenaEntry[]): void {
    const { grainsPerBlock, blockBytes } = this.#shape;
    const slotBytes = (blockBytes / grainsPerBlock) * slotGrains;
    for (let slot = 0; slot < grainsPerBlock / slotGrains; slot++) {
      const at = (block * grainsPerBlock + slot) * ENTRY_WORDS;
      const state = this.#entries[at + STATE]!;
      if (state === 0) continue;
      const digest = digests[state - 1];
      const sizeBytes = this.#entries[at + SIZE]!;
      if (digest === undefined || sizeBytes <= 0 || sizeBytes > slotBytes) {
        this.#entries[at + STATE] = 0;
        continue;
      }
      const idAt = this.#entriesAt + (at + ID) * 4;
      const id = chunkId(this.#bytes.toString("hex", idAt, idAt + CHUNK_ID_BYTES));
      const age = this.#entries[at + AGE_HIGH]! * 2 ** 32 + (this.#entries[at + AGE_LOW]! >>> 0);
      found.push({ place: block * grainsPerBlock + slot * slotGrains, id, digest, sizeBytes, age });
    }
  }

  /** Where the entry of a place begins, in words. */
  #entryOf(place: number): number {
    const { grainsPerBlock } = this.#shape;
    const block = Math.floor(place / grainsPerBlock);
    const slotGrains = this.#slotGrains[block]!;
    assert(slotGrains > 0, "a place in a block that holds nothing");
    const slot = (place % grainsPerBlock) / slotGrains;
    return (block * grainsPerBlock + slot) * ENTRY_WORDS;
  }

  #isSlotSize(slotGrains: number): boolean {
    return slotGrains > 0 && this.#shape.grainsPerBlock % slotGrains === 0;
  }
}

interface Layout {
  readonly entriesAt: number;
  readonly dataAt: number;
  readonly sizeBytes: number;
}

function layoutOf({ blocks, blockBytes, grainsPerBlock }: ArenaShape): Layout {
  const entriesAt = SMALL_PAGE_BYTES + alignUp(blocks * 4, SMALL_PAGE_BYTES);
  const dataAt = entriesAt + blocks * grainsPerBlock * ENTRY_BYTES;
  return { entriesAt, dataAt, sizeBytes: dataAt + blocks * blockBytes };
}
