/** What the cache and the stores did during a restore: the difference of two readings. */
import { quantileUs } from "../../base/histogram.ts";
import type { CacheAccount, Quantiles, StoreAccount } from "../../report/restore-report.ts";
import type { StoreStats } from "../../source/store-stats.ts";
import type { CacheNumbers } from "../memory-host.ts";

/** All numbers at one moment; nothing in it changes any more. */
export interface SupplyReading {
  readonly cache: CacheNumbers;
  readonly stores: ReadonlyMap<string, StoreStats>;
}

/** Copies what the cache and the stores go on to count in. */
export function readSupply(
  cache: CacheNumbers,
  stores: ReadonlyMap<string, StoreStats>,
): SupplyReading {
  const { counts, totalUs } = cache.fetchTimes;
  return {
    cache: { ...cache, fetchTimes: { counts: counts.slice(), totalUs } },
    stores: new Map(
      [...stores].map(([location, stats]) => [
        location,
        { ...stats, readLatency: stats.readLatency.slice() },
      ]),
    ),
  };
}

/** Null: no image was ever open. */
export function cacheBetween(from: SupplyReading, to: SupplyReading): CacheAccount | null {
  const { cache } = to;
  if (cache.sizeBytes === 0) return null;
  const since = (name: "loads" | "again" | "evictions" | "joined" | "fetchedBytes"): number =>
    cache[name] - from.cache[name];
  return {
    sizeBytes: cache.sizeBytes,
    usedBytes: cache.usedBytes,
    loads: since("loads"),
    again: since("again"),
    evictions: since("evictions"),
    joined: since("joined"),
    fetchedBytes: since("fetchedBytes"),
    fetchMs: quantilesMs(from.cache.fetchTimes.counts, cache.fetchTimes.counts),
  };
}

/** Of those that were asked for anything. */
export function storesBetween(from: SupplyReading, to: SupplyReading): StoreAccount[] {
  return [...to.stores].flatMap(([location, stats]) => {
    const before = from.stores.get(location);
    const since = (
      name: "reads" | "retries" | "timeouts" | "failures" | "hedges" | "bytesRead" | "attempts",
    ): number => stats[name] - (before?.[name] ?? 0);
    if (since("attempts") + since("failures") === 0) return [];
    return [
      {
        location,
        reads: since("reads"),
        retries: since("retries"),
        timeouts: since("timeouts"),
        failures: since("failures"),
        hedges: since("hedges"),
        bytesRead: since("bytesRead"),
        readMs: quantilesMs(before?.readLatency ?? null, stats.readLatency),
      },
    ];
  });
}

function quantilesMs(from: Float64Array | null, to: Float64Array): Quantiles {
  const counts = to.map((count, bucket) => count - (from?.[bucket] ?? 0));
  return { p50: quantileUs(counts, 0.5) / 1000, p99: quantileUs(counts, 0.99) / 1000 };
}
