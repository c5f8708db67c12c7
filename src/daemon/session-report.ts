/**
 * What the log and the command line say of a session: its numbers, its troubles.
 */
import { formatBytes } from "../base/units.ts";
import type { Session } from "../engine/session.ts";
import type { SessionStats } from "../engine/session-stats.ts";
import type { Logger } from "./log.ts";
import type { CacheNumbers } from "./memory-host.ts";

/** `1234.56` → `"1.2 ms"`. */
export function formatUs(microseconds: number): string {
  if (microseconds >= 1e6) return `${(microseconds / 1e6).toFixed(2)} s`;
  if (microseconds >= 1e3) return `${(microseconds / 1e3).toFixed(1)} ms`;
  return `${microseconds.toFixed(1)} µs`;
}

/** What one VM took, as log fields. */
export function describeSession(session: Session): Record<string, string | number> {
  const counters = session.stats.counters();
  const { pageSizeBytes, totalBytes } = session.regions;
  const installedBytes = counters.installedPages * pageSizeBytes;
  return {
    faults: counters.faults,
    installedPages: counters.installedPages,
    zeroPages: counters.zeroPages,
    removedPages: counters.removedPages,
    awaitedPages: counters.awaitedPages,
    ...(counters.unprotectedPages > 0 ? { unprotectedPages: counters.unprotectedPages } : {}),
    ...(counters.poisonedPages > 0 ? { poisonedPages: counters.poisonedPages } : {}),
    ...(counters.overflowed > 0 ? { overflowed: counters.overflowed } : {}),
    ...(counters.heldBackPages > 0 ? { heldBackPages: counters.heldBackPages } : {}),
    ...(counters.vcpuRequests > 0 ? { vcpuRequests: counters.vcpuRequests } : {}),
    ...(counters.asyncRequests > 0 ? { asyncRequests: counters.asyncRequests } : {}),
    ...(counters.ringFaults > 0 ? { ringFaults: counters.ringFaults } : {}),
    ...(counters.badFrames > 0 ? { badFrames: counters.badFrames } : {}),
    ...(counters.crowdedOutPages > 0 ? { crowdedOutPages: counters.crowdedOutPages } : {}),
    loaded: `${formatBytes(installedBytes)} of ${formatBytes(totalBytes)}`,
    p50: formatUs(session.stats.latencyUs(0.5)),
    p99: formatUs(session.stats.latencyUs(0.99)),
  };
}

/** How the cache of images does, as log fields; nothing where there is none. */
export function describeCache(cache: CacheNumbers): Record<string, string | number> {
  const { sizeBytes, chunks, loads, adopted, prefetches, joined, corrupt, failed } = cache;
  if (sizeBytes === 0) return {};
  return {
    chunks,
    loads,
    ...(adopted > 0 ? { adopted } : {}),
    prefetches,
    joined,
    fetched: formatBytes(cache.fetchedBytes),
    ...(corrupt > 0 ? { corrupt } : {}),
    ...(failed > 0 ? { failed } : {}),
  };
}

/** What an interval brought over all VMs, as log fields. */
export function describeInterval(
  interval: SessionStats,
  seconds: number,
  vms: number,
): Record<string, string | number> {
  const counters = interval.counters();
  return {
    vms,
    faultsPerSecond: Math.round(counters.faults / seconds),
    installedPages: counters.installedPages,
    zeroPages: counters.zeroPages,
    removedPages: counters.removedPages,
    p50: formatUs(interval.latencyUs(0.5)),
    p99: formatUs(interval.latencyUs(0.99)),
  };
}

/**
 * Logs that a VM could not be served on, or waits. For the first, `onFailed` hears why, and whether
 * the VM stays, frozen, as it may not be killed.
 */
export function tellTroubles(
  session: Session,
  log: Logger,
  onFailed: (message: string, isFrozen: boolean) => void,
): void {
  const { pid } = session;
  session.onFailure = ({ message, kill }) => {
    const isFrozen = kill === "denied";
    onFailed(message, isFrozen);
    const consequence = isFrozen ? "it cannot be killed and stays frozen" : "it was killed";
    log.error({ pid, reason: message }, `A VM could not be served on: ${consequence}`);
  };
  session.onWait = (reason) => {
    log.error({ pid, reason }, "A VM waits for a page that cannot be had now");
  };
}
