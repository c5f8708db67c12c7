/** What an operator is told about a restore: names that programs can rely on, and words. PURE. */

/** In no order. */
export const findingIds = [
  /** The VM hardly waited. */
  "not-memory",
  "slow-store",
  "no-working-set",
  "wrong-working-set",
  "cold-disk",
  "near-disk",
  "cache-too-small",
  "decoding",
  "eagain-storm",
  "busy-cpus",
  "crowded",
  "main-thread",
  "slow-install",
  "ahead",
  "handshake",
  "no-memory",
  "lost-bytes",
  "pager-replaced",
] as const;
export type FindingId = (typeof findingIds)[number];

export interface Finding {
  readonly id: FindingId;
  /** The VM's time that went to this. Findings do not overlap. */
  readonly us: number;
  /** Of all that it waited. */
  readonly share: number;
  readonly headline: string;
  /** Numbers of the report that say so. */
  readonly evidence: readonly string[];
  /** What to do, the best first. */
  readonly advice: readonly string[];
}
