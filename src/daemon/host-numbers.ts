/** All numbers of a daemon at one moment, as metrics and statistics are made of them. */
import { SessionStats } from "../engine/session-stats.ts";
import { type WaitCause, waitCauses } from "../report/restore-report.ts";
import type { StoreStats } from "../source/store-stats.ts";
import { readLatencyMs } from "../source/store-stats.ts";
import type {
  HostStatistics,
  HostView,
  ImageView,
  StoreStatistics,
  VmView,
} from "./host-service.ts";
import {
  type ByteCounter,
  byteCounters,
  type CountedVm,
  type HostTally,
  type TallyName,
} from "./host-tally.ts";
import type { CacheNumbers, NearNumbers } from "./memory-host.ts";

/** A VM that is attached. */
export interface LiveVm extends CountedVm {
  readonly id: string;
  readonly sizeBytes: number;
  readonly prefaultState: VmView["prefaultState"];
  readonly waitsFor: string | null;
}

export interface HostNumbers {
  readonly host: HostView;
  readonly tally: Pick<HostTally, "ended" | "get">;
  /** In order of creation. */
  readonly vms: readonly LiveVm[];
  readonly memories: readonly ImageView[];
  readonly cache: CacheNumbers;
  readonly near: NearNumbers | null;
  /** By location. */
  readonly stores: ReadonlyMap<string, StoreStats>;
  /** Restores that nothing was learnt from, as too many ended at once. */
  readonly leftOutRecordings: number;
}

/** Over all VMs that there ever were. */
export interface Totals {
  readonly stats: SessionStats;
  readonly bytes: Readonly<Record<ByteCounter, number>>;
  /** What VMs have waited, by what for. */
  readonly waitedUs: Readonly<Record<WaitCause, number>>;
}

export function totalsOf({ tally, vms }: HostNumbers): Totals {
  const stats = new SessionStats();
  stats.add(tally.ended);
  const names = Object.keys(byteCounters) as ByteCounter[];
  const bytes = Object.fromEntries(
    names.map((name) => [name, tally.get(name satisfies TallyName)]),
  ) as Record<ByteCounter, number>;
  const waitedUs = Object.fromEntries(
    waitCauses.map((cause) => [cause, tally.get(`waited.${cause}`)]),
  ) as Record<WaitCause, number>;
  for (const vm of vms) {
    const causes = vm.account.causes();
    for (const cause of waitCauses) waitedUs[cause] += causes[cause];
    stats.add(vm.stats);
    const counters = vm.stats.counters();
    for (const name of names) bytes[name] += counters[byteCounters[name]] * vm.pageSizeBytes;
  }
  return { stats, bytes, waitedUs };
}

/** What the control API tells. */
export function statisticsOf(numbers: HostNumbers): HostStatistics {
  const { tally, cache, stores } = numbers;
  const { stats } = totalsOf(numbers);
  const { sizeBytes, usedBytes, chunks, loads, failed } = cache;
  return {
    counters: stats.counters(),
    latencyUs: { p50: stats.latencyUs(0.5), p99: stats.latencyUs(0.99) },
    refusedHandshakes: tally.get("refusedHandshakes"),
    cache: { sizeBytes, usedBytes, chunks, loads, failed },
    stores: [...stores].map(([location, store]) => statisticsOfStore(location, store)),
  };
}

export function statisticsOfStore(location: string, stats: StoreStats): StoreStatistics {
  const { reads, retries, failures, running, waiting } = stats;
  const readMs = { p50: readLatencyMs(stats, 0.5), p99: readLatencyMs(stats, 0.99) };
  return { location, reads, retries, failures, running, waiting, readMs };
}
