/**
 * Follows a recording as it comes, in pieces of any size: counts what is in it, and knows up to
 * where it is whole. What follows the first damage is not looked at. PURE.
 */
import { VarintReader } from "../base/varints.ts";
import { type Block, BlockType, corrupt, decodeBlock, decodeHeader, parseJson } from "./blocks.ts";
import { type Ending, endings, type RecordingHeader } from "./recording.ts";

export class RecordingScanner {
  readonly #name: string;
  readonly #onBlock: (block: Block) => void;
  #rest: Uint8Array = new Uint8Array(0);
  #header: RecordingHeader | null = null;
  #ending: Ending | null = null;
  #damage: string | null = null;
  records = 0;
  lost = 0;
  /** Lost before the first record. */
  lostInFront = 0;
  /** Up to here nothing is missing: the length of the file without what follows. */
  wholeBytes = 0;

  /** `onBlock`: for each whole block of records; its content is valid until that returns. */
  constructor(name: string, onBlock: (block: Block) => void = () => {}) {
    this.#name = name;
    this.#onBlock = onBlock;
  }

  /** Null: not all of it has come. */
  get header(): RecordingHeader | null {
    return this.#header;
  }

  /** Null: the last block has not come. */
  get ending(): Ending | null {
    return this.#ending;
  }

  /** What is wrong behind `wholeBytes`: for people. */
  get damage(): string | null {
    return this.#damage;
  }

  /** Bytes that have come and belong to no whole block. */
  get restBytes(): number {
    return this.#rest.length;
  }

  /** @throws FaultlineError `trace-corrupt` */
  push(piece: Uint8Array): void {
    if (this.#damage !== null) return;
    const bytes = this.#rest.length === 0 ? piece : joined(this.#rest, piece);
    let at = 0;
    if (this.#header === null) {
      const found = decodeHeader(bytes, this.#name);
      if (found !== null) {
        this.#header = found.header;
        at = found.nextAt;
      }
    }
    if (this.#header !== null) at = this.#takeBlocks(bytes, at);
    this.wholeBytes += at;
    // A copy: the piece is the caller's again.
    this.#rest = bytes.slice(at);
  }

  /** Returns where the first begins that is not whole. */
  #takeBlocks(bytes: Uint8Array, from: number): number {
    let at = from;
    while (at < bytes.length) {
      if (this.#ending !== null) {
        this.#damage = "something follows its end";
        return at;
      }
      const block = decodeBlock(bytes, at);
      if (block === "short") return at;
      if (block === "damaged") {
        this.#damage = "a block does not match its checksum";
        return at;
      }
      if (block.type === BlockType.end) this.#ending = this.#endingOf(block);
      else this.#count(block);
      at = block.nextAt;
    }
    return at;
  }

  #count(block: Block): void {
    const damaged = (what: string): Error => corrupt(this.#name, what);
    const lost = new VarintReader(block.content, 0, damaged).varint();
    if (this.records === 0) this.lostInFront += lost;
    this.lost += lost;
    this.records += block.count;
    this.#onBlock(block);
  }

  #endingOf({ content }: Block): Ending {
    const value = parseJson(content) as { readonly ending?: unknown } | null | undefined;
    const ending = endings.find((each) => each === value?.ending);
    // Of a later version, perhaps: that it has ended is what counts.
    return ending ?? "asked";
  }
}

function joined(first: Uint8Array, second: Uint8Array): Uint8Array {
  const bytes = new Uint8Array(first.length + second.length);
  bytes.set(first);
  bytes.set(second, first.length);
  return bytes;
}
