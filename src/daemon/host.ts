/**
 * The daemon's core: sessions, the memories that they are restored from, and the engine that serves
 * them. Runs in the pager; all that has to outlive it is given to the keeper.
 */
import { randomBytes } from "node:crypto";
import { dirname, join } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { Engine } from "../engine/engine.ts";
import type { OwnedFd } from "../linux/fd.ts";
import type { ReportSummary, RestoreReport } from "../report/restore-report.ts";
import { allowedMemory, allowedSocket } from "./allowed-places.ts";
import { assertPoisonable } from "./check-options.ts";
import type { FaultTrips } from "./fault-trips.ts";
import { HostMemories, type HostMemory } from "./host-memories.ts";
import { type HostNumbers, type LiveVm, statisticsOf } from "./host-numbers.ts";
import {
  type HostService,
  type HostStatistics,
  type HostView,
  type ImageView,
  type PrefetchView,
  SESSION_ID,
  type SessionEndView,
  type SessionSpec,
  type SessionView,
  type TraceStream,
} from "./host-service.ts";
import { HostSession, type SessionSurroundings } from "./host-session.ts";
import type { HostTally } from "./host-tally.ts";
import { viewOfMemory, viewOfSession, waitReason } from "./host-views.ts";
import { entryOf, type Keeper } from "./keeper.ts";
import type { Logger } from "./log.ts";
import type { MemoryHost } from "./memory-host.ts";
import { prefetch } from "./prefetch.ts";
import { RefusalLog } from "./refusal-log.ts";
import { subjectOf } from "./reports/host-restore.ts";
import { ReportDesk } from "./reports/report-desk.ts";
import { ReportFiles } from "./reports/report-files.ts";
import { keepRecord, type SessionRecord } from "./session-record.ts";
import { defaultSocketPath, SessionSockets } from "./session-sockets.ts";
import { SessionTraces } from "./session-traces.ts";
import type { DaemonSettings } from "./settings.ts";

export interface HostParts {
  readonly settings: DaemonSettings;
  readonly engine: Engine;
  readonly memoryHost: MemoryHost;
  readonly keeper: Keeper;
  readonly log: Logger;
  readonly tally: HostTally;
  readonly version: string;
  /** Which pager of this daemon this is: the first is 1. */
  readonly generation: number;
  readonly trips: FaultTrips;
  /** Replaces this pager; rejects with why that cannot be. */
  readonly reload: () => Promise<void>;
}

/** Sessions that have ended, for `show` and `ps --all`. */
const MAX_ENDED = 256;

export class Host implements HostService {
  /** Sockets of sessions lie here, unless they are to be elsewhere. */
  readonly socketFolder: string;
  readonly memories: HostMemories;
  readonly reports: ReportDesk;
  readonly surroundings: SessionSurroundings;
  readonly #parts: HostParts;
  readonly #startedAt = new Date().toISOString();
  readonly #sessions = new Map<string, HostSession>();
  /** Ids of sessions that are being created. */
  readonly #reserved = new Set<string>();
  readonly #ended: SessionView[] = [];
  readonly #refusals: RefusalLog;
  readonly #traces: SessionTraces;
  /** Never given to two sessions that one pager has. */
  #nextSurvivalId = 1;
  #isDraining = false;
  #onEmpty: () => void = () => {};

  constructor(parts: HostParts) {
    this.#parts = parts;
    const { settings, engine, keeper, log, tally, generation, memoryHost: host } = parts;
    this.socketFolder = join(settings.runFolder, "sessions");
    this.#refusals = new RefusalLog(log);
    this.#traces = new SessionTraces(engine);
    this.memories = new HostMemories({
      ...{ host, engine, keeper, log, collapse: settings.collapse },
    });
    this.reports = new ReportDesk({
      files: new ReportFiles(join(settings.runFolder, "reports"), log),
      ...{ memoryHost: host, faultWorkers: settings.workers, trips: parts.trips },
      sessions: () => [...this.#sessions.values()].flatMap(({ vm }) => vm?.engineSession ?? []),
    });
    this.surroundings = {
      ...{ engine, keeper, log, tally, generation, reports: this.reports, traces: this.#traces },
      handshakeTimeoutMs: settings.handshakeTimeoutMs,
      allowedUids: settings.allowedUids,
      onEnded: (session) => this.#forget(session),
      onRefused: (session, reason) => {
        tally.add("refusedHandshakes");
        this.#refusals.add({ session: session.id }, reason);
      },
    };
  }

  view(): HostView {
    const { settings, engine, generation, version } = this.#parts;
    const attached = [...this.#sessions.values()].filter(({ vm }) => vm !== null).length;
    return {
      version,
      pid: process.pid,
      startedAt: this.#startedAt,
      isDraining: this.#isDraining,
      sessions: { waiting: this.#sessions.size - attached, attached },
      maxSessions: settings.maxSessions,
      takeovers: generation - 1,
      workers: { alive: engine.aliveWorkers, started: settings.workers },
    };
  }

  numbers(): HostNumbers {
    const { tally, memoryHost } = this.#parts;
    const memories = this.memories.all;
    return {
      host: this.view(),
      tally,
      vms: [...this.#sessions.values()].flatMap(liveVm),
      memories: memories.map(viewOfMemory),
      cache: memoryHost.cacheStatistics(),
      near: memoryHost.nearStatistics(),
      stores: memoryHost.storeStatistics(),
      leftOutRecordings: this.memories.leftOutRecordings,
    };
  }

  statistics(): HostStatistics {
    return statisticsOf(this.numbers());
  }

  async createSession(spec: SessionSpec): Promise<SessionView> {
    const id = this.#reserve(spec.id);
    let memory: HostMemory | undefined;
    try {
      const { settings } = this.#parts;
      if ((spec.onError ?? settings.onError) === "poison") assertPoisonable();
      if (spec.trace === true) this.#traces.keep(id);
      const place = allowedMemory(spec.memory, spec.layers ?? [], settings);
      const socketPath = this.#socketPath(id, spec);
      memory = await this.memories.use(place.memory, place.layers);
      return this.#open(this.#recordOf(id, spec, socketPath, memory), memory);
    } catch (error) {
      if (memory !== undefined) this.memories.release(memory);
      this.#traces.forget(id);
      throw error;
    } finally {
      this.#reserved.delete(id);
    }
  }

  sessions(withEnded = false): readonly SessionView[] {
    const live = [...this.#sessions.values()].map((each) => this.#viewOf(each));
    return withEnded ? [...this.#ended, ...live] : live;
  }

  /** Those that have not ended, in order of creation. */
  get live(): Iterable<HostSession> {
    return this.#sessions.values();
  }

  /** @throws FaultlineError `no-session`, `conflict` if it has ended */
  liveSession(id: string): HostSession {
    const session = this.#sessions.get(id);
    if (session !== undefined) return session;
    throw new FaultlineError("no-session", `Session ${id} has ${this.#endedView(id).state}.`);
  }

  /** Of the last sessions that have ended. */
  lastEnd(id: string): SessionEndView | null {
    return this.#ended.findLast((each) => each.id === id)?.end ?? null;
  }

  session(id: string): SessionView {
    const live = this.#sessions.get(id);
    return live === undefined ? this.#endedView(id) : this.#viewOf(live);
  }

  completeSession(id: string): SessionView {
    const session = this.#attached(id);
    session.complete();
    return this.#viewOf(session);
  }

  async detachSession(id: string, isForced: boolean): Promise<SessionView> {
    const session = this.#attached(id);
    if (session.vm!.attachment.userfault !== null) {
      throw new FaultlineError(
        "conflict",
        `The VM of session ${id} has a guest_memfd: it asks for pages as long as it lives, and ` +
          "takes the end of its connection for an error. Kill it, or let it run.",
      );
    }
    const { missing } = this.#viewOf(session).vm!.pages;
    if (missing > 0 && !isForced) {
      throw new FaultlineError(
        "conflict",
        `The VM of session ${id} lacks ${missing} pages and would freeze at the next one that it ` +
          "touches. Complete it first, or force it if another handler takes the VM over.",
      );
    }
    session.detach();
    await session.ended;
    return this.#viewOf(session);
  }

  async killSession(id: string): Promise<SessionView> {
    const session = this.#sessions.get(id);
    if (session === undefined) return this.#endedView(id);
    await session.kill();
    return this.#viewOf(session);
  }

  recordTrace(id: string, forMs: number): TraceStream {
    const { record, vm } = this.#attached(id);
    const { engineSession } = vm!;
    return this.#traces.record({ id, memory: record.memory, engineSession }, forMs);
  }

  async report(id: string, connectedAt: string | null = null): Promise<RestoreReport> {
    const session = this.#sessions.get(id);
    if (session === undefined || connectedAt !== null) {
      return await this.reports.named(id, connectedAt);
    }
    const subject = subjectOf(session, this.#parts.generation);
    if (subject !== null) return await this.reports.ofAttached(subject);
    // Names are used again: the last VM of this one may be known.
    return await this.reports.named(id, null);
  }

  async listReports(memory: string | null): Promise<readonly ReportSummary[]> {
    return await this.reports.list(memory);
  }

  images(): readonly ImageView[] {
    return this.memories.all.map(viewOfMemory);
  }

  async prefetchImage(text: string): Promise<PrefetchView> {
    const place = allowedMemory(text, [], this.#parts.settings);
    const memory = await this.memories.use(place.memory, place.layers);
    try {
      const { mapped: image, supply, spareBytes: budgetBytes } = memory.served;
      const report = await prefetch({
        ...{ image, supply, budgetBytes, pageSizeBytes: SMALL_PAGE_BYTES },
        runs: memory.restores.prepare("concurrent"),
        signal: new AbortController().signal,
      });
      const { parts, bytes, lost } = report;
      return { ...viewOfMemory(memory), fetched: { parts, bytes, lost } };
    } finally {
      this.memories.release(memory);
    }
  }

  drain(isDraining: boolean): HostView {
    this.#isDraining = isDraining;
    return this.view();
  }

  reload(): Promise<void> {
    return this.#parts.reload();
  }

  /** One of an earlier pager's, or of this one's. */
  add(session: HostSession): void {
    this.#sessions.set(session.id, session);
    if (session.record.trace) this.#traces.keep(session.id);
    this.#nextSurvivalId = Math.max(this.#nextSurvivalId, session.record.survivalId + 1);
  }

  /** The supervisor has accepted a connection. */
  connected(id: string, connection: OwnedFd): void {
    const session = this.#sessions.get(id);
    if (session === undefined) this.#forgetConnection(id, connection, "connection");
    else void session.connected(connection);
  }

  /** The same for a session's `apf.socket`. */
  connectedAsync(id: string, connection: OwnedFd): void {
    const isWanted = this.#sessions.get(id)?.offerAsync(connection) ?? false;
    if (!isWanted) this.#forgetConnection(id, connection, "async");
  }

  /** Ends what still waits for its VM; resolves when the last VM has ended. */
  async emptied(): Promise<void> {
    this.#isDraining = true;
    for (const session of [...this.#sessions.values()]) {
      if (session.vm === null) session.finish("cancelled", "The daemon ends.");
    }
    if (this.#sessions.size === 0) return;
    await new Promise<void>((resolve) => {
      this.#onEmpty = resolve;
    });
  }

  #open(record: SessionRecord, memory: HostMemory): SessionView {
    const { keeper } = this.#parts;
    const { id } = record;
    const sockets = SessionSockets.listen(record, this.socketFolder);
    const { listener, asyncFaults } = sockets;
    try {
      keepRecord(keeper, record);
      if (asyncFaults !== null) keeper.keep(entryOf(id, "apf"), [asyncFaults.listener.fd]);
      if (listener !== null) keeper.keep(entryOf(id, "listener"), [listener.listener.fd]);
    } catch (error) {
      sockets.close();
      throw error;
    }
    const session = new HostSession(record, memory, sockets, this.surroundings);
    this.#sessions.set(id, session);
    this.#parts.tally.add("created");
    session.listen();
    return this.#viewOf(session);
  }

  #forgetConnection(id: string, connection: OwnedFd, role: "connection" | "async"): void {
    connection.close();
    this.#parts.keeper.drop(entryOf(id, role));
  }

  #reserve(wanted: string | undefined): string {
    const { maxSessions } = this.#parts.settings;
    if (this.#isDraining) {
      throw new FaultlineError("limit", "The daemon is being drained: it takes no more sessions.");
    }
    if (this.#sessions.size + this.#reserved.size >= maxSessions) {
      this.#parts.tally.add("refusedSessions");
      throw new FaultlineError(
        "limit",
        `There are ${this.#sessions.size} sessions, and ${maxSessions} may be. Raise maxSessions.`,
      );
    }
    const id = wanted ?? randomBytes(4).toString("hex");
    if (!SESSION_ID.test(id)) {
      throw new FaultlineError(
        "bad-request",
        `id ${JSON.stringify(id).slice(0, 80)} cannot be used: give up to 64 lower case letters, ` +
          "digits and `-`.",
      );
    }
    if (this.#sessions.has(id) || this.#reserved.has(id)) {
      throw new FaultlineError("conflict", `There is a session ${id} already.`);
    }
    this.#reserved.add(id);
    return id;
  }

  #socketPath(id: string, { socketPath, asyncFaults = false }: SessionSpec): string {
    const wanted = socketPath ?? defaultSocketPath(this.socketFolder, id, asyncFaults);
    const path = allowedSocket(wanted, [this.socketFolder, ...this.#parts.settings.socketFolders]);
    if (asyncFaults) this.#assertFolderIsFree(dirname(path));
    return path;
  }

  /** A VMM knows the second socket by its folder: that is one session's, until its VM has come. */
  #assertFolderIsFree(folder: string): void {
    for (const { id, record, vm } of this.#sessions.values()) {
      if (!record.asyncFaults || vm !== null || dirname(record.socketPath) !== folder) continue;
      throw new FaultlineError(
        "socket-in-use",
        `apf.socket in ${folder} belongs to session ${id}, whose VM has not come. Give each ` +
          "session with asyncFaults a folder of its own, or no socketPath.",
      );
    }
  }

  #recordOf(id: string, spec: SessionSpec, socketPath: string, memory: HostMemory): SessionRecord {
    const { settings } = this.#parts;
    return {
      id,
      survivalId: this.#nextSurvivalId++,
      memoryEntry: memory.entry,
      memory: spec.memory,
      layers: [...(spec.layers ?? [])],
      onError: spec.onError ?? settings.onError,
      prefault: spec.prefault ?? settings.prefault,
      socketPath,
      owner: spec.owner ?? null,
      allowedUids: [...(spec.allowedUids ?? [])],
      connectWithinS: spec.connectWithinS ?? settings.connectWithinS,
      recordForS: spec.recordForS ?? settings.recordForS,
      asyncFaults: spec.asyncFaults ?? false,
      trace: spec.trace ?? false,
      labels: { ...spec.labels },
      createdMs: Date.now(),
    };
  }

  #endedView(id: string): SessionView {
    const found = this.#ended.findLast((each) => each.id === id);
    if (found !== undefined) return found;
    throw new FaultlineError("no-session", `There is no session ${id.slice(0, 80)}.`);
  }

  #attached(id: string): HostSession {
    const session = this.#sessions.get(id);
    const state = session === undefined ? this.#endedView(id).state : "waiting";
    if (session !== undefined && session.vm !== null) return session;
    throw new FaultlineError(
      "conflict",
      `Session ${id} is ${state}: there is no VM to do that to.`,
    );
  }

  #viewOf(session: HostSession): SessionView {
    return viewOfSession(session, this.#parts.generation);
  }

  #forget(session: HostSession): void {
    this.#sessions.delete(session.id);
    this.#ended.push(this.#viewOf(session));
    if (this.#ended.length > MAX_ENDED) this.#ended.shift();
    this.memories.release(session.memory);
    this.#traces.forget(session.id);
    if (this.#sessions.size === 0) this.#onEmpty();
  }
}

function liveVm(session: HostSession): LiveVm[] {
  const { id, vm, prefaultState } = session;
  if (vm === null) return [];
  const { stats, account, regions } = vm.engineSession;
  const { totalBytes: sizeBytes, pageSizeBytes } = regions;
  const waitsFor = waitReason(session);
  return [{ id, stats, account, pageSizeBytes, sizeBytes, prefaultState, waitsFor }];
}
