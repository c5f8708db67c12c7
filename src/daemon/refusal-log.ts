/**
 * Refused VMs in the log: each with its reason, up to a bound; of a flood, how many there were. A
 * hundred thousand lines are no help to whoever is woken by them, but their number is. At the level
 * debug each has its line.
 */
import type { Logger } from "./log.ts";

/** Who was refused, as far as that is known. */
export interface Refused {
  readonly pid?: number | undefined;
  readonly session?: string;
}

/** Lines of their own that a burst gets, and that are allowed again for each second after it. */
const BURST_LINES = 256;
const LINES_PER_SECOND = 1;
/** How often the rest is told. */
const SUMMARY_MS = 10_000;

export class RefusalLog {
  /** All that were refused, in the log or not. */
  total = 0;
  readonly #log: Logger;
  #linesLeft = BURST_LINES;
  #lastLineMs = performance.now();
  #untold = 0;
  #lastReason = "";
  #timer: NodeJS.Timeout | null = null;

  constructor(log: Logger) {
    this.#log = log;
  }

  add(who: Refused, reason: string): void {
    this.total += 1;
    if (this.#mayTell()) {
      this.#log.warn({ ...who, reason }, "Refused a VM");
      return;
    }
    this.#log.debug({ ...who, reason }, "Refused a VM");
    this.#untold += 1;
    this.#lastReason = reason;
    this.#timer ??= setTimeout(() => this.tellRest(), SUMMARY_MS);
  }

  /** Tells at once what a summary would tell later. */
  tellRest(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    if (this.#untold === 0) return;
    const fields = { count: this.#untold, total: this.total, reason: this.#lastReason };
    this.#log.warn(fields, "Refused more VMs: so many, and the last one's reason");
    this.#untold = 0;
  }

  #mayTell(): boolean {
    const nowMs = performance.now();
    const earned = ((nowMs - this.#lastLineMs) / 1000) * LINES_PER_SECOND;
    this.#lastLineMs = nowMs;
    this.#linesLeft = Math.min(BURST_LINES, this.#linesLeft + earned);
    if (this.#linesLeft < 1) return false;
    this.#linesLeft -= 1;
    return true;
  }
}
