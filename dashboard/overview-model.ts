/** What is known of the host and of all sessions, kept up to date by the events. PURE. */
import type {
  Overview,
  OverviewNumbers,
  OverviewUpdate,
  SessionRow,
} from "../src/daemon/dashboard/protocol.ts";
import { LatencyWindow } from "./latency.ts";
import { RateMeter, TimeSeries } from "./rates.ts";
import type { ListedSession } from "./session-order.ts";

/** Two minutes of events, two a second. */
const PLOTTED_POINTS = 240;

export class OverviewModel {
  #known: Overview | null = null;
  readonly #rows = new Map<string, SessionRow>();
  readonly #meters = new Map<string, RateMeter>();
  readonly #faults = new RateMeter();
  readonly #pages = new RateMeter();
  readonly latency = new LatencyWindow();
  /** Faults and installed pages per second. */
  readonly rates = new TimeSeries(2, PLOTTED_POINTS);

  /** Null until the first event. */
  get known(): Overview | null {
    return this.#known;
  }

  get sessionCount(): number {
    return this.#rows.size;
  }

  /** The first VM that is attached; null: none is. */
  get firstAttached(): SessionRow | null {
    return [...this.#rows.values()].find(({ state }) => state === "attached") ?? null;
  }

  session(id: string): SessionRow | null {
    return this.#rows.get(id) ?? null;
  }

  replace(overview: Overview, nowMs: number): void {
    this.#known = overview;
    const listed = new Set(overview.sessions.map(({ id }) => id));
    for (const id of this.#rows.keys()) if (!listed.has(id)) this.#forget(id);
    for (const row of overview.sessions) this.#takeRow(row, nowMs);
    this.#takeNumbers(overview.numbers, nowMs);
  }

  update(update: OverviewUpdate, nowMs: number): void {
    if (this.#known === null) return;
    const { gone = [], sessions = [], ...parts } = update;
    this.#known = { ...this.#known, ...parts };
    for (const id of gone) this.#forget(id);
    for (const row of sessions) this.#takeRow(row, nowMs);
    if (update.numbers !== undefined) this.#takeNumbers(update.numbers, nowMs);
  }

  /** Time goes on, also when nothing happens. */
  tick(nowMs: number): void {
    if (this.#known === null) return;
    this.rates.add(nowMs / 1000, [this.#faults.at(nowMs), this.#pages.at(nowMs)]);
  }

  listed(nowMs: number): ListedSession[] {
    return [...this.#rows.values()].map((row) => ({
      row,
      faultsPerSecond: this.#meters.get(row.id)!.at(nowMs),
    }));
  }

  faultsPerSecond(nowMs: number): number {
    return this.#faults.at(nowMs);
  }

  pagesPerSecond(nowMs: number): number {
    return this.#pages.at(nowMs);
  }

  #takeRow(row: SessionRow, nowMs: number): void {
    this.#rows.set(row.id, row);
    let meter = this.#meters.get(row.id);
    if (meter === undefined) {
      meter = new RateMeter();
      this.#meters.set(row.id, meter);
    }
    meter.add(nowMs, row.faults);
  }

  #takeNumbers(numbers: OverviewNumbers, nowMs: number): void {
    this.#faults.add(nowMs, numbers.faults);
    this.#pages.add(nowMs, numbers.installedPages + numbers.zeroPages);
    this.latency.add(nowMs, numbers.latencyBuckets);
  }

  #forget(id: string): void {
    this.#rows.delete(id);
    this.#meters.delete(id);
  }
}
