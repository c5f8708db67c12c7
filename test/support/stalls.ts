/** What the deaths of pagers cost the guests: for each death and each VM, the longest wait. */

/** When, by the monotonic clock, a guest got its first answer for so long. */
export interface Stall {
  readonly endMs: number;
  readonly lengthMs: number;
}

/** What one VM has seen, and from when to when it would have noted it. */
export interface StallNotes {
  readonly fromMs: number;
  readonly toMs: number;
  readonly stalls: readonly Stall[];
}

export interface StallSummary {
  readonly count: number;
  readonly medianMs: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** The clock that guests note their stalls by. */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint()) / 1e6;
}

/**
 * The longest wait of each VM that lived when a pager died: that in which it died, or one after it,
 * up to the next death. What a VM has not noted was shorter than what it notes: 0.
 */
export function stallsOf(diedMs: number, nextMs: number, notes: readonly StallNotes[]): number[] {
  const isDue = ({ endMs, lengthMs }: Stall): boolean =>
    endMs > diedMs && (endMs - lengthMs <= diedMs || endMs < nextMs);
  return notes
    .filter(({ fromMs, toMs }) => fromMs < diedMs && diedMs < toMs)
    .map(({ stalls }) => Math.max(0, ...stalls.filter(isDue).map(({ lengthMs }) => lengthMs)));
}

export function summarize(stallsMs: readonly number[]): StallSummary {
  const sorted = [...stallsMs].sort((a, b) => a - b);
  const at = (share: number): number => {
    const index = Math.ceil(share * sorted.length) - 1;
    return Math.round(sorted[Math.max(0, index)] ?? 0);
  };
  return { count: sorted.length, medianMs: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
}
