/** Counters as the dashboard tells them. */
import { HISTOGRAM_BUCKETS } from "../../base/histogram.ts";
import type { SessionStats } from "../../engine/session-stats.ts";
import type { OverviewNumbers, SparseBuckets, VmNumbers } from "./protocol.ts";
import type { DashboardSource, WatchedVm } from "./source.ts";

export function overviewNumbers(source: DashboardSource): OverviewNumbers {
  const sums = { faults: 0, installedPages: 0, zeroPages: 0, prefaultedPages: 0, removedPages: 0 };
  const buckets = new Float64Array(HISTOGRAM_BUCKETS);
  for (const stats of source.stats()) {
    for (const name of Object.keys(sums) as (keyof typeof sums)[]) sums[name] += stats.get(name);
    stats.addBuckets("fault", buckets);
  }
  return {
    atMs: Date.now(),
    ...sums,
    latencyBuckets: sparse(buckets),
    refusedHandshakes: source.refusedHandshakes(),
  };
}

export function vmNumbers({ stats, account, demandLog }: WatchedVm): VmNumbers {
  return {
    atMs: Date.now(),
    state: "attached",
    faults: stats.get("faults"),
    installedPages: stats.get("installedPages"),
    zeroPages: stats.get("zeroPages"),
    removedPages: stats.get("removedPages"),
    prefaultedPages: stats.get("prefaultedPages"),
    deferred: stats.get("deferred"),
    awaitedPages: stats.get("awaitedPages"),
    demandedPages: demandLog?.length ?? null,
    latencyBuckets: sparse(stats.buckets("fault")),
    causes: account.causes(),
  };
}

/** What changes whenever anything of a VM is counted. */
export function versionOf(stats: SessionStats, markUs: number): string {
  const pages = stats.get("installedPages") + stats.get("zeroPages") + stats.get("removedPages");
  return `${stats.get("faults")} ${pages} ${markUs}`;
}

function sparse(buckets: Float64Array): SparseBuckets {
  const found: [number, number][] = [];
  for (const [bucket, count] of buckets.entries()) if (count > 0) found.push([bucket, count]);
  return found;
}
