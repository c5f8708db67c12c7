/**
 * What a benchmark found: numbers of both sides, side by side, and whether the promise holds. A
 * missed target is a finding, not a failure: the process still exits with 0.
 */

export type Unit =
  | "µs"
  | "ms"
  | "MiB"
  | "KiB"
  | "ticks"
  | "times"
  | "fds"
  | "faults/s"
  | "per s"
  | "%";

/** `ratio`: ours over theirs. Either way, less is better. */
export interface Target {
  readonly of: "ours" | "ratio";
  readonly limit: number;
}

export interface Measure {
  readonly name: string;
  readonly unit: Unit;
  readonly ours: number;
  /** The C handler's; null where it has nothing to compare with. */
  readonly reference: number | null;
  readonly ratio: number | null;
  readonly target: Target | null;
  readonly isMet: boolean | null;
}

export interface Report {
  readonly bench: string;
  /** One sentence: what was done, how often, and what the numbers are. */
  readonly method: string;
  /** What stands in the two columns, where it is not the C handler and Faultline. */
  readonly sides?: readonly [reference: string, ours: string];
  /** Every program that was measured, as it was started. */
  readonly commands: readonly string[];
  readonly measures: readonly Measure[];
  /** The single rounds or samples, for whoever doubts the medians. */
  readonly samples: readonly Readonly<Record<string, number | string>>[];
}

export interface MeasureOptions {
  readonly reference?: number;
  /** Default: ours over the reference. Medians of ratios are not ratios of medians. */
  readonly ratio?: number;
  readonly target?: Target;
}

export function measure(
  name: string,
  unit: Unit,
  ours: number,
  options: MeasureOptions = {},
): Measure {
  const { reference = null, target = null } = options;
  const quotient = reference === null || reference === 0 ? null : ours / reference;
  const ratio = options.ratio ?? quotient;
  const value = target?.of === "ratio" ? ratio : ours;
  const isMet = target === null || value === null ? null : value <= target.limit;
  return { name, unit, ours, reference, ratio, target, isMet };
}
