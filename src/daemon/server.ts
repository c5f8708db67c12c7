/**
 * Serves one snapshot to any number of VMs: listens, receives handshakes, checks them against the
 * snapshot, attaches the VMs to the engine. The composition root of `faultline serve`.
 */
import { setMaxListeners } from "node:events";
import { availableParallelism } from "node:os";
import { describeError, FaultlineError } from "../base/errors.ts";
import { formatBytes, SMALL_PAGE_BYTES } from "../base/units.ts";
import { Engine } from "../engine/engine.ts";
import type { Session } from "../engine/session.ts";
import { SessionStats } from "../engine/session-stats.ts";
import { UserfaultMemory, type UserfaultParts } from "../engine/userfault-memory.ts";
import type { ErrorPolicy } from "../engine/wire.ts";
import { monotonicUs } from "../linux/clock.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { getpagesize } from "../linux/sys.ts";
import type { SpinMode } from "../pager/pacing.ts";
import { type Peer, pinPeer } from "../protocol/peer.ts";
import { HANDSHAKE_TIMEOUT_MS } from "../protocol/receive.ts";
import { closeReceived, receiveVm } from "../protocol/receive-vm.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { MappedImage } from "../source/mapped-image.ts";
import { adoptUserfaultfd } from "../uffd/adopt.ts";
import type { Userfaultfd } from "../uffd/userfaultfd.ts";
import { Acceptor, BACKLOG } from "./acceptor.ts";
import { AsyncFaultSocket } from "./async-fault-socket.ts";
import { assertBelongs } from "./check-handshake.ts";
import { assertLearnable, assertPossible, assertUserfaultPossible } from "./check-options.ts";
import type { ServedVm, WatchableServer } from "./dashboard/server-source.ts";
import { DirtyTracking, type TrackedVm } from "./dirty-tracking.ts";
import { measureTrips } from "./fault-trips.ts";
import { createLogger, type Logger } from "./log.ts";
import { MemoryHost } from "./memory-host.ts";
import type { PrefaultMode } from "./prefault-mode.ts";
import { prefetch } from "./prefetch.ts";
import { RefusalLog } from "./refusal-log.ts";
import { rehearse } from "./rehearsal.ts";
import type { ServeReportParts, ServeReports } from "./reports/serve-reports.ts";
import { type RestoreMode, RestoreWatch } from "./restore-watch.ts";
import type { ImageOptions, MemoryOptions, ServedMemory } from "./served-memory.ts";
import { describeCache, describeSession, tellTroubles } from "./session-report.ts";
import { SocketFile, type SocketOwner } from "./socket-file.ts";
import { noteWaits, servedVm, watchServer } from "./watchable-server.ts";
import type { WorkingSetKeeper } from "./working-set-keeper.ts";

export interface ServeOptions extends MemoryOptions, ImageOptions {
  readonly socketPath: string;
  /** Who may connect; default: this process's user. */
  readonly owner?: SocketOwner;
  /** Serve one VM and then end. */
  readonly once?: boolean;
  /** VMs at the same time; more are refused. */
  readonly maxVms?: number;
  readonly onError?: ErrorPolicy;
  /** A folder: what each VM writes is recorded there, in `PID.session`. Default: nowhere. */
  readonly trackDirty?: string;
  /** Fault workers; default: one less than CPUs, 1 to 4. */
  readonly workers?: number;
  readonly spin?: SpinMode;
  readonly handshakeTimeoutMs?: number;
  /** What is installed ahead of faults, if earlier restores are known; default: `concurrent`. */
  readonly prefault?: PrefaultMode;
  /** What is demanded in this time is what a restore needs; default: 10 s. 0: learn nothing. */
  readonly recordForMs?: number;
  /** Make huge pages of small ones that were installed ahead; default: false. */
  readonly collapse?: boolean;
  /** Give threads that scan memory pages ahead of their faults; default: true. */
  readonly streams?: boolean;
  /** A folder for a report of each restore: where its time has gone. Default: none is written. */
  readonly reportFolder?: string;
  /** Fetch what restores need as soon as the server starts; default: true. */
  readonly prefetch?: boolean;
  /**
   * Listen beside the socket for the asynchronous faults of VMs with KVM Userfault; default: false.
   */
  readonly asyncFaults?: boolean;
  readonly logger?: Logger;
}

interface ServerParts {
  readonly host: MemoryHost;
  readonly memory: ServedMemory;
  readonly socket: SocketFile;
  readonly asyncFaults: AsyncFaultSocket | null;
  readonly engine: Engine;
  readonly tracking: DirtyTracking | null;
  readonly log: Logger;
  readonly keeper: WorkingSetKeeper | null;
  readonly reports: ServeReports | null;
}

export const DEFAULT_MAX_VMS = 1024;
export const DEFAULT_RECORD_FOR_MS = 10_000;

export class Server {
  /** Resolves when the server has ended, by `close()` or after the one VM of `once`. */
  readonly ended: Promise<void>;
  /** Called for each VM as soon as it is attached. */
  onSession: (session: Session) => void = () => {};
  /** VMs that had to be killed, or could not be. */
  failedSessions = 0;
  /** The server ended because no fault worker was left: a bug of ours. */
  hasCrashed = false;
  readonly #options: ServeOptions;
  readonly #host: MemoryHost;
  readonly #memory: ServedMemory;
  readonly #socket: SocketFile;
  /** Null: VMs have no asynchronous faults, or none that they tell of here. */
  readonly #asyncFaults: AsyncFaultSocket | null;
  readonly #engine: Engine;
  readonly #tracking: DirtyTracking | null;
  readonly #log: Logger;
  readonly #acceptor: Acceptor;
  readonly #refusals: RefusalLog;
  readonly #keeper: WorkingSetKeeper | null;
  readonly #restores: RestoreWatch;
  readonly #restoreMode: RestoreMode;
  readonly #prefetching = new AbortController();
  /** Null: nobody wants reports. */
  readonly #reports: ServeReports | null;
  readonly #sessions = new Set<Session>();
  readonly #vms = new WeakMap<Session, ServedVm>();
  readonly #endedStats = new SessionStats();
  readonly #allowedUids: ReadonlySet<number>;
  #resolveEnded: () => void = () => {};
  /** Aborts when no more VMs are taken; its reason is what those under way are refused with. */
  readonly #stopped = new AbortController();
  #isClosing = false;
  #onPrefaulted: RestoreWatch["onPrefaulted"] = () => {};

  private constructor(options: ServeOptions, parts: ServerParts) {
    this.#options = options;
    this.#host = parts.host;
    this.#memory = parts.memory;
    this.#socket = parts.socket;
    this.#asyncFaults = parts.asyncFaults;
    this.#engine = parts.engine;
    this.#tracking = parts.tracking;
    this.#log = parts.log;
    this.#keeper = parts.keeper;
    this.#restoreMode = {
      mode: options.prefault ?? "concurrent",
      recordForMs: options.recordForMs ?? DEFAULT_RECORD_FOR_MS,
    };
    this.#restores = new RestoreWatch({
      keeper: parts.keeper,
      collapse: options.collapse ?? false,
      engine: parts.engine,
      log: parts.log,
    });
    this.#restores.onPrefaulted = (session, report) => {
      const vm = this.#vms.get(session);
      if (vm !== undefined) vm.prefaultState = report.end;
      this.#onPrefaulted(session, report);
    };
    this.#reports = parts.reports;
    this.#refusals = new RefusalLog(parts.log);
    const ownUid = process.geteuid?.() ?? 0;
    this.#allowedUids = new Set([0, ownUid, options.owner?.uid ?? ownUid]);
    this.ended = new Promise((resolve) => {
      this.#resolveEnded = resolve;
    });
    // One listener per handshake under way; the acceptor bounds those.
    setMaxListeners(0, this.#stopped.signal);
    parts.engine.onWorkerCrash = (error) => this.#onWorkerCrash(error);
    this.#acceptor = new Acceptor(parts.socket.listener, parts.log, (connection) =>
      this.#serve(connection),
    );
  }

  /**
   * Opens the snapshot, starts the workers, listens.
   * @throws FaultlineError what is wrong with the snapshot, the socket or the kernel
   */
  static async start(options: ServeOptions): Promise<Server> {
    assertPossible(options);
    const log = options.logger ?? createLogger("warn", "json");
    const host = await MemoryHost.start({ ...options, logger: log });
    let socket: SocketFile | undefined;
    let asyncFaults: AsyncFaultSocket | null = null;
    let engine: Engine | undefined;
    try {
      const memory = await host.open(options);
      assertLearnable(options, memory);
      const keeper = await openKeeper(options, memory, log);
      const { trackDirty } = options;
      const tracking =
        trackDirty === undefined ? null : new DirtyTracking(trackDirty, memory.identity);
      const owner = options.owner ?? null;
      // First: a VMM connects there before it does here.
      if (options.asyncFaults === true) {
        asyncFaults = AsyncFaultSocket.listen(options.socketPath, BACKLOG, owner, log);
      }
      socket = SocketFile.listen(options.socketPath, BACKLOG, { owner });
      engine = await Engine.start({
        workers: options.workers ?? Math.min(4, Math.max(1, availableParallelism() - 1)),
        spin: options.spin ?? "auto",
        supply: host.supply,
        streams: options.streams ?? true,
      });
      await rehearse(engine, memory.mapped, log);
      const faultWorkers = engine.aliveWorkers;
      const reports = await openReports(options, {
        ...{ engine, memoryHost: host, served: memory, faultWorkers, log },
      });
      const server = new Server(options, {
        ...{ host, memory, socket, asyncFaults, engine, tracking, log, keeper, reports },
      });
      server.#acceptor.start();
      void server.#prefetch();
      return server;
    } catch (error) {
      await engine?.close();
      socket?.close();
      asyncFaults?.close();
      await host.close();
      throw error;
    }
  }

  get socketPath(): string {
    return this.#socket.path;
  }

  /** Bytes of the memory image, and how many of them are not known to be zero. */
  get memory(): { readonly sizeBytes: number; readonly dataBytes: number } {
    return { sizeBytes: this.#memory.sizeBytes, dataBytes: this.#memory.dataBytes };
  }

  /** Where the image's bytes are: which parts are data, and whose. */
  get image(): MappedImage {
    return this.#memory.mapped;
  }

  /** Called when nothing more is installed ahead of a VM. */
  set onPrefaulted(listener: RestoreWatch["onPrefaulted"]) {
    this.#onPrefaulted = listener;
  }

  get sessions(): ReadonlySet<Session> {
    return this.#sessions;
  }

  /** For a dashboard in this process. `version`: of the package. */
  watchable(version: string): WatchableServer {
    return watchServer(version, {
      ...{ memoryHost: this.#host, memory: this.#memory, restores: this.#restores },
      memoryName: this.#options.memory,
      maxVms: this.#options.maxVms ?? DEFAULT_MAX_VMS,
      ...{ engine: this.#engine, sessions: this.#sessions },
      ...{ endedStats: this.#endedStats, refusals: this.#refusals, vms: this.#vms },
      stopped: this.#stopped.signal,
    });
  }

  /** Everything counted so far, over all VMs, ended ones included. */
  totalStats(): SessionStats {
    const total = new SessionStats();
    total.add(this.#endedStats);
    for (const session of this.#sessions) total.add(session.stats);
    return total;
  }

  /** How the cache of an image does, since the start, as log fields. */
  cacheStatistics(): Readonly<Record<string, string | number>> {
    return describeCache(this.#host.cacheStatistics());
  }

  /** VMs whose handshake was refused so far. */
  get refusedVms(): number {
    return this.#refusals.total;
  }

  /** Takes no more VMs and removes the socket; VMs that are attached go on. */
  stopAccepting(why = "this handler is about to end"): void {
    this.#stopped.abort(new FaultlineError("handshake", `No more VMs are taken: ${why}.`));
    if (!this.#acceptor.stop()) return;
    this.#socket.close();
    this.#asyncFaults?.close();
  }

  /** Ends. VMs that are still attached freeze at their next missing page. */
  async close(): Promise<void> {
    if (this.#isClosing) return this.ended;
    this.#isClosing = true;
    this.stopAccepting();
    this.#prefetching.abort();
    await this.#engine.close();
    await this.#reports?.close();
    await this.#keeper?.close();
    await this.#host.close();
    this.#refusals.tellRest();
    this.#resolveEnded();
  }

  /** What earlier restores needed comes into memory before the first VM does. */
  async #prefetch(): Promise<void> {
    const runs = this.#restores.prepare(this.#restoreMode.mode);
    if (this.#options.prefetch === false) return;
    const pageSizeBytes = SMALL_PAGE_BYTES;
    const { mapped: image, supply, spareBytes: budgetBytes } = this.#memory;
    const { signal } = this.#prefetching;
    const report = await prefetch({ image, supply, runs, pageSizeBytes, budgetBytes, signal });
    if (report.parts + report.lost === 0) return;
    const { parts, bytes, lost } = report;
    this.#log.info({ parts, memory: formatBytes(bytes), lost }, "Prefetched what restores need");
  }

  /** One connection's handshake. Whatever is wrong with it concerns only itself. */
  async #serve(connection: OwnedFd): Promise<void> {
    const connectedUs = monotonicUs();
    let peer: Peer | null = null;
    try {
      peer = pinPeer(connection.fd, this.#allowedUids);
      const session = await this.#attach(connection, peer, connectedUs);
      void this.#follow(session);
    } catch (error) {
      this.#refusals.add({ pid: peer?.pid }, describeError(error));
      peer?.pidfd.close();
    } finally {
      connection.close();
    }
  }

  async #attach(connection: OwnedFd, peer: Peer, connectedUs: number): Promise<Session> {
    const timeoutMs = this.#options.handshakeTimeoutMs ?? HANDSHAKE_TIMEOUT_MS;
    const { signal } = this.#stopped;
    const hostPageBytes = getpagesize();
    const vm = await receiveVm(connection, { timeoutMs, signal, hostPageBytes });
    const asyncSocket = this.#asyncFaults?.take(peer.pid) ?? null;
    let tracked: TrackedVm | null = null;
    let userfault: UserfaultMemory | null = null;
    let uffd: Userfaultfd;
    try {
      const { regions } = vm;
      this.#checkAgainstSnapshot(regions);
      uffd = adoptUserfaultfd(vm.descriptor, regions.ranges);
      if (vm.userfault === null) asyncSocket?.close();
      else userfault = this.#openUserfault({ ...vm.userfault, asyncSocket }, regions);
      tracked = this.#tracking?.begin(peer.pid, regions, uffd) ?? null;
    } catch (error) {
      userfault?.retire();
      asyncSocket?.close();
      closeReceived(vm);
      throw error;
    }
    // Not to be undone: from here on a fault worker has the VM.
    const { regions } = vm;
    const plan = this.#restores.planFor(regions, this.#restoreMode);
    const session = this.#engine.attach({
      pid: peer.pid,
      userfaultfd: uffd,
      pidfd: peer.pidfd,
      socket: connection,
      regions,
      image: this.#memory.mapped,
      onError: this.#options.onError ?? "kill",
      ...plan,
      ...{ connectedUs, userfault, tracking: tracked?.setup ?? null },
    });
    this.#vms.set(session, servedVm(plan, tracked));
    this.#restores.follow(session, plan);
    this.#reports?.follow(session, this.#restores);
    tracked?.follow(session.ended);
    // At once: the next handshake may be checked before this promise is settled.
    this.#sessions.add(session);
    if (this.#options.once === true) this.stopAccepting("--once serves one, and it has come");
    return session;
  }

  #openUserfault(parts: UserfaultParts, regions: RegionMap): UserfaultMemory {
    assertUserfaultPossible(this.#options);
    return UserfaultMemory.open(parts, regions);
  }

  #checkAgainstSnapshot(regions: RegionMap): void {
    this.#stopped.signal.throwIfAborted();
    const limit = this.#options.maxVms ?? DEFAULT_MAX_VMS;
    if (this.#sessions.size >= limit) {
      throw new FaultlineError(
        "handshake",
        `${this.#sessions.size} VMs are attached, and ${limit} may be. Raise --max-vms.`,
      );
    }
    assertBelongs(regions, this.#memory.sizeBytes);
    this.#memory.assertUnchanged();
  }

  #onWorkerCrash(error: unknown): void {
    this.#log.error(
      { reason: describeError(error) },
      "A fault worker crashed; its VMs were killed",
    );
    if (this.#engine.aliveWorkers > 0) return;
    this.hasCrashed = true;
    void this.close();
  }

  /** Logs a session's life until it is over. */
  async #follow(session: Session): Promise<void> {
    const { pid, regions } = session;
    tellTroubles(session, this.#log, () => {
      this.failedSessions += 1;
    });
    noteWaits(session, this.#vms.get(session)!);
    this.#log.info(
      {
        pid,
        memory: formatBytes(regions.totalBytes),
        regions: regions.regions.length,
        pageSize: formatBytes(regions.pageSizeBytes),
      },
      "Attached a VM",
    );
    this.onSession(session);
    const end = await session.ended;
    this.#sessions.delete(session);
    this.#endedStats.add(session.stats);
    const fields = { ...describeSession(session), ...this.#restores.describe(session) };
    this.#log.info({ pid, reason: end.reason, ...fields }, "Detached a VM");
    if (this.#options.once === true && this.#sessions.size === 0) await this.close();
  }
}

/** Its code is loaded only where there is a place to keep what is learnt: a server starts fast. */
async function openKeeper(
  { prefault, recordForMs }: ServeOptions,
  { workingSet: place }: ServedMemory,
  log: Logger,
): Promise<WorkingSetKeeper | null> {
  if (place === null || (prefault === "off" && recordForMs === 0)) return null;
  const { WorkingSetKeeper } = await import("./working-set-keeper.ts");
  return await WorkingSetKeeper.open({ place, log });
}

/** Loaded where somebody wants reports, for the same reason. */
async function openReports(
  options: ServeOptions,
  { engine, ...parts }: Omit<ServeReportParts, "trips"> & { readonly engine: Engine },
): Promise<ServeReports | null> {
  if (options.reportFolder === undefined) return null;
  const { ServeReports } = await import("./reports/serve-reports.ts");
  const trips = await measureTrips(engine, parts);
  return new ServeReports(options.reportFolder, options, { ...parts, trips });
}
