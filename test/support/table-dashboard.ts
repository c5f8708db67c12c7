/** A dashboard over sessions and VMs of a table: where its streams are tested without a daemon. */
import { FaultlineError } from "../../src/base/errors.ts";
import { ZERO_OWNER } from "../../src/base/owner-runs.ts";
import { hostAddress, imageOffset } from "../../src/base/units.ts";
import type { DashboardAccess } from "../../src/daemon/control/operations.ts";
import { Dashboard, type DashboardOptions } from "../../src/daemon/dashboard/dashboard.ts";
import type {
  CacheRow,
  DashboardPlace,
  HostRow,
  ImageRow,
  SessionRow,
  StoreRow,
} from "../../src/daemon/dashboard/protocol.ts";
import { waitingRow } from "../../src/daemon/dashboard/session-row.ts";
import type {
  DashboardSource,
  ListedSession,
  WatchedVm,
} from "../../src/daemon/dashboard/source.ts";
import type { Logger } from "../../src/daemon/log.ts";
import { DemandLog } from "../../src/engine/demand-log.ts";
import { RestoreAccount } from "../../src/engine/restore-account.ts";
import { SessionStats } from "../../src/engine/session-stats.ts";
import { PageTable } from "../../src/pager/page-table.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";

export const PAGE = 4096;
export const VM_ADDRESS = 0x7f00_0000_0000;

/** A VM whose page table, log and counters a test writes itself. */
export class TableVm implements WatchedVm {
  readonly regions: RegionMap;
  readonly pageTable: PageTable;
  readonly stats = new SessionStats();
  readonly account: RestoreAccount;
  readonly demandLog: DemandLog;
  readonly runs: WatchedVm["runs"];
  readonly attachedMs = Date.now();
  plan: WatchedVm["plan"] = null;
  readonly layers = { names: ["base"], indexOf: () => 0 };
  tracksDirty = false;
  dirty: Uint8Array | null = null;
  #endReason: string | null = null;

  /** `owners`: whose bytes each page has. Default: all have bytes of one file. */
  constructor(pageCount: number, owners: Int32Array = Int32Array.of(0)) {
    const sizeBytes = pageCount * PAGE;
    const region = {
      baseHostAddress: hostAddress(VM_ADDRESS),
      sizeBytes,
      imageOffset: imageOffset(0),
    };
    this.regions = new RegionMap([region], PAGE);
    this.pageTable = new PageTable(pageCount, new Uint8Array(PageTable.sizeBytes(pageCount)));
    this.account = new RestoreAccount(new ArrayBuffer(RestoreAccount.sizeBytes), 0, pageCount);
    this.demandLog = new DemandLog(DemandLog.allocate(pageCount));
    this.runs = { sizeBytes, starts: Float64Array.from(owners, (_, page) => page * PAGE), owners };
  }

  end(reason: string): void {
    this.#endReason = reason;
  }

  endReason(): string | null {
    return this.#endReason;
  }

  dirtyBits(): Uint8Array | null {
    return this.dirty;
  }

  sourceOf(page: number): ReturnType<WatchedVm["sourceOf"]> {
    const name = "/srv/vm.mem";
    const { sizeBytes, owners } = this.runs;
    if (owners[page] === ZERO_OWNER) {
      const zeroes = { kind: "zero", name: "", offset: null, store: null, sizeBytes: 0 } as const;
      return { source: zeroes, inCache: null };
    }
    const source = { kind: "file", name, offset: page * PAGE, store: null, sizeBytes } as const;
    return { source, inCache: true };
  }
}

export class TableSource implements DashboardSource {
  readonly vms = new Map<string, TableVm>();
  readonly rows = new Map<string, SessionRow>();
  imageRows: ImageRow[] = [];
  isDraining = false;

  async prepare(): Promise<void> {}

  /** A session that waits, until its row is another. */
  add(id: string): void {
    this.rows.set(id, waitingRow({ id, memory: "/srv/vm.mem", sizeBytes: PAGE, labels: {} }));
  }

  host(): HostRow {
    const sessions = { waiting: this.rows.size, attached: 0 };
    const workers = { alive: 1, started: 1 };
    const startedAt = new Date(0).toISOString();
    const { isDraining } = this;
    return {
      isDaemon: true,
      ...{ version: "0", pid: 1, startedAt, isDraining, sessions },
      ...{ maxSessions: 1024, takeovers: 0, workers },
    };
  }

  sessions(): Iterable<ListedSession> {
    return [...this.rows].map(([id, row]) => ({
      id,
      version: JSON.stringify(row),
      row: () => row,
    }));
  }

  endReason(): string | null {
    return "exited";
  }

  stats(): Iterable<SessionStats> {
    return [...this.vms.values()].map(({ stats }) => stats);
  }

  refusedHandshakes(): number {
    return 0;
  }

  images(): readonly ImageRow[] {
    return this.imageRows;
  }

  stores(): readonly StoreRow[] {
    return [];
  }

  cache(): CacheRow {
    return {
      ...{ sizeBytes: 0, usedBytes: 0, chunks: 0, loads: 0, failed: 0 },
      ...{ evictions: 0, again: 0, prefetches: 0 },
    };
  }

  vm(id: string): WatchedVm {
    const vm = this.vms.get(id);
    if (vm !== undefined) return vm;
    throw new FaultlineError("no-session", `There is no session ${id}.`);
  }
}

export class TableDashboard implements DashboardAccess {
  readonly source = new TableSource();
  readonly dashboard: Dashboard;
  /** What it logged. */
  readonly complaints: string[] = [];
  /** Where it says that it is. */
  at: DashboardPlace = { address: null, token: null };

  constructor(options: DashboardOptions = {}) {
    const error = (_: object, message: string): void => void this.complaints.push(message);
    this.dashboard = new Dashboard(this.source, { error } as unknown as Logger, options);
  }

  async load(): Promise<Dashboard> {
    return this.dashboard;
  }

  place(): DashboardPlace {
    return this.at;
  }
}
