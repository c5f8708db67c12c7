/**
 * The account of one restore, from the VMM's connection to the end of what is watched: plain JSON,
 * as the daemon keeps it in files and answers it. Everything that is said of a restore afterwards
 * is made of this. PURE.
 */
import { type RestoreCause, restoreCauses } from "../base/restore-causes.ts";

/** Of the files. A reader that knows another one refuses them. */
export const REPORT_VERSION = 1;

/** Where time goes: what fault workers tell, and what they cannot know (`carve.ts`). */
export const reportCauses = [
  ...restoreCauses,
  /** Threads of the VM, or its fault worker, could run and had no CPU. */
  "cpu",
  /** The kernel told of faults, and let threads go on: an estimate. */
  "delivery",
] as const;
export type ReportCause = (typeof reportCauses)[number];
/** Microseconds. */
export type ReportTimes = Readonly<Record<ReportCause, number>>;

/** Why VMs wait, as it only grows: what bytes on their way take is known when they have come. */
export const waitCauses = restoreCauses.filter(
  (cause): cause is WaitCause => cause !== "guest" && cause !== "fetching",
);
export type WaitCause = Exclude<RestoreCause, "guest" | "fetching">;

/** `restoring`: it is not over yet. `restored`: it is, and the VM runs on. */
export const reportStates = ["restoring", "restored", "ended"] as const;
export type ReportState = (typeof reportStates)[number];

/** What was installed ahead of a VM's faults, by an earlier restore's working set. */
export interface PrefaultAccount {
  readonly mode: string;
  /** Under way, or how it ended. */
  readonly state: string;
  readonly plannedPages: number;
  readonly prefaultedPages: number;
  /** By a sample that was held back; null: there was none. */
  readonly usedPages: number | null;
  readonly wastedPages: number | null;
  /** In the plan, but demanded before their turn came. */
  readonly latePages: number;
  readonly savedUs: number | null;
  readonly demandedPages: number;
  /** Demanded, and not in the plan. */
  readonly unplannedPages: number;
}

/** How this restore was to be learnt from, and to be helped. */
export interface LearningAccount {
  readonly mode: string;
  /** Its demand is recorded for the next ones. */
  readonly isRecorded: boolean;
}

/** An installation that was waited for long. */
export interface DearAccount {
  readonly page: number;
  /** Installed together with it. */
  readonly pages: number;
  readonly costUs: number;
  /** What most of it was spent on. */
  readonly cause: RestoreCause;
  /** When it was there, since the connection. */
  readonly afterUs: number;
  /** Where its bytes come from. */
  readonly source: string;
}

/** What stretches of memory have cost; those without a cost are left out. */
export interface ExtentsAccount {
  readonly pagesEach: number;
  readonly costUs: readonly (readonly [index: number, us: number])[];
}

/** Pages that were demanded for the first time, slice by slice, since the connection. */
export interface DemandsAccount {
  readonly sliceUs: number;
  readonly counts: readonly number[];
}

export interface Quantiles {
  readonly p50: number;
  readonly p99: number;
}

/** What the cache of all images did meanwhile, for all VMs. */
export interface CacheAccount {
  readonly sizeBytes: number;
  readonly usedBytes: number;
  readonly loads: number;
  /** Of these, had been in the cache before. */
  readonly again: number;
  readonly evictions: number;
  readonly joined: number;
  readonly fetchedBytes: number;
  /** What a load took, without its decoding. */
  readonly fetchMs: Quantiles;
}

/** What a store behind a network did meanwhile, for all VMs. */
export interface StoreAccount {
  readonly location: string;
  readonly reads: number;
  readonly retries: number;
  readonly timeouts: number;
  readonly failures: number;
  readonly hedges: number;
  readonly bytesRead: number;
  readonly readMs: Quantiles;
}

/** Null: the kernel does not tell. */
export interface HostAccount {
  readonly cpus: number;
  readonly faultWorkers: number;
  readonly workerRunDelayUs: number | null;
  /** Of the VM's thread that waited longest for a CPU. */
  readonly guestRunDelayUs: number | null;
  /** At most, at any time of it. */
  readonly attachedVms: number;
}

export interface RestoreReport {
  readonly version: typeof REPORT_VERSION;
  readonly session: string;
  readonly memory: string;
  readonly layers: readonly string[];
  readonly kind: "files" | "image";
  /** The location of the image's store, `dir:` of one in a folder; null: memory files. */
  readonly store: string | null;
  readonly sizeBytes: number;
  readonly pageSizeBytes: number;
  readonly labels: Readonly<Record<string, string>>;
  readonly pid: number;
  /** ISO 8601. */
  readonly connectedAt: string;
  readonly state: ReportState;
  /** Why the session ended, if it has. */
  readonly endReason: string | null;
  /** From the connection to the last moment at which anybody waited: the sum of all causes. */
  readonly wallUs: number;
  /** Of this, what the guest did not run. */
  readonly waitedUs: number;
  readonly causes: ReportTimes;
  /** Of the session, until now. */
  readonly counters: Readonly<Record<string, number>>;
  readonly latencyUs: Quantiles;
  readonly learning: LearningAccount;
  /** Null: nothing was to be installed ahead. */
  readonly prefault: PrefaultAccount | null;
  readonly dearest: readonly DearAccount[];
  readonly extents: ExtentsAccount;
  /** Null: what was demanded was not recorded. */
  readonly demands: DemandsAccount | null;
  /** How often the pager died, or was replaced. What follows is known since the last time. */
  readonly takeovers: number;
  /** Null: there is none, as no image is open. */
  readonly cache: CacheAccount | null;
  /** Those behind a network that were asked for anything, by whichever VM. */
  readonly stores: readonly StoreAccount[];
  readonly host: HostAccount;
}

/** A report in a list. */
export interface ReportSummary {
  readonly session: string;
  readonly memory: string;
  readonly layers: readonly string[];
  readonly connectedAt: string;
  readonly state: ReportState;
  readonly wallUs: number;
  readonly waitedUs: number;
  /** What most of the time was lost on; null: nothing worth a name. */
  readonly finding: string | null;
}

/** Whether two are of the same memory, so that they can be compared. */
export function isSameMemory(
  left: Pick<RestoreReport, "memory" | "layers">,
  right: Pick<RestoreReport, "memory" | "layers">,
): boolean {
  const keyOf = ({ memory, layers }: typeof left): string => JSON.stringify([memory, ...layers]);
  return keyOf(left) === keyOf(right);
}
