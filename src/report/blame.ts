/**
 * Turns causes, which are what a fault worker sees, into findings, which are what an operator can
 * change: each microsecond that was waited belongs to exactly one. PURE.
 */
import type { FindingId } from "./findings.ts";
import { type ReportCause, type RestoreReport, reportCauses } from "./restore-report.ts";

/** What a finding is due, in microseconds. */
export type Blame = ReadonlyMap<FindingId, number>;

/** Where a cause goes as long as nothing else is known. */
const homes: Readonly<Record<Exclude<ReportCause, "guest" | "fetching" | "room">, FindingId>> = {
  handshake: "handshake",
  queue: "crowded",
  lookup: "slow-install",
  install: "slow-install",
  deferred: "eagain-storm",
  memory: "no-memory",
  ahead: "ahead",
  handover: "main-thread",
  store: "slow-store",
  near: "near-disk",
  disk: "cold-disk",
  decode: "decoding",
  again: "cache-too-small",
  lost: "lost-bytes",
  takeover: "pager-replaced",
  cpu: "busy-cpus",
  delivery: "slow-install",
};

/** Bringing a page that was not expected costs all of these. */
const PAGE_CAUSES: ReadonlySet<ReportCause> = new Set([
  "store",
  "near",
  "disk",
  "decode",
  "handover",
  "fetching",
  "install",
  "lookup",
]);
/** Of these, what there is less of when bytes are fetched before they are needed. */
const FETCH_CAUSES: ReadonlySet<ReportCause> = new Set([
  "store",
  "near",
  "decode",
  "handover",
  "fetching",
]);
/** A store this slow is the first thing to change; a faster one has its latency hidden. */
const SLOW_READ_MS = 100;
/** Fewer demanded pages than this say nothing about a working set. */
const ENOUGH_DEMAND = 32;
const MOST = 0.5;
/** A cache with less left over has no room. */
const FULL = 0.9;

export function blameOf(report: RestoreReport): Blame {
  const blame = new Map<FindingId, number>();
  const unplannedShare = isSetWrong(report) ? shareUnplanned(report) : 0;
  const lacksSet = isSetMissing(report);
  for (const cause of reportCauses) {
    const us = report.causes[cause];
    if (cause === "guest" || us <= 0) continue;
    const unplannedUs = PAGE_CAUSES.has(cause) ? us * unplannedShare : 0;
    add(blame, "wrong-working-set", unplannedUs);
    const isMissed = lacksSet && FETCH_CAUSES.has(cause);
    add(blame, isMissed ? "no-working-set" : homeOf(cause, report), us - unplannedUs);
  }
  return blame;
}

/** What a read took that a VM had to wait for; null: nothing was read. */
export function typicalReadMs({ store, stores, cache }: RestoreReport): number | null {
  // Others are other VMs'. A folder's reads only the cache knows.
  const own = stores.find(({ location, reads }) => location === store && reads > 0);
  if (own !== undefined) return own.readMs.p50;
  return cache === null || cache.loads === 0 ? null : cache.fetchMs.p50;
}

/** Whether it is an image in a folder of this host, and no network is in the way. */
export function isInFolder({ store }: RestoreReport): boolean {
  return store?.startsWith("dir:") ?? false;
}

/** The share of what was demanded that the plan did not know. */
export function shareUnplanned({ prefault }: RestoreReport): number {
  if (prefault === null || prefault.demandedPages === 0) return 0;
  return prefault.unplannedPages / prefault.demandedPages;
}

function add(blame: Map<FindingId, number>, id: FindingId, us: number): void {
  if (us > 0) blame.set(id, (blame.get(id) ?? 0) + us);
}

function homeOf(cause: Exclude<ReportCause, "guest">, report: RestoreReport): FindingId {
  const fetching = report.kind === "image" ? "slow-store" : "cold-disk";
  if (cause === "fetching") return fetching;
  if (cause === "room") return isCacheFull(report) ? "cache-too-small" : fetching;
  return homes[cause];
}

function isCacheFull({ cache }: RestoreReport): boolean {
  if (cache === null) return false;
  return cache.evictions > 0 || cache.usedBytes > cache.sizeBytes * FULL;
}

/** Most of what was demanded was not in it, and of what was installed most was of no use. */
function isSetWrong(report: RestoreReport): boolean {
  const { prefault } = report;
  if (prefault === null || prefault.plannedPages === 0) return false;
  if (prefault.demandedPages < ENOUGH_DEMAND || shareUnplanned(report) <= MOST) return false;
  // The pager itself has stopped, because the guest asked for other pages.
  if (prefault.state === "cancelled") return true;
  const { wastedPages, prefaultedPages } = prefault;
  return wastedPages === null || wastedPages >= prefaultedPages * MOST;
}

/** Bytes are fetched one need after the other, and nobody knew beforehand which. */
function isSetMissing(report: RestoreReport): boolean {
  const { kind, prefault, causes, waitedUs, takeovers } = report;
  if (kind !== "image" || (prefault !== null && prefault.plannedPages > 0)) return false;
  // What was planned, the pager before has known.
  if (takeovers > 0) return false;
  let fetchUs = 0;
  for (const cause of FETCH_CAUSES) fetchUs += causes[cause];
  return fetchUs > waitedUs * MOST && (typicalReadMs(report) ?? 0) < SLOW_READ_MS;
}
