/** Progress of long work, on stderr and only if that is a terminal: bar, rate, time left. */
import { formatBytes } from "../base/units.ts";

const BAR_WIDTH = 24;
const REDRAW_MS = 100;
/** Before this, a rate is chance. */
const RATE_AFTER_MS = 500;
const CLEAR_LINE = "\r\u001b[K";

export class Progress {
  readonly #label: string;
  readonly #stream: NodeJS.WriteStream;
  readonly #startMs = performance.now();
  #drawnMs = Number.NEGATIVE_INFINITY;

  constructor(label: string, stream: NodeJS.WriteStream = process.stderr) {
    this.#label = label;
    this.#stream = stream;
  }

  /** May be called as often as anything happens. */
  readonly update = (doneBytes: number, totalBytes: number): void => {
    const nowMs = performance.now();
    if (!this.#stream.isTTY || nowMs - this.#drawnMs < REDRAW_MS) return;
    this.#drawnMs = nowMs;
    const text = describeProgress(this.#label, doneBytes, totalBytes, nowMs - this.#startMs);
    this.#stream.write(CLEAR_LINE + text.slice(0, this.#stream.columns));
  };

  /** Leaves an empty line to whoever prints next. */
  [Symbol.dispose](): void {
    if (this.#drawnMs > 0) this.#stream.write(CLEAR_LINE);
    this.#drawnMs = Number.NEGATIVE_INFINITY;
  }
}

export function describeProgress(
  label: string,
  doneBytes: number,
  totalBytes: number,
  elapsedMs: number,
): string {
  const share = totalBytes === 0 ? 1 : Math.min(doneBytes / totalBytes, 1);
  const full = Math.round(share * BAR_WIDTH);
  const bar = "█".repeat(full) + "·".repeat(BAR_WIDTH - full);
  const parts = [
    `${label} ${bar} ${Math.floor(share * 100)} %`,
    `${formatBytes(doneBytes)} of ${formatBytes(totalBytes)}`,
  ];
  if (elapsedMs >= RATE_AFTER_MS && doneBytes > 0) {
    const bytesPerSecond = doneBytes / (elapsedMs / 1000);
    parts.push(`${formatBytes(Math.round(bytesPerSecond))}/s`);
    parts.push(`${formatSeconds((totalBytes - doneBytes) / bytesPerSecond)} left`);
  }
  return parts.join("  ");
}

/** `75` → `"1:15"`. */
function formatSeconds(seconds: number): string {
  const whole = Math.max(0, Math.ceil(seconds));
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}
