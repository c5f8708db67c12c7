/**
 * Finds the time for which threads had no CPU among what fault workers tell: a guest that could
 * run but did not looks to them like one that runs. PURE.
 */
import type { CauseTimes } from "../base/restore-causes.ts";
import type { ReportTimes } from "./restore-report.ts";

/** What a thread does on a CPU, after the guest: where its lack is hidden. */
const WORKED = ["queue", "install", "lookup"] as const;

/**
 * The same times with `cpu` taken out of them, so that their sum stays. `delaysUs`: of the fault
 * worker and of the VM, which wait one after the other.
 */
export function carveCpu(causes: CauseTimes, delaysUs: readonly number[]): ReportTimes {
  const delayUs = delaysUs.reduce((sum, us) => sum + Math.max(0, us), 0);
  const fromGuestUs = Math.min(delayUs, causes.guest);
  const workedUs = WORKED.reduce((sum, cause) => sum + causes[cause], 0);
  const fromWorkUs = Math.min(delayUs - fromGuestUs, workedUs);
  const left = workedUs === 0 ? 1 : 1 - fromWorkUs / workedUs;
  return {
    ...causes,
    guest: causes.guest - fromGuestUs,
    queue: causes.queue * left,
    install: causes.install * left,
    lookup: causes.lookup * left,
    cpu: fromGuestUs + fromWorkUs,
  };
}
