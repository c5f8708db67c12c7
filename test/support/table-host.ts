/**
 * A `HostService` whose sessions are entries of a table: what the control API is tested against
 * where no VM is needed. It keeps the rules that the interface states.
 */
import { Readable } from "node:stream";
import { FaultlineError } from "../../src/base/errors.ts";
import type {
  HostService,
  HostStatistics,
  HostView,
  ImageView,
  PrefetchView,
  SessionEndView,
  SessionSpec,
  SessionView,
  TraceStream,
  VmView,
} from "../../src/daemon/host-service.ts";
import { summaryOf } from "../../src/daemon/reports/report-files.ts";
import type { ReportSummary, RestoreReport } from "../../src/report/restore-report.ts";
import { blocksOf, header } from "./recordings.ts";
import { craftReport } from "./restore-reports.ts";

const SIZE_BYTES = 2 ** 20;
const PAGES = SIZE_BYTES / 4096;

export class TableHost implements HostService {
  readonly maxSessions: number;
  isDraining = false;
  aliveWorkers = 2;
  reloads = 0;
  /** What the next call throws instead of doing anything. */
  nextError: unknown = null;
  /** Each call of a session's creation waits for this. */
  gate: Promise<void> = Promise.resolve();
  readonly #sessions = new Map<string, SessionView>();
  #created = 0;

  constructor(maxSessions = 1000) {
    this.maxSessions = maxSessions;
  }

  view(): HostView {
    this.#mayThrow();
    const all = [...this.#sessions.values()];
    const count = (state: string): number => all.filter((each) => each.state === state).length;
    return {
      version: "0.0.0",
      pid: process.pid + this.reloads,
      startedAt: new Date(0).toISOString(),
      isDraining: this.isDraining,
      sessions: { waiting: count("waiting"), attached: count("attached") },
      maxSessions: this.maxSessions,
      takeovers: this.reloads,
      workers: { alive: this.aliveWorkers, started: 2 },
    };
  }

  statistics(): HostStatistics {
    this.#mayThrow();
    const vms = [...this.#sessions.values()].flatMap(({ vm }) => (vm === null ? [] : [vm]));
    const faults = vms.reduce((sum, { counters }) => sum + counters.faults!, 0);
    return {
      counters: { faults, installedPages: faults, awaitedPages: 0 },
      latencyUs: { p50: 12, p99: 80 },
      refusedHandshakes: 0,
      cache: { sizeBytes: 0, usedBytes: 0, chunks: 0, loads: 0, failed: 0 },
      stores: [],
    };
  }

  async createSession(spec: SessionSpec): Promise<SessionView> {
    this.#mayThrow();
    await this.gate;
    this.#created += 1;
    const id = spec.id ?? `session-${this.#created}`;
    if (this.isDraining) throw new FaultlineError("conflict", "The daemon is draining.");
    if (this.#sessions.has(id)) throw new FaultlineError("conflict", `There is a session ${id}.`);
    if (this.#sessions.size >= this.maxSessions) {
      throw new FaultlineError("limit", `There are ${this.maxSessions} sessions.`);
    }
    const session: SessionView = {
      id,
      state: "waiting",
      memory: spec.memory,
      layers: spec.layers ?? [],
      sizeBytes: SIZE_BYTES,
      socketPath: spec.socketPath ?? `/run/faultline/${id}.sock`,
      onError: spec.onError ?? "kill",
      prefault: spec.prefault ?? "concurrent",
      labels: spec.labels ?? {},
      createdAt: new Date().toISOString(),
      vm: null,
      end: null,
      lastRefusal: null,
    };
    this.#sessions.set(id, session);
    return session;
  }

  sessions(withEnded = false): readonly SessionView[] {
    this.#mayThrow();
    return [...this.#sessions.values()].filter(({ state }) => withEnded || state !== "ended");
  }

  session(id: string): SessionView {
    this.#mayThrow();
    const session = this.#sessions.get(id);
    if (session !== undefined) return session;
    throw new FaultlineError("no-session", `There is no session ${id}.`);
  }

  completeSession(id: string): SessionView {
    const { vm } = this.#attached(id);
    return this.#change(id, { vm: { ...vm, prefaultState: "running" } });
  }

  async detachSession(id: string, isForced: boolean): Promise<SessionView> {
    const { vm } = this.#attached(id);
    if (vm.pages.missing > 0 && !isForced) {
      throw new FaultlineError("conflict", `${id} lacks ${vm.pages.missing} pages.`);
    }
    return this.end(id, "detached");
  }

  async killSession(id: string): Promise<SessionView> {
    return this.end(id, this.session(id).state === "waiting" ? "cancelled" : "killed");
  }

  /** A recording without records. */
  recordTrace(id: string): TraceStream {
    const { vm } = this.#attached(id);
    const { pageSizeBytes } = vm;
    const pieces = blocksOf([], { of: { ...header, session: id, pid: vm.pid, pageSizeBytes } });
    return { pieces: Readable.from(pieces), end: () => undefined, close: () => undefined };
  }

  async report(id: string): Promise<RestoreReport> {
    const { vm, memory, state } = this.session(id);
    if (vm === null) throw new FaultlineError("no-report", `No VM has come to session ${id} yet.`);
    const isOver = state === "ended";
    return craftReport(
      { handshake: 2, guest: 100, store: 80 },
      { session: id, memory, pid: vm.pid, state: isOver ? "ended" : "restoring" },
    );
  }

  async listReports(memory: string | null): Promise<readonly ReportSummary[]> {
    const all = [...this.#sessions.values()].filter(({ vm }) => vm !== null);
    const wanted = all.filter((each) => memory === null || each.memory === memory);
    return await Promise.all(wanted.map(async ({ id }) => summaryOf(await this.report(id))));
  }

  images(): readonly ImageView[] {
    const names = new Set([...this.#sessions.values()].map(({ memory }) => memory));
    return [...names].map((memory) => ({
      memory,
      kind: "files",
      sizeBytes: SIZE_BYTES,
      dataBytes: SIZE_BYTES,
      sessions: 1,
    }));
  }

  async prefetchImage(memory: string): Promise<PrefetchView> {
    const sizes = { sizeBytes: SIZE_BYTES, dataBytes: SIZE_BYTES, sessions: 0 };
    return { memory, kind: "image", ...sizes, fetched: { parts: 3, bytes: 12288, lost: 0 } };
  }

  drain(isDraining: boolean): HostView {
    this.isDraining = isDraining;
    return this.view();
  }

  async reload(): Promise<void> {
    this.reloads += 1;
  }

  /** A VM has connected. */
  attach(id: string, pid: number, missing = PAGES): SessionView {
    const vm: VmView = {
      pid,
      attachedAt: new Date().toISOString(),
      pageSizeBytes: 4096,
      regions: 1,
      pages: { total: PAGES, installed: PAGES - missing, removed: 0, missing },
      counters: { faults: PAGES - missing, wakes: 0 },
      latencyUs: { p50: 12, p99: 80 },
      prefaultState: "off",
      waitsFor: null,
      takeovers: 0,
    };
    return this.#change(id, { state: "attached", vm });
  }

  end(id: string, reason: SessionEndView["reason"]): SessionView {
    const at = new Date().toISOString();
    return this.#change(id, { state: "ended", end: { at, reason, message: null } });
  }

  #attached(id: string): SessionView & { readonly vm: VmView } {
    const session = this.session(id);
    const { state, vm } = session;
    if (state === "attached" && vm !== null) return { ...session, vm };
    throw new FaultlineError("conflict", `The session ${id} is ${state}: no VM is attached.`);
  }

  #change(id: string, change: Partial<SessionView>): SessionView {
    const session = { ...this.session(id), ...change };
    this.#sessions.set(id, session);
    return session;
  }

  #mayThrow(): void {
    const error = this.nextError;
    this.nextError = null;
    if (error !== null) throw error;
  }
}
