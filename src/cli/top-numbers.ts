/** What `faultline top` shows, made of two looks at the daemon. PURE. */
import type { HostStatistics, HostView, SessionView, VmView } from "../daemon/host-service.ts";

/** One look at the daemon. */
export interface TopSample {
  readonly atMs: number;
  readonly host: HostView;
  readonly statistics: HostStatistics;
  readonly sessions: readonly SessionView[];
}

/** Null: not known, or not yet. Shares are from 0 to 1. */
export interface TopRow {
  readonly id: string;
  readonly state: SessionView["state"];
  readonly pid: number | null;
  readonly memory: string;
  readonly sizeBytes: number;
  readonly faultsPerSecond: number | null;
  readonly p50Us: number | null;
  readonly p99Us: number | null;
  /** Of the VM's pages, those that it was given and has not given back. */
  readonly residentShare: number | null;
  /** Of the pages with bytes, those that did not have to wait for them. */
  readonly atHandShare: number | null;
  readonly prefault: VmView["prefaultState"] | null;
  readonly waitsFor: string | null;
}

export interface TopNumbers {
  readonly at: string;
  readonly host: HostView;
  readonly faultsPerSecond: number | null;
  /** In the time between the looks. */
  readonly atHandShare: number | null;
  readonly latencyUs: HostStatistics["latencyUs"];
  readonly refusedHandshakes: number;
  readonly cache: HostStatistics["cache"];
  readonly stores: HostStatistics["stores"];
  readonly rows: readonly TopRow[];
}

export const sortOrders = ["faults", "latency", "resident", "name"] as const;
export type SortOrder = (typeof sortOrders)[number];

type Counters = Readonly<Record<string, number>>;

/** `before` null: nothing is known of speeds. */
export function topNumbers(now: TopSample, before: TopSample | null): TopNumbers {
  const seconds = before === null ? 0 : (now.atMs - before.atMs) / 1000;
  const earlier = new Map(before?.sessions.map((session) => [session.id, session]));
  const { counters, latencyUs, refusedHandshakes, cache, stores } = now.statistics;
  const past = before?.statistics.counters ?? null;
  return {
    at: new Date(now.atMs).toISOString(),
    host: now.host,
    faultsPerSecond: rate(counters, past, seconds),
    atHandShare: atHand(counters, past),
    ...{ latencyUs, refusedHandshakes, cache, stores },
    rows: now.sessions.map((session) => rowOf(session, earlier.get(session.id), seconds)),
  };
}

/** A copy; what is not known comes last, equals by name. */
export function sortRows(rows: readonly TopRow[], order: SortOrder): TopRow[] {
  const key = (row: TopRow): number => {
    if (order === "faults") return row.faultsPerSecond ?? -1;
    if (order === "latency") return row.p99Us ?? -1;
    return order === "resident" ? (row.residentShare ?? -1) : 0;
  };
  return [...rows].sort((a, b) => key(b) - key(a) || (a.id < b.id ? -1 : 1));
}

function rowOf(session: SessionView, earlier: SessionView | undefined, seconds: number): TopRow {
  const { id, state, memory, sizeBytes, vm } = session;
  if (vm === null) {
    const unknown = { pid: null, faultsPerSecond: null, p50Us: null, p99Us: null };
    const none = { residentShare: null, atHandShare: null, prefault: null, waitsFor: null };
    return { id, state, memory, sizeBytes, ...unknown, ...none };
  }
  const { pid, pages, counters, latencyUs, prefaultState: prefault, waitsFor } = vm;
  // A session of the same name may have had another VM.
  const past = earlier?.vm?.pid === pid ? earlier.vm.counters : null;
  const hasFaulted = (counters.faults ?? 0) > 0;
  return {
    ...{ id, state, pid, memory, sizeBytes, prefault, waitsFor },
    faultsPerSecond: rate(counters, past, seconds),
    p50Us: hasFaulted ? latencyUs.p50 : null,
    p99Us: hasFaulted ? latencyUs.p99 : null,
    residentShare: pages.total === 0 ? null : pages.installed / pages.total,
    atHandShare: atHand(counters, {}),
  };
}

function rate(now: Counters, past: Counters | null, seconds: number): number | null {
  if (past === null || seconds <= 0) return null;
  return Math.max(0, (now.faults ?? 0) - (past.faults ?? 0)) / seconds;
}

/** Nothing was installed: nothing had to wait either, and nothing is known. */
function atHand(now: Counters, past: Counters | null): number | null {
  if (past === null) return null;
  const installed = (now.installedPages ?? 0) - (past.installedPages ?? 0);
  const awaited = (now.awaitedPages ?? 0) - (past.awaitedPages ?? 0);
  return installed <= 0 ? null : Math.min(1, Math.max(0, 1 - awaited / installed));
}
