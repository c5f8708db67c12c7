/**
 * The part of bitcode 0.6 (a Rust serializer) that fault messages are made of. Fields follow each
 * other without names, tags or padding:
 *
 * | type   | bytes                                                                          |
 * | ------ | ------------------------------------------------------------------------------ |
 * | u32    | header 4, 2 or 0, then 1, 2 or 4 bytes, little-endian: the narrowest that fits |
 * | u64    | header 6, 4, 2 or 0, then 1, 2, 4 or 8 bytes                                   |
 * | Option | 0; or 1 and the value                                                          |
 * | bool   | 0 or 1                                                                         |
 *
 * Written is that form only. Read is what the crate reads: wider forms too, flags by their lowest
 * bit, and odd headers: a minimum in full width, then a narrow number to be added to it.
 *
 * Numbers end at 2^53: no address and no flag of this protocol lies beyond. PURE.
 */
import { assert } from "../base/assert.ts";

const TWO_32 = 2 ** 32;
const TWO_64 = 2 ** 64;

/** Writes into memory that is used again and again: nothing is allocated. */
export class BitcodeWriter {
  readonly #bytes: Uint8Array;
  readonly #view: DataView;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
    this.#view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  }

  /** Where the next byte goes. */
  get position(): number {
    return this.#at;
  }

  seek(position: number): void {
    this.#at = position;
  }

  u32(value: number): void {
    assert(Number.isInteger(value) && value >= 0 && value < TWO_32, `${value} is no u32`);
    this.#integer(value, 4);
  }

  u64(value: number): void {
    assert(Number.isSafeInteger(value) && value >= 0, `${value} is no u64 below 2^53`);
    this.#integer(value, 8);
  }

  /** True if a value follows. */
  flag(value: boolean): void {
    this.#bytes[this.#at++] = value ? 1 : 0;
  }

  #integer(value: number, fullBytes: 4 | 8): void {
    const at = this.#at + 1;
    const widthBytes = value <= 0xff ? 1 : value <= 0xffff ? 2 : value < TWO_32 ? 4 : 8;
    // Header 0 is the full width, and each step of 2 is half of it.
    this.#bytes[this.#at] = 2 * Math.log2(fullBytes / widthBytes);
    if (widthBytes === 1) this.#bytes[at] = value;
    else if (widthBytes === 2) this.#view.setUint16(at, value, true);
    else this.#view.setUint32(at, value >>> 0, true);
    if (widthBytes === 8) this.#view.setUint32(at + 4, value / TWO_32, true);
    this.#at = at + widthBytes;
  }
}

/**
 * Reads fields one after the other. What cannot be read makes `isGood` false and gives zeroes from
 * then on, so that a caller asks once, at the end.
 */
export class BitcodeReader {
  #view: DataView = new DataView(new ArrayBuffer(0));
  #at = 0;
  #end = 0;
  #isBad = false;

  reset(bytes: Uint8Array): void {
    // A stream's frames lie in few buffers; a view of each would be garbage for every message.
    if (this.#view.buffer !== bytes.buffer) this.#view = new DataView(bytes.buffer);
    this.#at = bytes.byteOffset;
    this.#end = bytes.byteOffset + bytes.length;
    this.#isBad = false;
  }

  /** All that was read was there, and nothing is left over. */
  get isComplete(): boolean {
    return !this.#isBad && this.#at === this.#end;
  }

  u32(): number {
    return this.#integer(4, TWO_32);
  }

  u64(): number {
    const value = this.#integer(8, TWO_64);
    if (!Number.isSafeInteger(value)) this.#isBad = true;
    return this.#isBad ? 0 : value;
  }

  flag(): boolean {
    return (this.#number(1) & 1) !== 0;
  }

  #integer(fullBytes: 4 | 8, modulus: number): number {
    const header = this.#number(1);
    const widthBytes = fullBytes >>> Math.ceil(header / 2);
    if (widthBytes === 0 || header > 7) this.#isBad = true;
    if (this.#isBad) return 0;
    if (header % 2 === 0) return this.#number(widthBytes);
    const minimum = this.#number(fullBytes);
    // Beyond 2^53 the sum would be rounded; a smaller one cannot wrap around as u64.
    if (!Number.isSafeInteger(minimum)) this.#isBad = true;
    return (minimum + this.#number(widthBytes)) % modulus;
  }

  #number(widthBytes: number): number {
    const at = this.#at;
    if (this.#isBad || at + widthBytes > this.#end) {
      this.#isBad = true;
      return 0;
    }
    this.#at = at + widthBytes;
    if (widthBytes === 1) return this.#view.getUint8(at);
    if (widthBytes === 2) return this.#view.getUint16(at, true);
    const low = this.#view.getUint32(at, true);
    return widthBytes === 4 ? low : low + this.#view.getUint32(at + 4, true) * TWO_32;
  }
}
