/** How numbers are written: short, with their units, always the same way. PURE. */
export { formatBytes, formatHex } from "../src/base/units.ts";

/** `12345` → `12,345`. */
export function formatCount(count: number): string {
  return Math.round(count).toLocaleString("en-US");
}

/** `0` → `0/s`, `12.3` → `12/s`, `12345` → `12.3 k/s`. */
export function formatRate(perSecond: number): string {
  return `${formatShort(perSecond)}/s`;
}

/** `12345` → `12.3 k`, `2500000` → `2.5 M`. */
export function formatShort(value: number): string {
  if (value >= 999_500) return `${trimmed(value / 1e6)} M`;
  if (value >= 9995) return `${trimmed(value / 1e3)} k`;
  return value > 0 && value < 10 && !Number.isInteger(value)
    ? value.toFixed(1)
    : formatCount(value);
}

/** Microseconds: `7 µs`, `1.2 ms`, `3.4 s`, `2 min 5 s`. */
export function formatMicroseconds(microseconds: number): string {
  if (microseconds < 999.5) return `${trimmed(microseconds)} µs`;
  if (microseconds < 999_500) return `${trimmed(microseconds / 1e3)} ms`;
  if (microseconds < 60e6) return `${trimmed(microseconds / 1e6)} s`;
  return formatAge(microseconds / 1e3);
}

/** Milliseconds of some length: `5 s`, `2 min 5 s`, `3 h 2 min`, `4 d 3 h`. */
export function formatAge(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return pair(seconds, 60, "min", "s");
  if (seconds < 86_400) return pair(Math.floor(seconds / 60), 60, "h", "min");
  return pair(Math.floor(seconds / 3600), 24, "d", "h");
}

/** `0.4567` → `46 %`; what is little but not nothing is `< 1 %`. */
export function formatShare(share: number): string {
  if (share > 0 && share < 0.01) return "< 1 %";
  // Not all is not 100 %.
  if (share < 1 && share > 0.99) return "99 %";
  return `${Math.round(share * 100)} %`;
}

export function plural(count: number, noun: string): string {
  return `${formatCount(count)} ${noun}${count === 1 ? "" : "s"}`;
}

function pair(value: number, perUnit: number, unit: string, rest: string): string {
  const remainder = value % perUnit;
  const whole = `${Math.floor(value / perUnit)} ${unit}`;
  return remainder === 0 ? whole : `${whole} ${remainder} ${rest}`;
}

/** Three digits at most, without zeroes that say nothing. */
function trimmed(value: number): string {
  return value >= 100 ? formatCount(value) : String(Number(value.toPrecision(3)));
}
