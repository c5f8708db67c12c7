/** What the daemon's host knows, as a dashboard needs it. */
import { FaultlineError } from "../../base/errors.ts";
import type { SessionStats } from "../../engine/session-stats.ts";
import type { PrefaultSetup } from "../../engine/wire.ts";
import { isInChunks } from "../../source/mapped-image.ts";
import type { Host } from "../host.ts";
import { statisticsOfStore } from "../host-numbers.ts";
import type { HostSession } from "../host-session.ts";
import type { HostTally } from "../host-tally.ts";
import { waitReason } from "../host-views.ts";
import type { MemoryHost } from "../memory-host.ts";
import { cacheRowOf, imageRowOf, layerNamesOf } from "./memory-view.ts";
import { versionOf } from "./numbers.ts";
import { sourceOfPage } from "./page-source.ts";
import type { CacheRow, HostRow, ImageRow, SessionRow, StoreRow } from "./protocol.ts";
import { attachedRow, waitingRow } from "./session-row.ts";
import { ChunkSharing, type OpenImage } from "./sharing.ts";
import type { DashboardSource, ListedSession, WatchedPlan, WatchedVm } from "./source.ts";

const noPages = { starts: new Uint32Array(0), counts: new Uint32Array(0) };

export interface HostSourceParts {
  readonly host: Host;
  readonly memoryHost: MemoryHost;
  readonly tally: HostTally;
}

export class HostSource implements DashboardSource {
  readonly #parts: HostSourceParts;
  readonly #sharing: ChunkSharing;

  constructor(parts: HostSourceParts) {
    this.#parts = parts;
    this.#sharing = new ChunkSharing(() => this.#openImages());
  }

  async prepare(): Promise<void> {
    await this.#sharing.update();
  }

  host(): HostRow {
    return { ...this.#parts.host.view(), isDaemon: true };
  }

  *sessions(): Iterable<ListedSession> {
    for (const session of this.#parts.host.live) yield new Listed(session);
  }

  endReason(id: string): string | null {
    return this.#parts.host.lastEnd(id)?.reason ?? null;
  }

  *stats(): Iterable<SessionStats> {
    yield this.#parts.tally.ended;
    for (const { vm } of this.#parts.host.live) if (vm !== null) yield vm.engineSession.stats;
  }

  refusedHandshakes(): number {
    return this.#parts.tally.get("refusedHandshakes");
  }

  images(): readonly ImageRow[] {
    // What has come since is there at the next look.
    void this.#sharing.update();
    return this.#parts.host.memories.all.map(({ memory, served, users }) =>
      imageRowOf(memory, served, users, this.#sharing),
    );
  }

  stores(): readonly StoreRow[] {
    const stores = [...this.#parts.memoryHost.storeStatistics()];
    return stores.map(([location, stats]) => statisticsOfStore(location, stats));
  }

  cache(): CacheRow {
    return cacheRowOf(this.#parts.memoryHost.cacheStatistics());
  }

  vm(id: string): WatchedVm {
    const session = this.#parts.host.liveSession(id);
    const { vm, memory } = session;
    if (vm === null) {
      throw new FaultlineError("conflict", `Session ${id} waits for its VM: there is no map yet.`);
    }
    const { engineSession, attachment } = vm;
    const { pageTable, regions, stats, account, demandLog } = engineSession;
    const { served, restores } = memory;
    const prefault = restores.planOf(engineSession)?.prefault ?? null;
    let mode = session.record.prefault;
    let plan = planOf(prefault, session);
    return {
      ...{ pageTable, regions, stats, account, demandLog },
      runs: served.mapped.runs,
      attachedMs: attachment.attachedMs,
      get plan() {
        if (session.record.prefault !== mode) {
          mode = session.record.prefault;
          plan = planOf(prefault, session);
        }
        return plan;
      },
      layers: layerNamesOf(served, this.#sharing),
      tracksDirty: false,
      dirtyBits: () => null,
      sourceOf: (page) => sourceOfPage(served, page, regions.pageSizeBytes),
      endReason: () => session.end?.reason ?? null,
    };
  }

  #openImages(): OpenImage[] {
    return this.#parts.host.memories.all.flatMap(({ memory, served: { mapped } }) =>
      isInChunks(mapped) ? [{ memory, mapped }] : [],
    );
  }
}

/** Completion may have been asked for when the VM was there already. */
function planOf(
  prefault: PrefaultSetup | null,
  { record, beforeCompletion: before }: HostSession,
): WatchedPlan | null {
  const completes = record.prefault === "all";
  if (prefault === null && !completes) return null;
  return { runs: prefault?.pages ?? noPages, completes, before };
}

class Listed implements ListedSession {
  readonly #session: HostSession;

  constructor(session: HostSession) {
    this.#session = session;
  }

  get id(): string {
    return this.#session.id;
  }

  get version(): string {
    const { vm, prefaultState, wait, frozenFor } = this.#session;
    if (vm === null) return "waiting";
    const { stats, account } = vm.engineSession;
    return `${versionOf(stats, account.markUs)} ${prefaultState} ${wait.last} ${frozenFor}`;
  }

  row(): SessionRow {
    const { id, record, memory, vm, prefaultState } = this.#session;
    const { labels } = record;
    const names = { id, memory: record.memory, sizeBytes: memory.served.sizeBytes, labels };
    if (vm === null) return waitingRow(names);
    const { pid, attachedMs } = vm.attachment;
    const { regions, stats, account } = vm.engineSession;
    const { pageSizeBytes, totalBytes: sizeBytes } = regions;
    const waitsFor = waitReason(this.#session);
    return attachedRow(names, {
      ...{ pid, attachedMs, pageSizeBytes, sizeBytes, stats, account, waitsFor, prefaultState },
    });
  }
}
