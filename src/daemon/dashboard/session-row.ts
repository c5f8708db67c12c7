/** A session as a row of the overview, from counters alone: nobody looks at its pages for it. */
import { HISTOGRAM_BUCKETS, quantileUs } from "../../base/histogram.ts";
import { restoreCauses } from "../../base/restore-causes.ts";
import type { RestoreAccount } from "../../engine/restore-account.ts";
import type { SessionStats } from "../../engine/session-stats.ts";
import type { SessionRow } from "./protocol.ts";

/** The VM of a row. */
export interface RowVm {
  readonly pid: number;
  readonly attachedMs: number;
  readonly pageSizeBytes: number;
  readonly sizeBytes: number;
  readonly stats: SessionStats;
  readonly account: RestoreAccount;
  readonly waitsFor: string | null;
  readonly prefaultState: SessionRow["prefaultState"];
}

/** There may be a thousand rows twice a second: none has a histogram of its own. */
const buckets = new Float64Array(HISTOGRAM_BUCKETS);

type RowNames = Pick<SessionRow, "id" | "memory" | "sizeBytes" | "labels">;

export function waitingRow(names: RowNames): SessionRow {
  return {
    ...names,
    state: "waiting",
    pageSizeBytes: 0,
    pid: null,
    attachedAt: null,
    pages: { total: 0, present: 0, removed: 0 },
    ...{ faults: 0, p50Us: 0, p99Us: 0, waitedUs: 0 },
    waitsFor: null,
    prefaultState: "off",
    endReason: null,
  };
}

export function attachedRow(names: RowNames, vm: RowVm): SessionRow {
  const { stats, pageSizeBytes, prefaultState, waitsFor, pid } = vm;
  const total = vm.sizeBytes / pageSizeBytes;
  const given = stats.get("installedPages") + stats.get("zeroPages");
  const removed = Math.min(total, stats.get("removedPages"));
  buckets.fill(0);
  stats.addBuckets("fault", buckets);
  const causes = vm.account.causes();
  const waitedUs = restoreCauses.reduce(
    (sum, cause) => (cause === "guest" ? sum : sum + causes[cause]),
    0,
  );
  return {
    ...names,
    ...{ state: "attached", pageSizeBytes, pid, waitsFor, prefaultState },
    attachedAt: new Date(vm.attachedMs).toISOString(),
    pages: { total, present: Math.min(given, total - removed), removed },
    faults: stats.get("faults"),
    p50Us: quantileUs(buckets, 0.5),
    p99Us: quantileUs(buckets, 0.99),
    waitedUs: Math.round(waitedUs),
    endReason: null,
  };
}
