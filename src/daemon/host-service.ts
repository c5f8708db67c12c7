/**
 * What the daemon does for those who ask it: the control API speaks of these, and of nothing else.
 * Implemented by `Host`.
 */
import type { ErrorPolicy } from "../engine/wire.ts";
import type { ReportSummary, RestoreReport } from "../report/restore-report.ts";
import type { PrefaultMode } from "./prefault-mode.ts";
import type { SocketOwner } from "./socket-file.ts";

/** What ids may be: they are parts of file names, entries and URLs. */
export const SESSION_ID = /^[a-z0-9][a-z0-9-]{0,63}$/;

/** A session to be: memory for one VM that will connect. */
export interface SessionSpec {
  /** By which it is known; lower case letters, digits, `-`, at most 64. Default: 8 random ones. */
  readonly id?: string;
  /** A memory file of an allowed folder, or an image: `NAME`, `dir:PATH/NAME`, `s3://…/NAME`. */
  readonly memory: string;
  /** Firecracker diff files above a memory file, lowest first. */
  readonly layers?: readonly string[];
  readonly onError?: ErrorPolicy;
  readonly prefault?: PrefaultMode;
  /** Where the VMM connects; default: a new socket in the daemon's own folder. */
  readonly socketPath?: string;
  /** Who the socket file belongs to; default: the daemon's user. */
  readonly owner?: SocketOwner;
  /** Who may connect besides root, the daemon's user, and the owner. */
  readonly allowedUids?: readonly number[];
  /** The session ends if no VM has connected by then, in seconds; 0: it waits for ever. */
  readonly connectWithinS?: number;
  /** What is demanded in this time is what a restore needs, in seconds; 0: learn nothing. */
  readonly recordForS?: number;
  /**
   * Listen in the socket's folder for the asynchronous faults of a VM with KVM Userfault; without
   * `socketPath` the session has a folder of its own. Default: no.
   */
  readonly asyncFaults?: boolean;
  /** Trace what is done for the VM from its coming on, for `recordTrace`. Default: no. */
  readonly trace?: boolean;
  /** The caller's own words for it; they come back in views and logs. */
  readonly labels?: Readonly<Record<string, string>>;
}

/** `waiting` for its VMM, `attached` to a VM, or `ended`. */
export const sessionStates = ["waiting", "attached", "ended"] as const;
export type SessionState = (typeof sessionStates)[number];

export interface SessionView {
  readonly id: string;
  readonly state: SessionState;
  readonly memory: string;
  readonly layers: readonly string[];
  /** Bytes of guest memory. */
  readonly sizeBytes: number;
  readonly socketPath: string;
  readonly onError: ErrorPolicy;
  readonly prefault: PrefaultMode;
  readonly labels: Readonly<Record<string, string>>;
  /** ISO 8601, as are all moments. */
  readonly createdAt: string;
  readonly vm: VmView | null;
  readonly end: SessionEndView | null;
  /** Why the last handshake on this session's socket was refused, if one was. */
  readonly lastRefusal: string | null;
}

/** The VM of a session that is or was attached. */
export interface VmView {
  readonly pid: number;
  readonly attachedAt: string;
  readonly pageSizeBytes: number;
  readonly regions: number;
  readonly pages: PageCounts;
  readonly counters: Readonly<Record<string, number>>;
  readonly latencyUs: { readonly p50: number; readonly p99: number };
  /** What is installed ahead of the guest: under way, or how it ended. */
  readonly prefaultState: "off" | "running" | "done" | "stopped" | "cancelled" | "kept";
  /**
   * What by policy `wait` the VM waits for. Of one that should have been killed, and may not be:
   * why it is frozen.
   */
  readonly waitsFor: string | null;
  /** How often the pager died, or was replaced, under this VM. */
  readonly takeovers: number;
}

export interface PageCounts {
  readonly total: number;
  /** Installed by us, bytes or zeroes. */
  readonly installed: number;
  readonly removed: number;
  /** Never asked for. */
  readonly missing: number;
}

export interface SessionEndView {
  readonly at: string;
  /** Machine readable: what brought it about. */
  readonly reason:
    | "exited"
    | "gone"
    | "complete"
    | "detached"
    | "killed"
    | "cancelled"
    | "expired"
    | "failed";
  /** For people; what went wrong, if something did. */
  readonly message: string | null;
}

export interface ImageView {
  readonly memory: string;
  readonly kind: "files" | "image";
  readonly sizeBytes: number;
  readonly dataBytes: number;
  /** Sessions that use it now. */
  readonly sessions: number;
}

export interface PrefetchView extends ImageView {
  /** Parts brought into memory, their bytes, and how many could not be had. */
  readonly fetched: { readonly parts: number; readonly bytes: number; readonly lost: number };
}

export interface HostView {
  readonly version: string;
  readonly pid: number;
  readonly startedAt: string;
  /** Whether new sessions are taken. */
  readonly isDraining: boolean;
  readonly sessions: { readonly waiting: number; readonly attached: number };
  readonly maxSessions: number;
  /** How often the pager has been started since the daemon was. */
  readonly takeovers: number;
  readonly workers: { readonly alive: number; readonly started: number };
}

/** Over all VMs that there ever were, those of earlier pagers included. */
export interface HostStatistics {
  readonly counters: Readonly<Record<string, number>>;
  readonly latencyUs: { readonly p50: number; readonly p99: number };
  readonly refusedHandshakes: number;
  /** Of decoded chunks, since this pager was started; all zero where no image was ever open. */
  readonly cache: {
    readonly sizeBytes: number;
    readonly usedBytes: number;
    readonly chunks: number;
    readonly loads: number;
    readonly failed: number;
  };
  readonly stores: readonly StoreStatistics[];
}

/** Of a store behind a network, since this pager was started. */
export interface StoreStatistics {
  readonly location: string;
  readonly reads: number;
  readonly retries: number;
  readonly failures: number;
  readonly running: number;
  readonly waiting: number;
  readonly readMs: { readonly p50: number; readonly p99: number };
}

/** The file of a recording as it grows. */
export interface TraceStream {
  readonly pieces: AsyncIterable<Uint8Array>;
  /** Ends it soon, and whole. */
  end(): void;
  /** Nothing more is wanted: to be called in any case, also at its end. */
  close(): void;
}

export interface HostService {
  view(): HostView;
  statistics(): HostStatistics;
  /**
   * The socket listens when this resolves.
   * @throws FaultlineError `bad-request`, `conflict`, `limit`, `not-allowed`, and what opening the
   *   memory throws
   */
  createSession(spec: SessionSpec): Promise<SessionView>;
  /** In order of creation; of those that have ended the last ones, if asked for. */
  sessions(withEnded?: boolean): readonly SessionView[];
  /** @throws FaultlineError `no-session`, as all below */
  session(id: string): SessionView;
  /** Begins to install everything; the VM is let go when all is there. */
  completeSession(id: string): SessionView;
  /**
   * Lets go of a VM now. Unless all of its pages are there it will freeze at the next missing one:
   * that has to be meant.
   * @throws FaultlineError `conflict` if pages are missing and `isForced` is not set
   */
  detachSession(id: string, isForced: boolean): Promise<SessionView>;
  /** Kills the VM's process. Of a session that waits for its VM: ends it. */
  killSession(id: string): Promise<SessionView>;
  /**
   * Records what is done for the session's VM, for so long at most. Begins now, with what was
   * traced already.
   * @throws FaultlineError `conflict` without a VM, `limit`
   */
  recordTrace(id: string, forMs: number): TraceStream;
  /**
   * Where the time of a session's restore has gone: as it is now, or as it was kept. Ids are used
   * again: of the last restore, or of the one whose VM connected then.
   * @throws FaultlineError `no-report`, `report-corrupt`
   */
  report(id: string, connectedAt?: string | null): Promise<RestoreReport>;
  /** Of one memory, or of all; the newest first. */
  listReports(memory: string | null): Promise<readonly ReportSummary[]>;
  images(): readonly ImageView[];
  /** Brings into memory what restores of it need. */
  prefetchImage(memory: string): Promise<PrefetchView>;
  /** Takes no more sessions, or takes them again. */
  drain(isDraining: boolean): HostView;
  /** Replaces this pager by a new one, with new code and configuration; VMs stall for a moment. */
  reload(): Promise<void>;
}
