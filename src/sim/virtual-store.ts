/**
 * Where the bytes of snapshots lie that are not in memory: parts that come some time after they
 * were asked for, or are lost for good, and that may be evicted again once nobody waits for them.
 * All VMs of a world share it, as VMs share a cache. PURE.
 */
import type { Random } from "./random.ts";
import type { Tally } from "./tally.ts";

/** How likely an answer is a loss, and how likely a part goes at each step. */
export interface StoreWeather {
  readonly loss: number;
  readonly eviction: number;
}

export interface StoreAnswer {
  readonly part: number;
  readonly isLost: boolean;
}

export class VirtualStore {
  readonly #random: Random;
  readonly #weather: StoreWeather;
  readonly #tally: Tally;
  readonly #present = new Set<number>();
  readonly #asked = new Set<number>();
  readonly #everLost = new Set<number>();

  constructor(random: Random, weather: StoreWeather, tally: Tally) {
    this.#random = random;
    this.#weather = weather;
    this.#tally = tally;
  }

  has(part: number): boolean {
    return this.#present.has(part);
  }

  /** Whether an answer has said so, at any time. */
  wasLost(part: number): boolean {
    return this.#everLost.has(part);
  }

  ask(part: number): void {
    this.#asked.add(part);
  }

  get isQuiet(): boolean {
    return this.#asked.size === 0;
  }

  /** The answer to one of those that were asked for, in any order. In a calm nothing is lost. */
  answer(isCalm: boolean): StoreAnswer | null {
    if (this.#asked.size === 0) return null;
    const part = this.#random.pick([...this.#asked]);
    this.#asked.delete(part);
    const isLost = !isCalm && this.#random.chance(this.#weather.loss);
    this.#tally.add(isLost ? "part lost" : "part arrived");
    if (isLost) this.#everLost.add(part);
    else this.#present.add(part);
    return { part, isLost };
  }

  /** A part may go, to make room. */
  step(): void {
    if (this.#present.size === 0 || !this.#random.chance(this.#weather.eviction)) return;
    this.#present.delete(this.#random.pick([...this.#present]));
    this.#tally.add("part evicted");
  }
}
