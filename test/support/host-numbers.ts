/** Numbers of a host that has everything: every metric that there is can be made of them. */
import { Durations } from "../../src/base/histogram.ts";
import { type CauseTimes, restoreCauses } from "../../src/base/restore-causes.ts";
import type { HostNumbers, LiveVm } from "../../src/daemon/host-numbers.ts";
import type { MetricsSurroundings } from "../../src/daemon/metrics/metrics.ts";
import { SessionStats } from "../../src/engine/session-stats.ts";
import { StoreCounters } from "../../src/source/store-stats.ts";

const VMS = 300;
/** There may be 256 with series of their own. */
export const LEFT_OUT_VMS = VMS - 256;

export const surroundings: MetricsSurroundings = {
  takeoverMs: 87,
  refusedConnections: 1,
  refusedRequests: 2,
};

/** `faults` faults of 20 µs, each with a page of its own. */
function statsOf(faults: number): SessionStats {
  const stats = new SessionStats();
  for (let fault = 0; fault < faults; fault++) {
    stats.addFault();
    stats.addInstalled(1);
  }
  stats.addLatency(20, faults);
  return stats;
}

/** Milliseconds for a store. */
function waitedFor(ms: number): LiveVm["account"] {
  const none = Object.fromEntries(restoreCauses.map((cause) => [cause, 0])) as CauseTimes;
  return { causes: () => ({ ...none, store: ms * 1000 }) };
}

/** VM n has had n + 1 faults, with pages of 2 MiB. */
function vms(count: number): LiveVm[] {
  return Array.from({ length: count }, (_, index) => ({
    id: `vm-${index}`,
    stats: statsOf(index + 1),
    account: waitedFor(index + 1),
    pageSizeBytes: 2 ** 21,
    sizeBytes: 2 ** 30,
    prefaultState: "done",
    waitsFor: index === 0 ? "a store" : null,
  }));
}

/** What has ended had 10 faults, with pages of 4 KiB. */
export function hostNumbers(vmCount = VMS): HostNumbers {
  const times = new Durations();
  times.add(5000);
  return {
    host: {
      version: "0.1.0",
      pid: 1,
      startedAt: new Date(0).toISOString(),
      isDraining: false,
      sessions: { waiting: 2, attached: vmCount },
      maxSessions: 1024,
      takeovers: 1,
      workers: { alive: 4, started: 4 },
    },
    tally: {
      ended: statsOf(10),
      get: (name) => (name === "bytes.installed" ? 10 * 4096 : 0),
    },
    vms: vms(vmCount),
    memories: [
      { memory: "/vm", kind: "files", sizeBytes: 1, dataBytes: 1, sessions: vmCount },
      { memory: "web", kind: "image", sizeBytes: 1, dataBytes: 1, sessions: 0 },
    ],
    cache: {
      ...{ loads: 9, adopted: 1, again: 0, prefetches: 3, joined: 2, corrupt: 0, failed: 0 },
      ...{ fetchedBytes: 4096, chunks: 9, candidates: 1, usedBytes: 4096, sizeBytes: 8192 },
      ...{ evictions: 0, fetchTimes: times, decodeTimes: times },
    },
    near: {
      ...{ hits: 1, misses: 2, evictions: 0, forgotten: 0, skipped: 0, nearFailures: 0 },
      usedBytes: 4096,
    },
    stores: new Map([
      [
        "s3://bucket/prefix",
        {
          ...new StoreCounters(),
          ...{ running: 1, waiting: 0, displaced: 0 },
          readLatency: times.counts,
          readTotalMs: 5,
        },
      ],
    ]),
    leftOutRecordings: 0,
  };
}
