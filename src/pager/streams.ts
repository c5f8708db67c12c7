/**
 * Finds faults that walk through memory: each begins where the last one's pages ended. Guests
 * rarely fault the next page next, but scans do, several at once with several threads. A stream
 * that goes on gets more pages at each fault; at the first fault elsewhere it ends by itself.
 *
 * Random faults pay some comparisons, and extra pages only where they happen to hit the page after
 * an earlier one: no more than two then. PURE, and no allocation after construction.
 */

/** Streams followed at the same time; the one that was silent for longest gives way. */
const STREAMS = 16;
/** What a stream gets that has just begun: its second fault is no proof yet. */
const FIRST_STEP = 2;

export class Streams {
  readonly #maxPages: number;
  /** The page of the stream's last fault, where its next one is expected, and what it gets. */
  readonly #heads = new Float64Array(STREAMS).fill(-1);
  readonly #nexts = new Float64Array(STREAMS).fill(-1);
  readonly #steps = new Uint32Array(STREAMS);
  readonly #usedAt = new Float64Array(STREAMS);
  #clock = 0;

  /** `maxPages`: the most that one fault of a stream gets. */
  constructor(maxPages: number) {
    this.#maxPages = maxPages;
  }

  /** A page was demanded for the first time. */
  observe(page: number): void {
    this.#clock += 1;
    const stream = this.#following(page);
    if (stream >= 0) {
      const step = this.#steps[stream]! * 2;
      this.#steps[stream] = step < this.#maxPages ? step : this.#maxPages;
      this.#go(stream, page);
      return;
    }
    const oldest = this.#oldest();
    this.#steps[oldest] = FIRST_STEP / 2;
    this.#go(oldest, page);
  }

  /** How many pages the fault on `page` shall bring, itself included. */
  pagesFrom(page: number): number {
    for (let stream = 0; stream < STREAMS; stream++) {
      if (this.#heads[stream] === page) return this.#steps[stream]!;
    }
    return 1;
  }

  /** It brings them up to `end`, exclusive: there the next fault is expected. */
  expect(page: number, end: number): void {
    for (let stream = 0; stream < STREAMS; stream++) {
      if (this.#heads[stream] === page) this.#nexts[stream] = end;
    }
  }

  /**
   * The stream that goes on at `page`, of several the longest. Pages that were there already do not
   * end it.
   */
  #following(page: number): number {
    let best = -1;
    for (let stream = 0; stream < STREAMS; stream++) {
      const next = this.#nexts[stream]!;
      if (next < 0 || page < next || page >= next + this.#steps[stream]!) continue;
      if (best < 0 || this.#steps[stream]! > this.#steps[best]!) best = stream;
    }
    return best;
  }

  #go(stream: number, page: number): void {
    this.#heads[stream] = page;
    this.#nexts[stream] = page + this.#steps[stream]!;
    this.#usedAt[stream] = this.#clock;
  }

  #oldest(): number {
    let oldest = 0;
    for (let stream = 1; stream < STREAMS; stream++) {
      if (this.#usedAt[stream]! < this.#usedAt[oldest]!) oldest = stream;
    }
    return oldest;
  }
}
