/**
 * What the warm service of the Linux guest must answer (test/guest/warm-service.c), computed from
 * the same seed without the guest.
 */
import { createHash } from "node:crypto";

// The same numbers stand in warm-service.c.
export const GOLDEN = 0x9e37_79b9;
const ENTRY_COUNT = 2 ** 21;
export const NODE_COUNT = 2 ** 19;
export const WORD_COUNT = 2 ** 22;
export const FILE_COUNT = 16;
const FILE_WORDS = 2 ** 14;

/** Keys are told by numbers from 1 to this; the lower half is in the table from the start. */
export const KEY_LIMIT = 2 * ENTRY_COUNT;

export class GuestOracle {
  readonly #seed: number;
  /** Values by the number of their key. */
  readonly #changes = new Map<number, number>();
  readonly #fileSeeds: number[];
  readonly #nextNodes: Uint32Array;

  constructor(seed: number) {
    this.#seed = seed >>> 0;
    this.#fileSeeds = Array.from({ length: FILE_COUNT }, (_, file) => this.#seed + file);
    this.#nextNodes = shuffledRing(this.#seed);
  }

  /** For another guest that knows what this one knows, and then goes its own way. */
  copy(): GuestOracle {
    const copy = new GuestOracle(this.#seed);
    for (const [keyNumber, value] of this.#changes) copy.set(keyNumber, value);
    for (const [file, seed] of this.#fileSeeds.entries()) copy.store(file, seed);
    return copy;
  }

  get(keyNumber: number): string {
    const value = this.#changes.get(keyNumber);
    if (value !== undefined) return String(value);
    return keyNumber <= ENTRY_COUNT ? String(scramble(keyOf(keyNumber) ^ this.#seed)) : "none";
  }

  /** Answers what was there. */
  set(keyNumber: number, value: number): string {
    const before = this.get(keyNumber);
    this.#changes.set(keyNumber, value);
    return before;
  }

  chase(start: number, steps: number): string {
    let node = start;
    let sum = 0;
    for (let step = 0; step < steps; step++) {
      sum = (sum + wordOf(~this.#seed, node)) >>> 0;
      node = this.#nextNodes[node]!;
    }
    return `${node} ${sum}`;
  }

  sum(first: number, end: number): string {
    let sum = 0;
    for (let index = first; index < end; index++) sum = (sum + this.word(index)) >>> 0;
    return String(sum);
  }

  word(index: number): number {
    return wordOf(this.#seed, index);
  }

  store(file: number, seed: number): string {
    this.#fileSeeds[file] = seed;
    return "stored";
  }

  hash(file: number): string {
    const words = Uint32Array.from({ length: FILE_WORDS }, (_, index) =>
      wordOf(this.#fileSeeds[file]!, index),
    );
    return sha256(words);
  }
}

/** Key numbers are spread over 32 bits, one to one. */
export function keyOf(keyNumber: number): number {
  return scramble(keyNumber);
}

export function sha256(content: Uint8Array | Uint32Array): string {
  return createHash("sha256").update(content).digest("hex");
}

function scramble(value: number): number {
  let mixed = Math.imul(value ^ (value >>> 16), 0x21f0_aaad);
  mixed = Math.imul(mixed ^ (mixed >>> 15), 0x735a_2d97);
  return (mixed ^ (mixed >>> 15)) >>> 0;
}

function wordOf(seed: number, index: number): number {
  return scramble(seed + Math.imul(index, GOLDEN));
}

/** Sattolo's shuffle, step for step as in the guest: where each node of the ring points to. */
function shuffledRing(seed: number): Uint32Array {
  const next = Uint32Array.from({ length: NODE_COUNT }, (_, node) => node);
  for (let node = NODE_COUNT - 1; node >= 1; node--) {
    const other = wordOf(seed, node) % node;
    const kept = next[node]!;
    next[node] = next[other]!;
    next[other] = kept;
  }
  return next;
}
