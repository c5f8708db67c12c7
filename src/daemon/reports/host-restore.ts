/** What is watched of a session of the daemon, for its report. */
import type { HostSession } from "../host-session.ts";
import { waitReason } from "../host-views.ts";
import type { ReportSubject } from "./build-report.ts";
import { LEAST_WINDOW_MS, type Restore } from "./report-desk.ts";

/** `pagerNumber`: the first of this daemon is 1. Null: its window is over, or it has no VM. */
export function restoreOf(host: HostSession, pagerNumber: number): Restore | null {
  const { record, vm } = host;
  const subject = subjectOf(host, pagerNumber);
  if (vm === null || subject === null) return null;
  const windowMs = Math.max(record.recordForS * 1000, LEAST_WINDOW_MS);
  const leftMs = vm.attachment.attachedMs + windowMs - Date.now();
  // One that was taken over late was reported of by the pager before.
  if (leftMs <= 0) return null;
  const ended = host.ended.then(() => host.end?.reason ?? "gone");
  return { subject, windowMs: leftMs, ended };
}

/** Null: no VM has come. */
export function subjectOf(host: HostSession, pagerNumber: number): ReportSubject | null {
  const { record, memory, vm } = host;
  if (vm === null) return null;
  return {
    ...{ id: record.id, memory: record.memory, layers: record.layers, labels: record.labels },
    ...{ session: vm.engineSession, served: memory.served, restores: memory.restores },
    attachedMs: vm.attachment.attachedMs,
    takeovers: pagerNumber - vm.attachment.generation,
    prefaultState: () => host.prefaultState,
    isLost: () => waitReason(host) !== null,
  };
}
