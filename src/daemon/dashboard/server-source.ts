/**
 * What a server of one memory in this process knows, as a dashboard needs it: `faultline serve` and
 * the demo. Sessions are named by their VM's process: `vm-PID`.
 */
import { FaultlineError } from "../../base/errors.ts";
import type { Session } from "../../engine/session.ts";
import type { SessionStats } from "../../engine/session-stats.ts";
import { isInChunks } from "../../source/mapped-image.ts";
import { statisticsOfStore } from "../host-numbers.ts";
import type { MemoryHost } from "../memory-host.ts";
import type { RestoreWatch } from "../restore-watch.ts";
import type { ServedMemory } from "../served-memory.ts";
import type { WaitNote } from "../wait-note.ts";
import { cacheRowOf, imageRowOf, layerNamesOf } from "./memory-view.ts";
import { versionOf } from "./numbers.ts";
import { sourceOfPage } from "./page-source.ts";
import type { CacheRow, HostRow, ImageRow, SessionRow, StoreRow } from "./protocol.ts";
import { attachedRow } from "./session-row.ts";
import { ChunkSharing } from "./sharing.ts";
import type { DashboardSource, ListedSession, WatchedVm } from "./source.ts";

/** What the server knows of a VM besides its session. */
export interface ServedVm {
  readonly attachedMs: number;
  readonly wait: WaitNote;
  prefaultState: SessionRow["prefaultState"];
  /** Of `--track-dirty`; null: writes are not tracked. */
  readonly dirtyBits: (() => Uint8Array | null) | null;
}

/** A server, as far as it can be watched. */
export interface WatchableServer {
  readonly version: string;
  /** As it was asked for. */
  readonly memoryName: string;
  readonly memory: ServedMemory;
  readonly memoryHost: MemoryHost;
  readonly restores: RestoreWatch;
  readonly maxVms: number;
  readonly workers: { readonly alive: number; readonly started: number };
  readonly sessions: ReadonlySet<Session>;
  readonly endedStats: SessionStats;
  readonly refusedVms: number;
  readonly isDraining: boolean;
  vmOf(session: Session): ServedVm;
}

/** `reason`: null while the VM lives. */
interface Fate {
  reason: string | null;
}

/** Ends that are remembered, for sessions that are told of for a while. */
const MAX_ENDS = 256;

export class ServerSource implements DashboardSource {
  readonly #server: WatchableServer;
  readonly #sharing: ChunkSharing;
  readonly #startedAt = new Date().toISOString();
  /** Of each session that was looked at, once: a VM lives longer than those who look at it. */
  readonly #fates = new WeakMap<Session, Fate>();
  readonly #ends = new Map<string, string>();

  constructor(server: WatchableServer) {
    this.#server = server;
    this.#sharing = new ChunkSharing(() => {
      const { memoryName, memory } = server;
      const { mapped } = memory;
      return isInChunks(mapped) ? [{ memory: memoryName, mapped }] : [];
    });
  }

  async prepare(): Promise<void> {
    await this.#sharing.update();
  }

  host(): HostRow {
    const { version, sessions, maxVms: maxSessions, workers, isDraining } = this.#server;
    return {
      isDaemon: false,
      ...{ version, pid: process.pid, startedAt: this.#startedAt, isDraining, maxSessions },
      sessions: { waiting: 0, attached: sessions.size },
      takeovers: 0,
      workers,
    };
  }

  *sessions(): Iterable<ListedSession> {
    for (const session of this.#server.sessions) {
      this.#fateOf(session);
      const { wait, prefaultState } = this.#server.vmOf(session);
      const { stats, account } = session;
      yield {
        id: idOf(session),
        version: `${versionOf(stats, account.markUs)} ${prefaultState} ${wait.last}`,
        row: () => this.#rowOf(session),
      };
    }
  }

  endReason(id: string): string | null {
    return this.#ends.get(id) ?? null;
  }

  *stats(): Iterable<SessionStats> {
    yield this.#server.endedStats;
    for (const { stats } of this.#server.sessions) yield stats;
  }

  refusedHandshakes(): number {
    return this.#server.refusedVms;
  }

  images(): readonly ImageRow[] {
    const { memoryName, memory, sessions } = this.#server;
    return [imageRowOf(memoryName, memory, sessions.size, this.#sharing)];
  }

  stores(): readonly StoreRow[] {
    const stores = [...this.#server.memoryHost.storeStatistics()];
    return stores.map(([location, stats]) => statisticsOfStore(location, stats));
  }

  cache(): CacheRow {
    return cacheRowOf(this.#server.memoryHost.cacheStatistics());
  }

  vm(id: string): WatchedVm {
    const session = [...this.#server.sessions].find((each) => idOf(each) === id);
    if (session === undefined) {
      throw new FaultlineError("no-session", `There is no session ${id.slice(0, 80)}.`);
    }
    const { memory, restores } = this.#server;
    const { pageTable, regions, stats, account, demandLog } = session;
    const { attachedMs, dirtyBits } = this.#server.vmOf(session);
    const fate = this.#fateOf(session);
    const prefault = restores.planOf(session)?.prefault ?? null;
    return {
      ...{ pageTable, regions, stats, account, demandLog, attachedMs },
      runs: memory.mapped.runs,
      plan: prefault && { runs: prefault.pages, completes: prefault.completes, before: null },
      layers: layerNamesOf(memory, this.#sharing),
      tracksDirty: dirtyBits !== null,
      dirtyBits: dirtyBits ?? (() => null),
      sourceOf: (page) => sourceOfPage(memory, page, regions.pageSizeBytes),
      endReason: () => fate.reason,
    };
  }

  #rowOf(session: Session): SessionRow {
    const { memoryName, memory } = this.#server;
    const { pid, stats, account, regions, pageTable } = session;
    const { attachedMs, wait, prefaultState } = this.#server.vmOf(session);
    const { pageSizeBytes, totalBytes: sizeBytes } = regions;
    return attachedRow(
      { id: idOf(session), memory: memoryName, sizeBytes: memory.sizeBytes, labels: {} },
      {
        ...{ pid, attachedMs, pageSizeBytes, sizeBytes, stats, account, prefaultState },
        waitsFor: wait.reason(pageTable),
      },
    );
  }

  #fateOf(session: Session): Fate {
    const known = this.#fates.get(session);
    if (known !== undefined) return known;
    const fate: Fate = { reason: null };
    this.#fates.set(session, fate);
    void session.ended.then(({ reason }) => {
      fate.reason = reason;
      this.#ends.set(idOf(session), reason);
      const [oldest] = this.#ends.keys();
      if (this.#ends.size > MAX_ENDS && oldest !== undefined) this.#ends.delete(oldest);
    });
    return fate;
  }
}

function idOf({ pid }: Session): string {
  return `vm-${pid}`;
}
