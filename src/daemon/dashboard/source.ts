/**
 * What a dashboard is made of, wherever it comes from: the daemon's host (`host-source.ts`), or a
 * server of one memory in this process (`server-source.ts`).
 */
import type { OwnerRuns } from "../../base/owner-runs.ts";
import type { DemandLog } from "../../engine/demand-log.ts";
import type { RestoreAccount } from "../../engine/restore-account.ts";
import type { SessionStats } from "../../engine/session-stats.ts";
import type { PageTable } from "../../pager/page-table.ts";
import type { PageRuns } from "../../pager/prefaulter.ts";
import type { RegionMap } from "../../snapshot/regions.ts";
import type { CacheRow, HostRow, ImageRow, PageSource, SessionRow, StoreRow } from "./protocol.ts";

/** A VM that is attached, as its map and the stories of its pages need it. */
export interface WatchedVm {
  readonly pageTable: PageTable;
  readonly regions: RegionMap;
  readonly stats: SessionStats;
  readonly account: RestoreAccount;
  readonly demandLog: DemandLog | null;
  /** Where the image's bytes are: its zeroes, and the owners that `layers` tells of. */
  readonly runs: OwnerRuns;
  /** Milliseconds since 1970. */
  readonly attachedMs: number;
  /** What is to be installed ahead of it. Another object when it is another plan. */
  readonly plan: WatchedPlan | null;
  readonly layers: LayerNames;
  readonly tracksDirty: boolean;
  /** A bit for each page that was written. Null: not known, or not any more. Not to be kept. */
  dirtyBits(): Uint8Array | null;
  /** Where the bytes of a page come from, and whether they are at hand. */
  sourceOf(page: number): SourceOfPage;
  /** Why the VM has ended; null: it has not. To be asked: nothing of a viewer hangs on a VM. */
  endReason(): string | null;
}

export interface WatchedPlan {
  readonly runs: PageRuns;
  /** And after these runs all other pages. */
  readonly completes: boolean;
  /** … but for those that are there or removed in this page table; null: there were none. */
  readonly before: Uint8Array | null;
}

export interface LayerNames {
  /** At most 254. */
  readonly names: readonly string[];
  /** The index in `names` of an owner of the runs that is not zero. */
  indexOf(owner: number): number;
}

export interface SourceOfPage {
  readonly source: PageSource;
  readonly inCache: boolean | null;
}

/** A session as the overview has it. */
export interface ListedSession {
  readonly id: string;
  /** Another one whenever `row` may be another one; costs next to nothing. */
  readonly version: string;
  row(): SessionRow;
}

export interface DashboardSource {
  /** Whatever takes its time, before a viewer is told all; never rejects. */
  prepare(): Promise<void>;
  host(): HostRow;
  /** In order of creation; without those that have ended. */
  sessions(): Iterable<ListedSession>;
  /** Why a session that is not listed any more has ended; null: nobody knows. */
  endReason(id: string): string | null;
  /** Everything counted, over all VMs that there ever were. */
  stats(): Iterable<SessionStats>;
  refusedHandshakes(): number;
  images(): readonly ImageRow[];
  stores(): readonly StoreRow[];
  cache(): CacheRow;
  /** @throws FaultlineError `no-session`, `conflict` while it waits for its VM */
  vm(id: string): WatchedVm;
}
