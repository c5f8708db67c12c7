/** What the daemon tells of its sessions and memories. */

import type { PageTable } from "../pager/page-table.ts";
import { PageState } from "../pager/page-table.ts";
import { isInChunks } from "../source/mapped-image.ts";
import type { HostMemory } from "./host-memories.ts";
import type { ImageView, PageCounts, SessionView, VmView } from "./host-service.ts";
import type { HostSession } from "./host-session.ts";

export function viewOfSession(session: HostSession, generation: number): SessionView {
  const { record, memory, end, lastRefusal, vm } = session;
  return {
    id: record.id,
    state: end !== null ? "ended" : vm === null ? "waiting" : "attached",
    memory: record.memory,
    layers: record.layers,
    sizeBytes: memory.served.sizeBytes,
    socketPath: record.socketPath,
    onError: record.onError,
    prefault: record.prefault,
    labels: record.labels,
    createdAt: moment(record.createdMs),
    vm: viewOfVm(session, generation),
    end,
    lastRefusal,
  };
}

export function viewOfMemory({ memory, served, users }: HostMemory): ImageView {
  const { sizeBytes, dataBytes, mapped } = served;
  const kind = isInChunks(mapped) ? "image" : "files";
  return { memory, kind, sizeBytes, dataBytes, sessions: users };
}

/** Why a VM stands still, if it does: for good, or until a page can be had. */
export function waitReason({ vm, wait, frozenFor }: HostSession): string | null {
  if (frozenFor !== null || vm === null) return frozenFor;
  return wait.reason(vm.engineSession.pageTable);
}

function viewOfVm(session: HostSession, generation: number): VmView | null {
  const { vm, prefaultState } = session;
  if (vm === null) return null;
  const { engineSession, attachment } = vm;
  const { stats, regions, pageTable } = engineSession;
  return {
    pid: attachment.pid,
    attachedAt: moment(attachment.attachedMs),
    pageSizeBytes: attachment.regions.pageSizeBytes,
    regions: attachment.regions.regions.length,
    pages: countPages(pageTable, regions.totalBytes / regions.pageSizeBytes),
    counters: stats.counters(),
    latencyUs: { p50: stats.latencyUs(0.5), p99: stats.latencyUs(0.99) },
    prefaultState,
    waitsFor: waitReason(session),
    takeovers: generation - attachment.generation,
  };
}

/** `total`: a table may have places for pages that lie in no region. */
function countPages(table: PageTable, total: number): PageCounts {
  const counts = table.counts();
  const installed = counts[PageState.installed];
  const removed = counts[PageState.removed];
  return { total, installed, removed, missing: total - installed - removed };
}

function moment(ms: number): string {
  return new Date(ms).toISOString();
}
