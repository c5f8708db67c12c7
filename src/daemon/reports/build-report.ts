/** Makes the report of one restore of all that is known of it, at any moment of it. */
import { availableParallelism } from "node:os";
import { runAt } from "../../base/owner-runs.ts";
import type { CauseTimes } from "../../base/restore-causes.ts";
import { formatHex } from "../../base/units.ts";
import type { RestoreAccount } from "../../engine/restore-account.ts";
import type { Session } from "../../engine/session.ts";
import { PageState } from "../../pager/page-table.ts";
import { prefaultVerdict } from "../../pager/prefault-verdict.ts";
import { carve } from "../../report/carve.ts";
import {
  type DearAccount,
  type DemandsAccount,
  type ExtentsAccount,
  type PrefaultAccount,
  REPORT_VERSION,
  type ReportState,
  type RestoreReport,
  reportCauses,
} from "../../report/restore-report.ts";
import { isInChunks } from "../../source/mapped-image.ts";
import type { FaultTrips } from "../fault-trips.ts";
import type { RestorePlan, RestoreWatch } from "../restore-watch.ts";
import type { ServedMemory } from "../served-memory.ts";
import type { RunDelays } from "./run-delays.ts";
import { cacheBetween, type SupplyReading, storesBetween } from "./supply-account.ts";

/** Whose restore it is. */
export interface ReportSubject {
  readonly id: string;
  readonly memory: string;
  readonly layers: readonly string[];
  readonly labels: Readonly<Record<string, string>>;
  readonly served: Pick<ServedMemory, "sizeBytes" | "mapped" | "identity">;
  readonly session: Session;
  /** Date.now() when the session began; pagers tell each other. */
  readonly attachedMs: number;
  readonly restores: RestoreWatch;
  /** How often pagers were replaced under it. */
  readonly takeovers: number;
  readonly prefaultState: () => string;
  /** Whether, by policy, it waits for bytes that cannot be had. */
  readonly isLost: () => boolean;
}

/** What was seen beside the session's own account. */
export interface Observations {
  readonly state: ReportState;
  readonly endReason: string | null;
  readonly delays: RunDelays;
  readonly supply: { readonly from: SupplyReading; readonly to: SupplyReading };
  readonly trips: FaultTrips;
  readonly faultWorkers: number;
  readonly attachedVms: number;
  /** monotonicUs; when it ended, if it has. */
  readonly nowUs: number;
}

const SLICES = 64;
/** What is shorter may be in the fault worker's hands just now. */
const LONG_WAIT_US = 1000;

export function buildReport(subject: ReportSubject, seen: Observations): RestoreReport {
  const { session, served, restores } = subject;
  const { account, stats, regions } = session;
  const { workerUs, guestUs } = seen.delays;
  const told = withOpenWait(account.causes(), subject, seen.nowUs);
  const deliveryUs = deliveryOf(account.turns, seen.trips);
  const causes = carve(told, { delays: seen.delays, deliveryUs });
  const wallUs = reportCauses.reduce((sum, cause) => sum + causes[cause], 0);
  const plan = restores.planOf(session);
  return {
    version: REPORT_VERSION,
    session: subject.id,
    memory: subject.memory,
    layers: [...subject.layers],
    kind: served.identity.kind,
    store: served.identity.kind === "image" ? served.identity.store : null,
    sizeBytes: served.sizeBytes,
    pageSizeBytes: regions.pageSizeBytes,
    labels: { ...subject.labels },
    pid: session.pid,
    connectedAt: connectedAt(subject),
    state: seen.state,
    endReason: seen.endReason,
    wallUs,
    waitedUs: wallUs - causes.guest,
    causes,
    counters: stats.counters(),
    latencyUs: { p50: stats.latencyUs(0.5), p99: stats.latencyUs(0.99) },
    learning: { mode: plan?.mode ?? "off", isRecorded: plan?.recordForUs !== undefined },
    prefault: plan === null ? null : prefaultAccount(subject, plan),
    dearest: dearest(subject),
    extents: extents(session),
    demands: demands(session, told.handshake, wallUs),
    takeovers: subject.takeovers,
    cache: cacheBetween(seen.supply.from, seen.supply.to),
    stores: storesBetween(seen.supply.from, seen.supply.to),
    host: {
      cpus: availableParallelism(),
      faultWorkers: seen.faultWorkers,
      workerRunDelayUs: workerUs,
      guestRunDelayUs: guestUs,
      attachedVms: seen.attachedVms,
    },
  };
}

/** Told the same by each pager, though clocks are set: it tells restores of one name apart. */
function connectedAt({ session, attachedMs }: ReportSubject): string {
  return new Date(attachedMs - session.account.causes().handshake / 1000).toISOString();
}

/** Faults that come together have one way. */
function deliveryOf({ all, wakeUps }: RestoreAccount["turns"], trips: FaultTrips): number {
  return wakeUps * trips.asleepUs + (all - wakeUps) * trips.busyUs;
}

/** A fault worker tells of a wait when it is over. One that is not may be the longest of all. */
function withOpenWait(causes: CauseTimes, { session, isLost }: ReportSubject, nowUs: number) {
  const { account, pageTable } = session;
  const openUs = nowUs - account.markUs;
  if (account.beganUs === 0 || openUs < LONG_WAIT_US) return causes;
  if (pageTable.counts()[PageState.pending] === 0) return causes;
  const cause = isLost() ? "lost" : "fetching";
  return { ...causes, [cause]: causes[cause] + openUs };
}

function prefaultAccount(
  { session, prefaultState }: ReportSubject,
  { mode, prefault, runs }: RestorePlan,
): PrefaultAccount | null {
  if (prefault === null) return null;
  const { stats, demandLog } = session;
  const { prefaultedPages } = stats.counters();
  const demanded = demandLog?.pages() ?? new Uint32Array();
  const faultUs = stats.latencyUs(0.5);
  const verdict = prefaultVerdict(runs, { demanded, prefaultedPages, faultUs });
  const { usedPages, wastedPages, latePages, savedUs, unplannedPages } = verdict;
  return {
    ...{ mode, state: prefaultState(), prefaultedPages },
    plannedPages: runs.counts.reduce((sum, count) => sum + count, 0),
    ...{ usedPages, wastedPages, latePages, savedUs, unplannedPages },
    demandedPages: demanded.length,
  };
}

function dearest(subject: ReportSubject): DearAccount[] {
  const { session } = subject;
  const { pageSizeBytes } = session.regions;
  return session.account
    .dearest()
    .map((each) => ({ ...each, source: sourceOf(subject, each.page * pageSizeBytes) }));
}

/** In words: who looks at it knows the image, or the files. */
function sourceOf({ served, memory, layers }: ReportSubject, offset: number): string {
  const { mapped } = served;
  if (offset >= mapped.runs.sizeBytes) return "nowhere";
  const run = runAt(mapped.runs, offset);
  const owner = mapped.runs.owners[run]!;
  if (owner < 0) return "zeroes";
  if (isInChunks(mapped)) return `chunk ${run} of ${memory}`;
  return `${owner === 0 ? memory : layers[owner - 1]} at ${formatHex(offset)}`;
}

function extents({ account }: Session): ExtentsAccount {
  const costUs = [...account.extentsUs().entries()].filter(([, us]) => us > 0);
  return { pagesEach: account.extentPages, costUs };
}

/** The log counts from the moment at which a fault worker had the VM. */
function demands(session: Session, handshakeUs: number, wallUs: number): DemandsAccount | null {
  const { demandLog } = session;
  if (demandLog === null) return null;
  const timesUs = demandLog.timesUs();
  const lastUs = handshakeUs + (timesUs.at(-1) ?? 0);
  const sliceUs = Math.max(1, Math.ceil((Math.max(wallUs, lastUs) + 1) / SLICES));
  const counts = new Array<number>(SLICES).fill(0);
  for (const us of timesUs) counts[Math.floor((handshakeUs + us) / sliceUs)]! += 1;
  return { sliceUs, counts };
}
