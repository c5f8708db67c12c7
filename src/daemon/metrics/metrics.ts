/**
 * The daemon's numbers as metrics. Nothing is counted for them: each scrape adds up what workers
 * and the main thread count anyway, so a daemon that nobody asks pays nothing.
 *
 * Series are few, whatever the number of VMs: sums over all of them, ended ones included.
 */
import type { StageName } from "../../engine/session-stats.ts";
import { waitCauses } from "../../report/restore-report.ts";
import type { StoreStats } from "../../source/store-stats.ts";
import { type HostNumbers, type Totals, totalsOf } from "../host-numbers.ts";
import { faultBoundsNs, storeBoundsNs } from "./buckets.ts";
import { type ProcessNumbers, processNumbers } from "./process.ts";
import { metrics } from "./table.ts";
import { MetricText } from "./text.ts";

/** What the host does not know itself. */
export interface MetricsSurroundings {
  readonly takeoverMs: number;
  /** Refused by the control API, as too many came at once. */
  readonly refusedConnections: number;
  readonly refusedRequests: number;
}

/** With `?sessions=true`: the VMs that have been attached longest. */
const MAX_SESSIONS = 256;

export function renderMetrics(
  numbers: HostNumbers,
  around: MetricsSurroundings,
  withSessions: boolean,
): string {
  const text = new MetricText();
  const totals = totalsOf(numbers);
  addHost(text, numbers, around);
  addSessions(text, numbers);
  addFaults(text, totals);
  addBounds(text, totals, numbers, around);
  addPrefaults(text, numbers, totals);
  addCache(text, numbers);
  for (const [location, store] of numbers.stores) addStore(text, location, store);
  if (withSessions) addEachSession(text, numbers);
  addProcess(text, processNumbers());
  return text.toString();
}

function addHost(
  text: MetricText,
  { host, tally }: HostNumbers,
  around: MetricsSurroundings,
): void {
  text.add("faultline_build_info", { version: host.version, node: process.version }, 1);
  text.add("faultline_takeovers_total", {}, host.takeovers);
  text.add("faultline_takeover_duration_seconds", {}, around.takeoverMs / 1000);
  text.add("faultline_taken_over_vms_total", { result: "served" }, tally.get("takenOver"));
  text.add("faultline_taken_over_vms_total", { result: "lost" }, tally.get("lost"));
  text.add("faultline_draining", {}, host.isDraining ? 1 : 0);
  text.add("faultline_fault_workers", { state: "alive" }, host.workers.alive);
  text.add("faultline_fault_workers", { state: "started" }, host.workers.started);
}

function addSessions(text: MetricText, { host, tally, vms }: HostNumbers): void {
  for (const state of metrics.faultline_sessions.labels.state) {
    text.add("faultline_sessions", { state }, host.sessions[state]);
  }
  text.add("faultline_sessions_limit", {}, host.maxSessions);
  text.add("faultline_sessions_created_total", {}, tally.get("created"));
  for (const reason of metrics.faultline_sessions_ended_total.labels.reason) {
    text.add("faultline_sessions_ended_total", { reason }, tally.get(`ended.${reason}`));
  }
  text.add("faultline_vms_attached_total", {}, tally.get("attached"));
  text.add("faultline_handshakes_refused_total", {}, tally.get("refusedHandshakes"));
  const waiting = vms.filter(({ waitsFor }) => waitsFor !== null).length;
  text.add("faultline_vms_waiting", {}, waiting);
  const memory = vms.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  text.add("faultline_vm_memory_bytes", {}, memory);
}

function addFaults(text: MetricText, { stats, bytes, waitedUs }: Totals): void {
  const counters = stats.counters();
  const times = (stage: StageName) => ({
    counts: stats.buckets(stage),
    totalUs: stats.totalUs(stage),
  });
  text.add("faultline_faults_total", {}, counters.faults);
  text.addDurations("faultline_fault_duration_seconds", {}, times("fault"), faultBoundsNs);
  for (const stage of metrics.faultline_fault_stage_seconds.labels.stage) {
    text.addDurations("faultline_fault_stage_seconds", { stage }, times(stage), faultBoundsNs);
  }
  for (const cause of waitCauses) {
    text.add("faultline_vm_waited_seconds_total", { cause }, waitedUs[cause] / 1e6);
  }
  const ways = {
    request: counters.vcpuRequests,
    async_request: counters.asyncRequests,
    ring: counters.ringFaults,
  };
  for (const way of metrics.faultline_userfaults_total.labels.way) {
    text.add("faultline_userfaults_total", { way }, ways[way]);
  }
  text.add("faultline_bad_frames_total", {}, counters.badFrames);
  const operations = {
    installed: counters.installs,
    already_present: counters.alreadyPresent,
    deferred: counters.deferred,
  };
  for (const outcome of metrics.faultline_operations_total.labels.outcome) {
    text.add("faultline_operations_total", { outcome }, operations[outcome]);
  }
  const pages = {
    snapshot: counters.installedPages,
    zero: counters.zeroPages,
    removed: counters.removedPages,
    poisoned: counters.poisonedPages,
    unprotected: counters.unprotectedPages,
  };
  for (const outcome of metrics.faultline_pages_total.labels.outcome) {
    text.add("faultline_pages_total", { outcome }, pages[outcome]);
  }
  const installed = bytes["bytes.installed"];
  text.add("faultline_installed_bytes_total", { content: "snapshot" }, installed);
  text.add("faultline_installed_bytes_total", { content: "zero" }, bytes["bytes.zero"]);
  text.add("faultline_removed_bytes_total", {}, bytes["bytes.removed"]);
  text.add("faultline_awaited_pages_total", {}, counters.awaitedPages);
}

function addBounds(
  text: MetricText,
  { stats }: Totals,
  { tally, near, leftOutRecordings }: HostNumbers,
  around: MetricsSurroundings,
): void {
  const counters = stats.counters();
  const reached = {
    sessions: tally.get("refusedSessions"),
    queued_pages: counters.overflowed,
    parts_of_vm: counters.heldBackPages,
    parts_of_worker: counters.crowdedOutPages,
    turn_bytes: counters.cutTurns,
    near_writes: near?.skipped ?? 0,
    recordings: leftOutRecordings,
    control_connections: around.refusedConnections,
    control_requests: around.refusedRequests,
  };
  for (const bound of metrics.faultline_bounds_reached_total.labels.bound) {
    text.add("faultline_bounds_reached_total", { bound }, reached[bound]);
  }
}

function addPrefaults(text: MetricText, { tally, vms }: HostNumbers, { bytes }: Totals): void {
  const prefaulted = bytes["bytes.prefaulted"];
  text.add("faultline_ahead_bytes_total", { by: "working_set" }, prefaulted);
  text.add("faultline_ahead_bytes_total", { by: "scan" }, bytes["bytes.streamed"]);
  const running = vms.filter(({ prefaultState }) => prefaultState === "running").length;
  text.add("faultline_prefaults", {}, running);
  for (const end of metrics.faultline_prefaults_ended_total.labels.end) {
    text.add("faultline_prefaults_ended_total", { end }, tally.get(`prefault.${end}`));
  }
  for (const verdict of metrics.faultline_prefault_pages_total.labels.verdict) {
    text.add("faultline_prefault_pages_total", { verdict }, tally.get(`verdict.${verdict}`));
  }
}

function addCache(text: MetricText, { cache, near, memories }: HostNumbers): void {
  for (const kind of metrics.faultline_memories.labels.kind) {
    const open = memories.filter((memory) => memory.kind === kind).length;
    text.add("faultline_memories", { kind }, open);
  }
  text.add("faultline_cache_size_bytes", {}, cache.sizeBytes);
  text.add("faultline_cache_used_bytes", {}, cache.usedBytes);
  text.add("faultline_cache_chunks", { state: "ready" }, cache.chunks);
  text.add("faultline_cache_chunks", { state: "unchecked" }, cache.candidates);
  text.add("faultline_cache_loads_total", {}, cache.loads);
  text.add("faultline_cache_adopted_total", {}, cache.adopted);
  text.add("faultline_cache_prefetches_total", {}, cache.prefetches);
  text.add("faultline_cache_joined_total", {}, cache.joined);
  text.add("faultline_cache_corrupt_total", {}, cache.corrupt);
  text.add("faultline_cache_failed_total", {}, cache.failed);
  text.add("faultline_cache_evictions_total", {}, cache.evictions);
  text.add("faultline_cache_fetched_bytes_total", {}, cache.fetchedBytes);
  const { fetchTimes, decodeTimes } = cache;
  const stages = "faultline_cache_stage_seconds";
  text.addDurations(stages, { stage: "fetch" }, fetchTimes, storeBoundsNs);
  text.addDurations(stages, { stage: "decode" }, decodeTimes, storeBoundsNs);
  text.add("faultline_near_reads_total", { result: "hit" }, near?.hits ?? 0);
  text.add("faultline_near_reads_total", { result: "miss" }, near?.misses ?? 0);
  text.add("faultline_near_used_bytes", {}, near?.usedBytes ?? 0);
  text.add("faultline_near_evictions_total", {}, near?.evictions ?? 0);
  text.add("faultline_near_failures_total", { kind: "failed" }, near?.nearFailures ?? 0);
  text.add("faultline_near_failures_total", { kind: "damaged" }, near?.forgotten ?? 0);
}

function addStore(text: MetricText, store: string, stats: StoreStats): void {
  text.add("faultline_store_requests_total", { store, kind: "read" }, stats.reads);
  text.add("faultline_store_requests_total", { store, kind: "write" }, stats.writes);
  text.add("faultline_store_requests_total", { store, kind: "other" }, stats.others);
  text.add("faultline_store_attempts_total", { store }, stats.attempts);
  text.add("faultline_store_retries_total", { store }, stats.retries);
  text.add("faultline_store_timeouts_total", { store }, stats.timeouts);
  text.add("faultline_store_hedges_total", { store }, stats.hedges);
  text.add("faultline_store_hedges_won_total", { store }, stats.hedgesWon);
  text.add("faultline_store_failures_total", { store }, stats.failures);
  text.add("faultline_store_displaced_total", { store }, stats.displaced);
  text.add("faultline_store_bytes_total", { store, direction: "read" }, stats.bytesRead);
  text.add("faultline_store_bytes_total", { store, direction: "written" }, stats.bytesWritten);
  text.add("faultline_store_queue", { store, state: "running" }, stats.running);
  text.add("faultline_store_queue", { store, state: "waiting" }, stats.waiting);
  const reads = { counts: stats.readLatency, totalUs: stats.readTotalMs * 1000 };
  text.addDurations("faultline_store_read_duration_seconds", { store }, reads, storeBoundsNs);
}

function addEachSession(text: MetricText, { vms }: HostNumbers): void {
  const shown = vms.slice(0, MAX_SESSIONS);
  text.add("faultline_sessions_left_out", {}, vms.length - shown.length);
  for (const { id: session, stats, pageSizeBytes, sizeBytes, waitsFor } of shown) {
    const { faults, installedPages, zeroPages, awaitedPages } = stats.counters();
    const installedBytes = (installedPages + zeroPages) * pageSizeBytes;
    const p99 = stats.latencyUs(0.99) / 1e6;
    text.add("faultline_session_memory_bytes", { session }, sizeBytes);
    text.add("faultline_session_faults_total", { session }, faults);
    text.add("faultline_session_installed_bytes_total", { session }, installedBytes);
    text.add("faultline_session_awaited_pages_total", { session }, awaitedPages);
    text.add("faultline_session_fault_p99_seconds", { session }, p99);
    text.add("faultline_session_waiting", { session }, waitsFor === null ? 0 : 1);
  }
}

function addProcess(text: MetricText, numbers: ProcessNumbers): void {
  text.add("process_cpu_seconds_total", {}, numbers.cpuSeconds);
  text.add("process_resident_memory_bytes", {}, numbers.residentBytes);
  text.add("process_open_fds", {}, numbers.openFds);
  text.add("process_max_fds", {}, numbers.maxFds);
  text.add("process_start_time_seconds", {}, numbers.startSeconds);
}
