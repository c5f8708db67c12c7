/**
 * Finds what fault workers cannot tell from a guest that runs: a guest that could run and had no
 * CPU, and the kernel's own part of faults, before their worker knows of them and after it has
 * answered. PURE.
 */
import type { CauseTimes } from "../base/restore-causes.ts";
import type { ReportTimes } from "./restore-report.ts";

/**
 * What a fault worker does on a CPU, or has to be on one to take: where its lack is hidden, after
 * the guest.
 */
const WORKED = ["queue", "install", "lookup", "handover"] as const;

/** What the scheduler has counted during the restore; nothing of it may be known. */
export interface CpuDelays {
  /** For which the fault worker has waited for a CPU, for this VM's sake. */
  readonly workerUs: number | null;
  /** For which the VM's thread has that waited longest. */
  readonly guestUs: number | null;
}

/** What was carved out of the others' times, so that their sum stays. */
export interface Carved {
  readonly delays: CpuDelays;
  /** The kernel's part of all faults, by what was measured of some. */
  readonly deliveryUs: number;
}

export function carve(causes: CauseTimes, { delays, deliveryUs }: Carved): ReportTimes {
  const guestUs = Math.min(Math.max(0, delays.guestUs ?? 0), causes.guest);
  const workerUs = Math.max(0, delays.workerUs ?? 0);
  const restUs = causes.guest - guestUs;
  const beforeUs = Math.min(workerUs, restUs);
  const workedUs = WORKED.reduce((sum, cause) => sum + causes[cause], 0);
  const duringUs = Math.min(workerUs - beforeUs, workedUs);
  const left = workedUs === 0 ? 1 : 1 - duringUs / workedUs;
  const delivery = Math.min(Math.max(0, deliveryUs), restUs - beforeUs);
  return {
    ...causes,
    guest: restUs - beforeUs - delivery,
    ...Object.fromEntries(WORKED.map((cause) => [cause, causes[cause] * left])),
    cpu: guestUs + beforeUs + duringUs,
    delivery,
  };
}
