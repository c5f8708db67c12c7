/**
 * Packs records into blocks of a recording: each as its difference to the one before, in varints,
 * some seven bytes. PURE.
 *
 * ```
 *   lost before (varint) │ time of the first: its high and its low 32 bits (two varints)
 *   for each record: cause × number of kinds + kind │ time, less the one before, with sign
 *     │ page, less the page behind those of the record before (or 0), with sign │ pages │ cost
 * ```
 */
import { assert } from "../base/assert.ts";
import { MAX_VARINT_BYTES, VarintWriter, zigzag } from "../base/varints.ts";
import { BlockType, encodeBlock, MAX_BLOCK_RECORDS } from "./blocks.ts";
import type { Ending } from "./recording.ts";

/** Varints are below 2^35, and a difference has its sign in the lowest bit. */
const MAX_STEP_US = 2 ** 33;
const MAX_LOST = 2 ** 35 - 1;
const FIELDS = 5;
const FRONT_FIELDS = 3;

export class BlockWriter {
  readonly #kindCount: number;
  readonly #records = new Uint8Array(MAX_BLOCK_RECORDS * FIELDS * MAX_VARINT_BYTES);
  #writer = new VarintWriter(this.#records, 0);
  #count = 0;
  #firstUs = 0;
  #timeUs = 0;
  #expectedPage = 0;

  constructor(kindCount: number) {
    this.#kindCount = kindCount;
  }

  get count(): number {
    return this.#count;
  }

  /** Whether a record of this moment fits; if not, the block has to be taken first. */
  fits(timeUs: number): boolean {
    if (this.#count === 0) return true;
    return this.#count < MAX_BLOCK_RECORDS && Math.abs(timeUs - this.#timeUs) < MAX_STEP_US;
  }

  /** Whole microseconds; `cost` in tenths. */
  add(
    timeUs: number,
    kind: number,
    cause: number,
    page: number,
    pages: number,
    cost: number,
  ): void {
    assert(this.fits(timeUs) && kind < this.#kindCount, "a record that fits, of a known kind");
    if (this.#count === 0) {
      this.#firstUs = timeUs;
      this.#timeUs = timeUs;
    }
    const writer = this.#writer;
    writer.varint(cause * this.#kindCount + kind);
    writer.varint(zigzag(timeUs - this.#timeUs));
    writer.varint(zigzag(page - this.#expectedPage));
    writer.varint(pages);
    writer.varint(cost);
    this.#timeUs = timeUs;
    this.#expectedPage = page + pages;
    this.#count += 1;
  }

  /** The block so far; what is added then belongs to the next one. */
  take(lost: number): Uint8Array {
    const content = new Uint8Array(FRONT_FIELDS * MAX_VARINT_BYTES + this.#writer.at);
    const writer = new VarintWriter(content, 0);
    writer.varint(Math.min(lost, MAX_LOST));
    writer.varint(Math.floor(this.#firstUs / 2 ** 32));
    writer.varint(this.#firstUs % 2 ** 32);
    writer.bytes(this.#records.subarray(0, this.#writer.at));
    const block = encodeBlock(BlockType.records, this.#count, content.subarray(0, writer.at));
    this.#writer = new VarintWriter(this.#records, 0);
    this.#count = 0;
    this.#firstUs = 0;
    this.#expectedPage = 0;
    return block;
  }
}

/** The last block. */
export function encodeEnd(ending: Ending): Uint8Array {
  const content = new TextEncoder().encode(JSON.stringify({ ending }));
  return encodeBlock(BlockType.end, 0, content);
}
