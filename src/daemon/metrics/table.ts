/**
 * Every metric: its type, its labels, and what it says. The text for Prometheus is written from
 * here, and docs/METRICS.md, the dashboard and the alerts are compared with it. PURE.
 */
import { waitCauses } from "../../report/restore-report.ts";

export interface Metric {
  readonly type: "counter" | "gauge" | "histogram";
  readonly help: string;
  /** For each label the values that it can have; null: any. */
  readonly labels?: Readonly<Record<string, readonly string[] | null>>;
  /** Only with `?sessions=true`. */
  readonly isPerSession?: true;
}

export const metrics = {
  faultline_build_info: {
    type: "gauge",
    help: "Always 1: which version this is.",
    labels: { version: null, node: null },
  },
  faultline_takeovers_total: {
    type: "counter",
    help: "How often another pager has taken over, after a death or a reload.",
  },
  faultline_takeover_duration_seconds: {
    type: "gauge",
    help: "How long this pager took to serve all VMs again; 0 for the first one.",
  },
  faultline_taken_over_vms_total: {
    type: "counter",
    help: "VMs that new pagers went on with (served), or had to kill (lost).",
    labels: { result: ["served", "lost"] },
  },
  faultline_draining: {
    type: "gauge",
    help: "1 while no new sessions are taken.",
  },
  faultline_fault_workers: {
    type: "gauge",
    help: "Threads that answer faults: those that are alive, and those that were started.",
    labels: { state: ["alive", "started"] },
  },

  faultline_sessions: {
    type: "gauge",
    help: "Sessions that wait for their VM, or have it attached.",
    labels: { state: ["waiting", "attached"] },
  },
  faultline_sessions_limit: {
    type: "gauge",
    help: "So many sessions may be at the same time (maxSessions).",
  },
  faultline_sessions_created_total: {
    type: "counter",
    help: "Sessions that were created.",
  },
  faultline_sessions_ended_total: {
    type: "counter",
    help: "Sessions that have ended, by what brought that about.",
    labels: {
      reason: [
        "exited",
        "gone",
        "complete",
        "detached",
        "killed",
        "cancelled",
        "expired",
        "failed",
      ],
    },
  },
  faultline_vms_attached_total: {
    type: "counter",
    help: "VMs whose handshake was accepted.",
  },
  faultline_handshakes_refused_total: {
    type: "counter",
    help: "Connections of VMs that were refused; the log has each reason.",
  },
  faultline_vms_waiting: {
    type: "gauge",
    help: "VMs in which threads wait for a page that cannot be had now, by policy wait.",
  },
  faultline_vm_memory_bytes: {
    type: "gauge",
    help: "Guest memory of all attached VMs, there or missing.",
  },

  faultline_faults_total: {
    type: "counter",
    help: "Page faults that were read from the kernel; several may be about one page.",
  },
  faultline_fault_duration_seconds: {
    type: "histogram",
    help: "From the moment faults were read until their threads were woken.",
  },
  faultline_fault_stage_seconds: {
    type: "histogram",
    help: "Where that time goes: waiting for the worker, for bytes, and in the kernel.",
    labels: { stage: ["queue", "wait", "install"] },
  },
  faultline_vm_waited_seconds_total: {
    type: "counter",
    help: "How long VMs stood still for memory, at least one of their threads, by what for.",
    labels: { cause: waitCauses },
  },
  faultline_operations_total: {
    type: "counter",
    help: "Operations on userfaultfds, by what the kernel answered.",
    labels: { outcome: ["installed", "already_present", "deferred"] },
  },
  faultline_pages_total: {
    type: "counter",
    help: "Pages by what became of them; their sizes differ.",
    labels: { outcome: ["snapshot", "zero", "removed", "poisoned", "unprotected"] },
  },
  faultline_installed_bytes_total: {
    type: "counter",
    help: "Memory that VMs were given, from snapshots and as zeroes.",
    labels: { content: ["snapshot", "zero"] },
  },
  faultline_removed_bytes_total: {
    type: "counter",
    help: "Memory that VMMs have taken back (balloons).",
  },
  faultline_userfaults_total: {
    type: "counter",
    help: "Faults of VMs with KVM Userfault that came by a socket or a ring, and not as events.",
    labels: { way: ["request", "async_request", "ring"] },
  },
  faultline_bad_frames_total: {
    type: "counter",
    help: "What VMs with KVM Userfault sent that was no request.",
  },
  faultline_awaited_pages_total: {
    type: "counter",
    help: "Pages that had to wait, as their bytes were not in memory.",
  },
  faultline_ahead_bytes_total: {
    type: "counter",
    help: "Memory that VMs were given before they asked: from a working set, or in a scan.",
    labels: { by: ["working_set", "scan"] },
  },
  faultline_bounds_reached_total: {
    type: "counter",
    help: "How often a bound was hit; docs/LIMITS.md says which, and what happens then.",
    labels: {
      bound: [
        "sessions",
        "queued_pages",
        "parts_of_vm",
        "parts_of_worker",
        "turn_bytes",
        "near_writes",
        "recordings",
        "control_connections",
        "control_requests",
      ],
    },
  },

  faultline_prefaults: {
    type: "gauge",
    help: "VMs that memory is being installed for ahead of their faults.",
  },
  faultline_prefaults_ended_total: {
    type: "counter",
    help: "How installing ahead of faults ended.",
    labels: { end: ["done", "stopped", "cancelled", "kept"] },
  },
  faultline_prefault_pages_total: {
    type: "counter",
    help: "Pages of working sets by what a sample says of them, counted when their VM ends.",
    labels: { verdict: ["used", "wasted", "late", "unplanned"] },
  },

  faultline_memories: {
    type: "gauge",
    help: "Memories that are open, used or kept for the next VM.",
    labels: { kind: ["files", "image"] },
  },
  faultline_cache_size_bytes: {
    type: "gauge",
    help: "What the cache of decoded chunks may take; 0: no image was ever open.",
  },
  faultline_cache_used_bytes: {
    type: "gauge",
    help: "What the cache of decoded chunks takes.",
  },
  faultline_cache_chunks: {
    type: "gauge",
    help: "Chunks in the cache: ready, or left by an earlier pager and not checked yet.",
    labels: { state: ["ready", "unchecked"] },
  },
  faultline_cache_loads_total: {
    type: "counter",
    help: "Chunks brought into the cache.",
  },
  faultline_cache_adopted_total: {
    type: "counter",
    help: "Of the loads, those that were found in the memory of an earlier pager.",
  },
  faultline_cache_prefetches_total: {
    type: "counter",
    help: "Of the loads, those that nobody waited for when they began.",
  },
  faultline_cache_joined_total: {
    type: "counter",
    help: "Demands that found their chunk on its way already.",
  },
  faultline_cache_corrupt_total: {
    type: "counter",
    help: "Chunks that were fetched, and were not what they should be; another copy was asked for.",
  },
  faultline_cache_failed_total: {
    type: "counter",
    help: "Chunks that somebody waited for and no store had whole: policy was applied.",
  },
  faultline_cache_evictions_total: {
    type: "counter",
    help: "Chunks that gave way to others.",
  },
  faultline_cache_fetched_bytes_total: {
    type: "counter",
    help: "Compressed bytes that came from stores and from copies on this host.",
  },
  faultline_cache_stage_seconds: {
    type: "histogram",
    help: "How long chunks take: to fetch, tries and copies on this host included, and to decode.",
    labels: { stage: ["fetch", "decode"] },
  },
  faultline_near_reads_total: {
    type: "counter",
    help: "Chunks of far stores that were looked for among the copies on this host.",
    labels: { result: ["hit", "miss"] },
  },
  faultline_near_used_bytes: {
    type: "gauge",
    help: "What copies of far chunks take on this host's disk.",
  },
  faultline_near_evictions_total: {
    type: "counter",
    help: "Copies on this host that gave way to others.",
  },
  faultline_near_failures_total: {
    type: "counter",
    help: "Errors of the folder with copies (failed), and copies found damaged (damaged).",
    labels: { kind: ["failed", "damaged"] },
  },

  faultline_store_requests_total: {
    type: "counter",
    help: "Calls to a store behind a network, each with all of its attempts.",
    labels: { store: null, kind: ["read", "write", "other"] },
  },
  faultline_store_attempts_total: {
    type: "counter",
    help: "Requests that were sent to a store, repeated and second ones too.",
    labels: { store: null },
  },
  faultline_store_retries_total: {
    type: "counter",
    help: "Attempts after one that failed and may pass.",
    labels: { store: null },
  },
  faultline_store_timeouts_total: {
    type: "counter",
    help: "Attempts that were given up at their deadline.",
    labels: { store: null },
  },
  faultline_store_hedges_total: {
    type: "counter",
    help: "Second requests beside slow reads.",
    labels: { store: null },
  },
  faultline_store_hedges_won_total: {
    type: "counter",
    help: "Of these, those that were answered first.",
    labels: { store: null },
  },
  faultline_store_failures_total: {
    type: "counter",
    help: "Calls to a store that ended in an error.",
    labels: { store: null },
  },
  faultline_store_displaced_total: {
    type: "counter",
    help: "Calls refused because too many waited for their turn.",
    labels: { store: null },
  },
  faultline_store_bytes_total: {
    type: "counter",
    help: "Bytes read from a store, and written to it.",
    labels: { store: null, direction: ["read", "written"] },
  },
  faultline_store_queue: {
    type: "gauge",
    help: "Calls under way, and those that wait for their turn.",
    labels: { store: null, state: ["running", "waiting"] },
  },
  faultline_store_read_duration_seconds: {
    type: "histogram",
    help: "Successful reads of a store, from their turn to the last byte.",
    labels: { store: null },
  },

  faultline_sessions_left_out: {
    type: "gauge",
    help: "VMs without series of their own, as there may be only so many.",
    isPerSession: true,
  },
  faultline_session_memory_bytes: {
    type: "gauge",
    help: "Guest memory of a VM.",
    labels: { session: null },
    isPerSession: true,
  },
  faultline_session_faults_total: {
    type: "counter",
    help: "Page faults of a VM.",
    labels: { session: null },
    isPerSession: true,
  },
  faultline_session_installed_bytes_total: {
    type: "counter",
    help: "Memory that a VM was given.",
    labels: { session: null },
    isPerSession: true,
  },
  faultline_session_awaited_pages_total: {
    type: "counter",
    help: "Pages of a VM that had to wait for their bytes.",
    labels: { session: null },
    isPerSession: true,
  },
  faultline_session_fault_p99_seconds: {
    type: "gauge",
    help: "99 % of a VM's faults were answered faster, since it was attached.",
    labels: { session: null },
    isPerSession: true,
  },
  faultline_session_waiting: {
    type: "gauge",
    help: "1 while threads of a VM wait for a page that cannot be had now.",
    labels: { session: null },
    isPerSession: true,
  },

  process_cpu_seconds_total: {
    type: "counter",
    help: "CPU time of this pager, of all its threads.",
  },
  process_resident_memory_bytes: {
    type: "gauge",
    help: "Memory of this pager, the cache and the mapped files in it included.",
  },
  process_open_fds: {
    type: "gauge",
    help: "Descriptors that this pager has open: three for each VM.",
  },
  process_max_fds: {
    type: "gauge",
    help: "Descriptors that it may have open (RLIMIT_NOFILE).",
  },
  process_start_time_seconds: {
    type: "gauge",
    help: "When this pager was started, in seconds since 1970: before it was needed, as a rule.",
  },
} as const satisfies Readonly<Record<string, Metric>>;

export type MetricName = keyof typeof metrics;
