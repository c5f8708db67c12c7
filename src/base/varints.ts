/**
 * Varints: whole numbers with seven bits a byte, the low ones first, the top bit set where another
 * byte follows. At most five bytes, and no more than the number needs: each has one encoding. PURE.
 */

export const MAX_VARINT_BYTES = 5;

/** Small differences in both directions become small numbers: 0, -1, 1, -2, … */
export function zigzag(value: number): number {
  return value >= 0 ? value * 2 : -value * 2 - 1;
}

export function unzigzag(value: number): number {
  return value % 2 === 0 ? value / 2 : -(value + 1) / 2;
}

export class VarintWriter {
  at: number;
  readonly #bytes: Uint8Array;

  constructor(bytes: Uint8Array, at: number) {
    this.#bytes = bytes;
    this.at = at;
  }

  varint(value: number): void {
    let rest = value;
    for (; rest >= 128; rest = Math.floor(rest / 128)) this.#bytes[this.at++] = (rest % 128) + 128;
    this.#bytes[this.at++] = rest;
  }

  bytes(values: Uint8Array): void {
    this.#bytes.set(values, this.at);
    this.at += values.length;
  }
}

/** Reads bytes that nobody has vouched for. */
export class VarintReader {
  readonly #bytes: Uint8Array;
  readonly #damaged: (what: string) => Error;
  #at: number;

  /** `damaged`: the error to throw, from the end of a sentence such as "it ends too early". */
  constructor(bytes: Uint8Array, at: number, damaged: (what: string) => Error) {
    this.#bytes = bytes;
    this.#at = at;
    this.#damaged = damaged;
  }

  get isAtEnd(): boolean {
    return this.#at === this.#bytes.length;
  }

  varint(): number {
    let value = 0;
    for (let place = 0; place < MAX_VARINT_BYTES; place++) {
      this.expect(this.#at < this.#bytes.length, "it ends too early");
      const byte = this.#bytes[this.#at++]!;
      value += (byte & 127) * 128 ** place;
      if (byte >= 128) continue;
      this.expect(byte > 0 || place === 0, "a number in it is longer than it need be");
      return value;
    }
    throw this.#damaged("a number in it is too large");
  }

  bytes(count: number): Uint8Array {
    this.expect(this.#at + count <= this.#bytes.length, "it ends too early");
    this.#at += count;
    return new Uint8Array(this.#bytes.subarray(this.#at - count, this.#at));
  }

  expect(isTrue: boolean, what: string): void {
    if (!isTrue) throw this.#damaged(what);
  }
}
