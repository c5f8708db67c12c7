/** Sessions as people read them. PURE, but for the time that it is given. */
import { formatBytes } from "../base/units.ts";
import type { SessionView, VmView } from "../daemon/host-service.ts";
import { formatTable } from "./table.ts";

const HEAD = ["ID", "STATE", "PID", "MEMORY", "SIZE", "THERE", "AGE", "LABELS"];

export function describeSessions(sessions: readonly SessionView[], nowMs: number): string {
  if (sessions.length === 0) return "There are no sessions.\n";
  const rows = sessions.map((session) => [
    session.id,
    stateOf(session),
    session.vm === null ? "-" : String(session.vm.pid),
    session.memory,
    formatBytes(session.sizeBytes),
    session.vm === null ? "-" : share(session.vm),
    formatAge(nowMs - Date.parse(session.createdAt)),
    describeLabels(session),
  ]);
  return formatTable([HEAD, ...rows]);
}

export function describeSession(session: SessionView): string {
  const rows = [
    ["session", session.id],
    ["state", stateOf(session)],
    ["memory", `${session.memory}, ${formatBytes(session.sizeBytes)}`],
    ...session.layers.map((layer) => ["layer", layer]),
    ["socket", session.socketPath],
    ["created", session.createdAt],
    ["prefault", session.prefault],
    ["on error", session.onError],
    ["labels", describeLabels(session)],
    ...(session.vm === null ? [] : describeVm(session.vm)),
  ];
  if (session.end !== null) {
    rows.push(["ended", session.end.at], ["because", session.end.reason]);
    if (session.end.message !== null) rows.push(["message", session.end.message]);
  }
  if (session.lastRefusal !== null) rows.push(["last refusal", session.lastRefusal]);
  return formatTable(rows);
}

function describeVm(vm: VmView): string[][] {
  const { pages, latencyUs, counters } = vm;
  const bytes = (count: number): string => formatBytes(count * vm.pageSizeBytes);
  const rows = [
    ["VM", `process ${vm.pid}, attached ${vm.attachedAt}`],
    ["regions", `${vm.regions}, pages of ${formatBytes(vm.pageSizeBytes)}`],
    ["installed", `${pages.installed} of ${pages.total} pages, ${bytes(pages.installed)}`],
    ["missing", `${pages.missing} pages, ${bytes(pages.missing)}`],
    ["given back", `${pages.removed} pages, ${bytes(pages.removed)}`],
    ["latency", `p50 ${latencyUs.p50} µs, p99 ${latencyUs.p99} µs`],
    ["prefault is", vm.prefaultState],
    ["takeovers", String(vm.takeovers)],
    ["counters", listCounters(counters)],
  ];
  if (vm.waitsFor !== null) rows.push(["WAITS FOR", vm.waitsFor]);
  return rows;
}

function listCounters(counters: Readonly<Record<string, number>>): string {
  const counted = Object.entries(counters).filter(([, value]) => value > 0);
  return counted.map(([name, value]) => `${name} ${value}`).join(", ") || "none";
}

function stateOf({ state, end }: SessionView): string {
  return end === null ? state : `${state} (${end.reason})`;
}

function describeLabels({ labels }: SessionView): string {
  const pairs = Object.entries(labels).map(([name, value]) => `${name}=${value}`);
  return pairs.join(" ") || "-";
}

function share({ pages }: VmView): string {
  const there = pages.total - pages.missing;
  return pages.total === 0 ? "-" : `${Math.floor((100 * there) / pages.total)} %`;
}

export function formatAge(ageMs: number): string {
  const seconds = Math.max(0, Math.floor(ageMs / 1000));
  if (seconds < 120) return `${seconds} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 120) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  return hours < 48 ? `${hours} h` : `${Math.floor(hours / 24)} d`;
}
