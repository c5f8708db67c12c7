/** Reports of restores that never were: each test changes what it is about. */
import { restoreCauses } from "../../src/base/restore-causes.ts";
import {
  type ReportTimes,
  type RestoreReport,
  reportCauses,
} from "../../src/report/restore-report.ts";

/** Milliseconds by cause; others are 0. */
export type TimesMs = Partial<Record<keyof ReportTimes, number>>;

/** A VM of an image that ran all the time, but for these. */
export function craftReport(timesMs: TimesMs, change: Partial<RestoreReport> = {}): RestoreReport {
  const causes = Object.fromEntries(
    reportCauses.map((cause) => [cause, (timesMs[cause] ?? 0) * 1000]),
  ) as ReportTimes;
  const wallUs = Object.values(causes).reduce((sum, us) => sum + us, 0);
  return {
    version: 1,
    session: "3f2a",
    memory: "web-1",
    layers: [],
    kind: "image",
    store: "s3://images",
    sizeBytes: 2 ** 30,
    pageSizeBytes: 4096,
    labels: { job: "test" },
    pid: 4711,
    connectedAt: "2026-11-24T02:00:00.000Z",
    state: "restored",
    endReason: null,
    wallUs,
    waitedUs: wallUs - causes.guest,
    causes,
    counters: { faults: 900, deferred: 0, removedPages: 0, awaitedPages: 40, cutTurns: 0 },
    latencyUs: { p50: 14, p99: 900 },
    learning: { mode: "concurrent", isRecorded: true },
    prefault: null,
    dearest: [
      {
        ...{ page: 77, pages: 4, costUs: 12_000, cause: restoreCauses[1], afterUs: 20_000 },
        source: "chunk 1 of web-1",
      },
    ],
    extents: { pagesEach: 256, costUs: [[3, 12_000]] },
    demands: { sliceUs: 1000, counts: [5, 0, 2] },
    takeovers: 0,
    cache: null,
    stores: [],
    host: {
      ...{ cpus: 4, faultWorkers: 2, attachedVms: 3 },
      ...{ workerRunDelayUs: 0, guestRunDelayUs: 0 },
    },
    ...change,
  };
}
