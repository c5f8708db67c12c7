/**
 * What the dashboard's page and the daemon say to each other: the events of the streams, the states
 * of cells, the story of a page. The page is built of this file too, so it runs in a browser:
 * types, and what decodes them. PURE.
 *
 * A cell is a square of the map: one or more neighbouring pages of guest memory.
 */
import type { CauseTimes, RestoreCause } from "../../base/restore-causes.ts";
import { VarintReader } from "../../base/varints.ts";

/** Kinds of cells, in the order of their numbers: the low 4 bits of a cell's byte. */
export const cellKinds = [
  /** Nobody has asked for it. */
  "untouched",
  /** Somebody waits for it. */
  "pending",
  /** There, as the guest demanded it. */
  "present",
  /** There as zeroes: the snapshot holds no bytes for it. */
  "zero",
  /** There before the guest asked for it. */
  "prefaulted",
  /** The VMM took it back: it reads as zeroes from then on. */
  "removed",
  /** The guest has written to it (only where that is tracked). */
  "dirty",
  /** The VM has no memory at this place. */
  "none",
] as const;
export type CellKind = (typeof cellKinds)[number];

/** By its place in `cellKinds`. */
export const Cell = Object.fromEntries(cellKinds.map((name, index) => [name, index])) as Readonly<
  Record<CellKind, number>
>;

/** The largest share that a cell's byte can tell. */
export const FULL_SHARE = 15;

/** `share`, 0 to 15: how much of the cell is not untouched. */
export function cellByte(kind: number, share: number): number {
  return kind | (share << 4);
}

/** The place in `cellKinds` of a cell's byte. */
export function kindOfCell(byte: number): number {
  return byte & 15;
}

export function shareOfCell(byte: number): number {
  return byte >> 4;
}

/** At most so many cells in one map. */
export const MAX_CELLS = 262_144;
/** Unless a scale is asked for, a cell is at least so large. */
export const LEAST_CELL_BYTES = 65_536;
/** In `layers`: zeroes, or no memory. */
export const NO_LAYER = 255;
/** In `ages`: not known, or not there. */
export const NO_AGE = 0xffffffff;

/** `GET /v1/watch`: the events by name. The first is `snapshot`, also after a reconnection. */
export interface OverviewEvents {
  readonly snapshot: Overview;
  readonly update: OverviewUpdate;
}

export interface Overview {
  readonly host: HostRow;
  /** In order of creation; with the last that have ended while somebody watched. */
  readonly sessions: readonly SessionRow[];
  readonly numbers: OverviewNumbers;
  readonly images: readonly ImageRow[];
  readonly stores: readonly StoreRow[];
  readonly cache: CacheRow;
}

/** What has changed since the last event, each as a whole. */
export interface OverviewUpdate {
  readonly host?: HostRow;
  /** Rows that are new or have changed, also those of sessions that have ended: `state` says so. */
  readonly sessions?: readonly SessionRow[];
  /** Ids of sessions that are not told of any more: they ended a while ago, and others since. */
  readonly gone?: readonly string[];
  readonly numbers?: OverviewNumbers;
  readonly images?: readonly ImageRow[];
  readonly stores?: readonly StoreRow[];
  readonly cache?: CacheRow;
}

export interface HostRow {
  /** What `faultline why` can ask. False: a single `serve`, or the demo. */
  readonly isDaemon: boolean;
  readonly version: string;
  readonly pid: number;
  /** ISO 8601, as are all moments but `atMs`. */
  readonly startedAt: string;
  readonly isDraining: boolean;
  readonly sessions: { readonly waiting: number; readonly attached: number };
  readonly maxSessions: number;
  /** How often the pager has been started since the daemon was. */
  readonly takeovers: number;
  readonly workers: { readonly alive: number; readonly started: number };
}

export interface SessionRow {
  readonly id: string;
  readonly state: "waiting" | "attached" | "ended";
  readonly memory: string;
  readonly sizeBytes: number;
  /** 0 while it waits for its VM. */
  readonly pageSizeBytes: number;
  readonly pid: number | null;
  readonly labels: Readonly<Record<string, string>>;
  readonly attachedAt: string | null;
  /** `present`: those that were installed, by their counters; never more than there are. */
  readonly pages: { readonly total: number; readonly present: number; readonly removed: number };
  /** Ever, as is all that counts. */
  readonly faults: number;
  readonly p50Us: number;
  readonly p99Us: number;
  /** For how long one of its threads has waited, all together. */
  readonly waitedUs: number;
  /** What it stands still for, if it does. */
  readonly waitsFor: string | null;
  readonly prefaultState: "off" | "running" | "done" | "stopped" | "cancelled" | "kept";
  readonly endReason: string | null;
}

/** [bucket of `base/histogram.ts`, how many]: only buckets that are not empty. */
export type SparseBuckets = readonly (readonly [number, number])[];

/** Over all VMs that there ever were. Rates are differences of two of these. */
export interface OverviewNumbers {
  /** Milliseconds since 1970, by the daemon's clock. */
  readonly atMs: number;
  readonly faults: number;
  readonly installedPages: number;
  readonly zeroPages: number;
  readonly prefaultedPages: number;
  readonly removedPages: number;
  readonly latencyBuckets: SparseBuckets;
  readonly refusedHandshakes: number;
}

export interface ImageRow {
  readonly memory: string;
  readonly kind: "files" | "image";
  readonly sizeBytes: number;
  readonly dataBytes: number;
  /** Sessions that use it now. */
  readonly sessions: number;
  /** Distinct ones; null: memory files have none, or they are not counted yet. */
  readonly chunks: number | null;
  /** Of these, in another open image as well. */
  readonly sharedChunks: number | null;
  /** With which, those that share most first: at most 8. */
  readonly sharedWith: readonly { readonly memory: string; readonly chunks: number }[];
}

export interface StoreRow {
  readonly location: string;
  readonly reads: number;
  readonly retries: number;
  readonly failures: number;
  readonly running: number;
  readonly waiting: number;
  readonly readMs: { readonly p50: number; readonly p99: number };
}

/** Of decoded chunks, since this pager was started. */
export interface CacheRow {
  readonly sizeBytes: number;
  readonly usedBytes: number;
  readonly chunks: number;
  readonly loads: number;
  readonly failed: number;
  readonly evictions: number;
  /** Loads of chunks that had been in the cache before. */
  readonly again: number;
  readonly prefetches: number;
}

/** `GET /v1/sessions/{id}/watch`: the events by name. The first is `map`. */
export interface MapEvents {
  readonly map: MapSnapshot;
  readonly cells: CellChanges;
  readonly numbers: VmNumbers;
  readonly gone: { readonly reason: string };
}

export interface MapSnapshot {
  readonly pageSizeBytes: number;
  /** Pages of the whole VM. */
  readonly pageCount: number;
  /** The first page of the first cell. */
  readonly first: number;
  /** Pages of one cell. */
  readonly scale: number;
  readonly cells: number;
  /** Base64: a byte for each cell. */
  readonly states: string;
  /** Base64: a byte for each cell, an index into `layerNames`, or NO_LAYER. */
  readonly layers: string;
  readonly layerNames: readonly string[];
  /**
   * Base64: for each cell when its newest page came, in ms since the VM was attached, as a
   * little-endian uint32; or NO_AGE. Of a cell that changes later, that is the event's `afterMs`.
   */
  readonly ages: string;
  readonly attachedAt: string;
  readonly tracksDirty: boolean;
  readonly regions: readonly MapRegion[];
}

export interface MapRegion {
  readonly firstPage: number;
  readonly pages: number;
  /** In the VMM's process: `0x…`. */
  readonly hostAddress: string;
}

export interface CellChanges {
  /** Milliseconds since the VM was attached. */
  readonly afterMs: number;
  /** How many cells have changed. */
  readonly count: number;
  /** Base64 of what `decodeRuns` reads. */
  readonly runs: string;
}

export interface VmNumbers {
  /** Milliseconds since 1970, by the daemon's clock. */
  readonly atMs: number;
  readonly state: "waiting" | "attached" | "ended";
  readonly faults: number;
  readonly installedPages: number;
  readonly zeroPages: number;
  readonly removedPages: number;
  readonly prefaultedPages: number;
  readonly deferred: number;
  readonly awaitedPages: number;
  /** Distinct pages, as long as the restore is recorded; null: nobody records it. */
  readonly demandedPages: number | null;
  readonly latencyBuckets: SparseBuckets;
  readonly causes: CauseTimes;
}

/** `GET /v1/sessions/{id}/pages/{page}`. */
export interface PageStory {
  readonly page: number;
  readonly state: CellKind;
  /** In the VM's memory as the image has it. */
  readonly guestOffset: number;
  /** In the VMM's process: `0x…`. */
  readonly hostAddress: string;
  /** Which region of the handshake it lies in. */
  readonly region: number;
  readonly source: PageSource;
  /** Whether its bytes are in memory now; null: nobody knows, or there are none. */
  readonly inCache: boolean | null;
  /** When it was first demanded, since the VM was attached. */
  readonly demandedAfterMs: number | null;
  /** How many pages were demanded before it. */
  readonly demandOrder: number | null;
  /** Whether it was to be installed ahead; null: nothing was. */
  readonly prefault: "planned" | "unplanned" | null;
  /** How long its installation was waited for, if it is among the dearest. */
  readonly costUs: number | null;
  /** What most of that was spent on. */
  readonly cause: RestoreCause | null;
}

export interface PageSource {
  readonly kind: "zero" | "file" | "chunk";
  /** The file's path, or the chunk's id. */
  readonly name: string;
  /** Of the page in the file or in the chunk; null: there is no such place. */
  readonly offset: number | null;
  /** Where chunks are fetched from. */
  readonly store: string | null;
  /** Of the file, or of the whole chunk. */
  readonly sizeBytes: number;
}

/** `GET /v1/dashboard`, on the control socket only. */
export interface DashboardPlace {
  /** `HOST:PORT` that it listens on; null: on none, or not yet. */
  readonly address: string | null;
  /** Null: only the control socket is to be served. */
  readonly token: string | null;
}

/**
 * Goes through changed cells: for each run a varint for the cells between it and the run before, a
 * varint for its length, and a byte for each of its cells. `first`: the run's first cell.
 * @throws Error if the bytes are damaged
 */
export function decodeRuns(
  runs: Uint8Array,
  use: (first: number, states: Uint8Array) => void,
): void {
  const damaged = (what: string): Error =>
    new Error(`The changes of the map are damaged: ${what}.`);
  const reader = new VarintReader(runs, 0, damaged);
  let cell = 0;
  while (!reader.isAtEnd) {
    cell += reader.varint();
    const length = reader.varint();
    use(cell, reader.bytes(length));
    cell += length;
  }
}

/** Standard base64, as all bytes in events have it. */
export function decodeBase64(text: string): Uint8Array {
  const characters = atob(text);
  const bytes = new Uint8Array(characters.length);
  for (let index = 0; index < bytes.length; index++) bytes[index] = characters.charCodeAt(index);
  return bytes;
}

/** Of `MapSnapshot.ages`. */
export function decodeAges(text: string): Uint32Array {
  const bytes = decodeBase64(text);
  const view = new DataView(bytes.buffer);
  const ages = new Uint32Array(bytes.length / 4);
  for (let index = 0; index < ages.length; index++) ages[index] = view.getUint32(index * 4, true);
  return ages;
}
