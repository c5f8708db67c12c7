/** Two restores side by side: which cause has become worse. PURE. */
import {
  isSameMemory,
  type ReportCause,
  type ReportSummary,
  type RestoreReport,
  reportCauses,
} from "./restore-report.ts";

export interface CauseChange {
  readonly cause: ReportCause;
  readonly beforeUs: number;
  readonly nowUs: number;
  readonly differenceUs: number;
}

export interface Comparison {
  /** What it is compared with. */
  readonly session: string;
  readonly connectedAt: string;
  /** Of another memory, times say little. */
  readonly isSameMemory: boolean;
  readonly waitedBeforeUs: number;
  readonly waitedDifferenceUs: number;
  /** All that changed but the guest's own time, what got worse most first. */
  readonly changes: readonly CauseChange[];
  /** What tells most of why the waiting was longer, or shorter; null: nothing does. */
  readonly main: CauseChange | null;
}

/** Noise between any two restores. */
const LEAST_US = 100;

export function compareReports(report: RestoreReport, other: RestoreReport): Comparison {
  const changes = reportCauses
    .filter((cause) => cause !== "guest")
    .map((cause): CauseChange => {
      const [beforeUs, nowUs] = [other.causes[cause], report.causes[cause]];
      return { cause, beforeUs, nowUs, differenceUs: nowUs - beforeUs };
    })
    .filter(({ differenceUs }) => Math.abs(differenceUs) >= LEAST_US)
    .sort((left, right) => right.differenceUs - left.differenceUs);
  const waitedDifferenceUs = report.waitedUs - other.waitedUs;
  return {
    session: other.session,
    connectedAt: other.connectedAt,
    isSameMemory: isSameMemory(report, other),
    waitedBeforeUs: other.waitedUs,
    waitedDifferenceUs,
    changes,
    main: mainOf(changes, waitedDifferenceUs),
  };
}

/** `changes`: what got worse most first. */
function mainOf(changes: readonly CauseChange[], waitedDifferenceUs: number): CauseChange | null {
  const isLonger = waitedDifferenceUs >= 0;
  const main = isLonger ? changes[0] : changes.at(-1);
  return main !== undefined && main.differenceUs > 0 === isLonger ? main : null;
}

/**
 * Of the restores of the same memory before `report` that are over, the newest that was as fast as
 * most: that waited no longer than the median of them. Null: there are none.
 */
export function lastGood<Kept extends ReportSummary>(
  report: Pick<ReportSummary, "memory" | "layers" | "connectedAt" | "session">,
  kept: readonly Kept[],
): Kept | null {
  const older = kept
    .filter((each) => isSameMemory(each, report) && each.connectedAt < report.connectedAt)
    // One that goes on may wait for long yet.
    .filter(({ state }) => state !== "restoring")
    .sort((left, right) => (left.connectedAt < right.connectedAt ? 1 : -1));
  const waited = older.map(({ waitedUs }) => waitedUs).sort((left, right) => left - right);
  const median = waited[Math.floor((waited.length - 1) / 2)] ?? 0;
  return older.find(({ waitedUs }) => waitedUs <= median) ?? null;
}
