/**
 * A fault worker's way to chunks in the arena. Between `acquire` and `releaseAll` a chunk stays
 * where it is, so that the kernel copies from it what was verified and nothing else.
 */
import { assert } from "../base/assert.ts";
import { GRAIN_BYTES, type SharedArena } from "./chunk-arena.ts";

/** A huge page made of the smallest chunks takes 512 of them, and parts of two more. */
const MAX_HELD = 1024;

export class ArenaReader {
  readonly #arena: SharedArena;
  readonly #held = new Int32Array(MAX_HELD);
  #heldCount = 0;

  constructor(arena: SharedArena) {
    this.#arena = arena;
  }

  /** The address of a chunk's first byte, or 0 if it is not here. */
  acquire(chunk: number): number {
    const { places, pins, isUsed, baseAddress } = this.#arena;
    const place = Atomics.load(places, chunk) - 1;
    if (place < 0) return 0;
    Atomics.add(pins, place, 1);
    // Only from here on it cannot be evicted; it may have been just before.
    if (Atomics.load(places, chunk) - 1 !== place) {
      Atomics.sub(pins, place, 1);
      return 0;
    }
    assert(this.#heldCount < MAX_HELD, "more chunks held than one page can need");
    this.#held[this.#heldCount++] = place;
    isUsed[place] = 1;
    return baseAddress + place * GRAIN_BYTES;
  }

  releaseAll(): void {
    for (let index = 0; index < this.#heldCount; index++) {
      Atomics.sub(this.#arena.pins, this.#held[index]!, 1);
    }
    this.#heldCount = 0;
  }
}
