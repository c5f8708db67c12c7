/**
 * Guests that do what a recorded one did: a passage of its touches, in its order, with its pauses.
 * Each world plays another passage, drawn from its seed. Pages keep their order and who is whose
 * neighbour; wide gaps between them become narrow, as virtual kernels are small. PURE.
 */
import type { Random } from "./random.ts";

/** What a guest touched, in order, and how long it computed before each. */
export interface Demands {
  readonly pages: Uint32Array;
  readonly thinkUs: Uint32Array;
}

/** With the gaps fewer pages than the rounds in which a world has to come to rest. */
const MAX_TOUCHES = 64;
/** Between pages that are no neighbours. */
const GAP_PAGES = 2;
/** A step is 20 us: nothing is learnt from steps in which nobody does anything. */
const MAX_THINK_US = 400;

export class Passage {
  /** Pages that there have to be. */
  readonly pageCount: number;
  readonly #pages: readonly number[];
  readonly #thinkUs: readonly number[];
  /** The guest has one vCPU: it touches nothing while it waits. */
  readonly #isSerial: boolean;
  #next = 0;
  #waiting = 0;
  #sinceUs = 0;

  constructor(random: Random, { pages, thinkUs }: Demands) {
    const length = Math.min(MAX_TOUCHES, pages.length);
    const first = random.below(pages.length - length + 1);
    const passage = Array.from(pages.subarray(first, first + length));
    const places = renumber(passage);
    this.#pages = passage.map((page) => places.get(page)!);
    this.#thinkUs = Array.from(thinkUs.subarray(first, first + length), (us) =>
      Math.min(us, MAX_THINK_US),
    );
    // The other regions and layers need a few.
    this.pageCount = Math.max(4, ...this.#pages.map((page) => page + 1));
    this.#isSerial = random.chance(0.5);
  }

  get isOver(): boolean {
    return this.#next === this.#pages.length;
  }

  /**
   * The page that a thread without work touches now; null: none yet. `busy`: threads that wait for
   * pages, or have not gone on since.
   */
  touch(busy: number, nowUs: number): number | null {
    if (busy < this.#waiting) this.#sinceUs = nowUs;
    this.#waiting = busy;
    if (this.#isSerial && busy > 0) return null;
    if (nowUs < this.#sinceUs + this.#thinkUs[this.#next]!) return null;
    this.#sinceUs = nowUs;
    return this.#pages[this.#next++]!;
  }
}

function renumber(pages: readonly number[]): ReadonlyMap<number, number> {
  const sorted = [...new Set(pages)].sort((a, b) => a - b);
  const places = new Map<number, number>();
  let place = 0;
  sorted.forEach((page, index) => {
    const gap = index === 0 ? page : page - sorted[index - 1]! - 1;
    place += Math.min(gap, GAP_PAGES);
    places.set(page, place++);
  });
  return places;
}
