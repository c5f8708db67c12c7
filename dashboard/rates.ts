/** Rates, made of numbers that only grow: how much more than two seconds before. PURE. */

const WINDOW_MS = 2000;

/** The rate of one number. */
export class RateMeter {
  readonly #samples: { readonly atMs: number; readonly value: number }[] = [];

  add(atMs: number, value: number): void {
    const last = this.#samples.at(-1);
    // Another daemon began to count anew.
    if (last !== undefined && (value < last.value || atMs < last.atMs)) this.#samples.length = 0;
    this.#samples.push({ atMs, value });
    while (this.#samples.length > 2 && this.#samples[1]!.atMs <= atMs - WINDOW_MS) {
      this.#samples.shift();
    }
  }

  /** Per second, over the last two seconds. A number that nobody told of did not grow. */
  at(nowMs: number): number {
    const last = this.#samples.at(-1);
    if (last === undefined) return 0;
    const fromMs = nowMs - WINDOW_MS;
    const base = this.#samples.findLast(({ atMs }) => atMs <= fromMs) ?? this.#samples[0]!;
    const spanMs = Math.max(WINDOW_MS / 4, Math.min(WINDOW_MS, nowMs - base.atMs));
    return ((last.value - base.value) / spanMs) * 1000;
  }
}

/** Values over time for a plot: bounded, the oldest go first. */
export class TimeSeries {
  readonly timesS: number[] = [];
  readonly values: number[][];
  readonly #capacity: number;

  constructor(seriesCount: number, capacity: number) {
    this.values = Array.from({ length: seriesCount }, () => []);
    this.#capacity = capacity;
  }

  add(timeS: number, values: readonly number[]): void {
    if (timeS <= (this.timesS.at(-1) ?? 0)) return;
    this.timesS.push(timeS);
    for (const [index, series] of this.values.entries()) series.push(values[index] ?? 0);
    if (this.timesS.length <= this.#capacity) return;
    this.timesS.shift();
    for (const series of this.values) series.shift();
  }
}
