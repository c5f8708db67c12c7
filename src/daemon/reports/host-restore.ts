/** What is watched of a session of the daemon, for its report. */
import type { HostSession } from "../host-session.ts";
import { waitReason } from "../host-views.ts";
import { LEAST_WINDOW_MS, type Restore } from "./report-desk.ts";

/** `pagerNumber`: the first of this daemon is 1. Null: its window is over, or it has no VM. */
export function restoreOf(host: HostSession, pagerNumber: number): Restore | null {
  const { record, memory, vm } = host;
  if (vm === null) return null;
  const { engineSession: session, attachment } = vm;
  const windowMs = Math.max(record.recordForS * 1000, LEAST_WINDOW_MS);
  const leftMs = attachment.attachedMs + windowMs - Date.now();
  // One that was taken over late was reported of by the pager before.
  if (leftMs <= 0) return null;
  return {
    subject: {
      ...{ id: record.id, memory: record.memory, layers: record.layers, labels: record.labels },
      ...{ session, served: memory.served, restores: memory.restores },
      takeovers: pagerNumber - attachment.generation,
      prefaultState: () => host.prefaultState,
      isLost: () => waitReason(host) !== null,
    },
    windowMs: leftMs,
    ended: host.ended.then(() => host.end?.reason ?? "gone"),
  };
}
