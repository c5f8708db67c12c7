/**
 * A recording: what a fault worker did for one VM, record by record, as a `.fltrace` file holds it
 * (docs/FORMAT.md). Kinds and causes are numbers here, and have the names that the file gives them:
 * so a reader needs not be of its writer's version. PURE.
 */

/** What stands in front of the records. */
export interface RecordingHeader {
  readonly session: string;
  /** As it was asked for. */
  readonly memory: string;
  /** Of the VMM. */
  readonly pid: number;
  readonly sizeBytes: number;
  readonly pageSizeBytes: number;
  /** Ordinals of pages are below. */
  readonly pageCount: number;
  readonly regions: readonly RecordedRegion[];
  /** The moment from which times are counted, ISO 8601: when this pager attached the VM. */
  readonly attachedAt: string;
  /** Names of kinds and causes, by their numbers. */
  readonly kinds: readonly string[];
  readonly causes: readonly string[];
}

/** A run of guest memory in the VMM's address space. */
export interface RecordedRegion {
  readonly hostAddress: number;
  readonly sizeBytes: number;
  readonly imageOffset: number;
}

/** Column by column. */
export interface TraceRecords {
  readonly count: number;
  /** Since `attachedAt`. Mostly ascending, but not always. */
  readonly timesUs: Float64Array;
  readonly kinds: Uint8Array;
  readonly causes: Uint8Array;
  readonly pages: Float64Array;
  readonly pageCounts: Uint16Array;
  /** Tenths of microseconds. */
  readonly costs: Uint32Array;
}

/**
 * Why a recording ended: its time was over (`asked`), the session `ended`, the daemon `stopped`, as
 * many records as a file may have were written (`full`), whoever recorded had enough
 * (`interrupted`), or the pager was gone without a word (`broken`).
 */
export const endings = ["asked", "ended", "stopped", "full", "interrupted", "broken"] as const;
export type Ending = (typeof endings)[number];

export interface Recording {
  readonly header: RecordingHeader;
  readonly records: TraceRecords;
  /** Records that were overwritten before they could be read. */
  readonly lost: number;
  /** Of these, before the first that is here. */
  readonly lostInFront: number;
  /** Null: the file was cut off. */
  readonly ending: Ending | null;
  /** What follows the last whole block, if that is not what should: for people. */
  readonly damage: string | null;
}

/** More than any restore: some 50 MB in a file, 170 MB in memory, and in one `Map`. */
export const MAX_RECORDS = 2 ** 23;
