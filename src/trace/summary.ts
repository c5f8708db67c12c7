/** What a recording comes to: how much of what, what it cost, and what cost most. PURE. */
import type { Recording } from "./recording.ts";
import { followWaits } from "./waits.ts";

export interface TraceSummary {
  readonly session: string;
  readonly memory: string;
  readonly pid: number;
  readonly pageSizeBytes: number;
  readonly attachedAt: string;
  /** Of the first record, since the VM was attached. */
  readonly fromUs: number;
  /** From the first record to the last. */
  readonly durationUs: number;
  readonly records: number;
  readonly lost: number;
  readonly lostInFront: number;
  readonly ending: string | null;
  readonly damage: string | null;
  /** Waits for a page, those that have no end among them. */
  readonly waits: number;
  readonly openWaits: number;
  readonly demandedPages: number;
  /** By kind and cause, in the order of what they cost. */
  readonly costs: readonly CostRow[];
  readonly dearest: readonly RecordRow[];
  readonly firstDemands: readonly DemandRow[];
}

export interface CostRow {
  readonly kind: string;
  readonly cause: string;
  readonly records: number;
  readonly pages: number;
  readonly totalUs: number;
  readonly p50Us: number;
  readonly p99Us: number;
}

export interface RecordRow {
  readonly afterUs: number;
  readonly kind: string;
  readonly cause: string;
  readonly page: number;
  readonly pages: number;
  readonly costUs: number;
}

export interface DemandRow {
  readonly afterUs: number;
  readonly page: number;
  /** Until it was installed; null: it was not. */
  readonly waitedUs: number | null;
  readonly cause: string | null;
}

const DEAREST = 10;

/** `head`: how many of the first demands to list. */
export function summarize(recording: Recording, head: number): TraceSummary {
  const { header, records, lost, lostInFront, ending, damage } = recording;
  const { session, memory, pid, pageSizeBytes, attachedAt } = header;
  // Not a spread into Math.min: there are millions.
  const fromUs = records.timesUs.reduce((least, us) => Math.min(least, us), Infinity);
  const untilUs = records.timesUs.reduce((most, us) => Math.max(most, us), 0);
  return {
    ...{ session, memory, pid, pageSizeBytes, attachedAt },
    fromUs: records.count === 0 ? 0 : fromUs,
    durationUs: records.count === 0 ? 0 : untilUs - fromUs,
    records: records.count,
    ...{ lost, lostInFront, ending, damage },
    ...countWaits(recording),
    costs: costsOf(recording),
    dearest: dearestOf(recording),
    firstDemands: firstDemands(recording, head),
  };
}

function countWaits(
  recording: Recording,
): Pick<TraceSummary, "waits" | "openWaits" | "demandedPages"> {
  let waits = 0;
  let openWaits = 0;
  const pages = new Set<number>();
  followWaits(recording, {
    ends: ({ page, answer }) => {
      waits += 1;
      if (answer === null) openWaits += 1;
      pages.add(page);
    },
  });
  return { waits, openWaits, demandedPages: pages.size };
}

function costsOf({ header, records }: Recording): CostRow[] {
  const places = new Map<number, { count: number; pages: number; costs: Uint32Array }>();
  const tagOf = (index: number): number =>
    records.causes[index]! * header.kinds.length + records.kinds[index]!;
  const sizes = new Map<number, number>();
  for (let index = 0; index < records.count; index++) {
    sizes.set(tagOf(index), (sizes.get(tagOf(index)) ?? 0) + 1);
  }
  for (const [tag, size] of sizes) {
    places.set(tag, { count: 0, pages: 0, costs: new Uint32Array(size) });
  }
  for (let index = 0; index < records.count; index++) {
    const place = places.get(tagOf(index))!;
    place.costs[place.count++] = records.costs[index]!;
    place.pages += records.pageCounts[index]!;
  }
  const rows = [...places].map(([tag, { count, pages, costs }]): CostRow => {
    costs.sort();
    return {
      kind: header.kinds[tag % header.kinds.length]!,
      cause: header.causes[Math.floor(tag / header.kinds.length)]!,
      records: count,
      pages,
      totalUs: costs.reduce((sum, cost) => sum + cost, 0) / 10,
      p50Us: quantile(costs, 0.5) / 10,
      p99Us: quantile(costs, 0.99) / 10,
    };
  });
  return rows.sort((a, b) => b.totalUs - a.totalUs || b.records - a.records);
}

/** What a share of them does not exceed; `sorted` has one at least. */
function quantile(sorted: Uint32Array, share: number): number {
  return sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)]!;
}

/** The first of equals comes first. */
function dearestOf(recording: Recording): RecordRow[] {
  const { costs, count } = recording.records;
  const dearest: number[] = [];
  for (let index = 0; index < count; index++) {
    const cost = costs[index]!;
    const isFull = dearest.length === DEAREST;
    if (cost === 0 || (isFull && cost <= costs[dearest[DEAREST - 1]!]!)) continue;
    if (isFull) dearest.pop();
    const place = dearest.findIndex((other) => costs[other]! < cost);
    dearest.splice(place === -1 ? dearest.length : place, 0, index);
  }
  return dearest.map((index) => rowOf(recording, index));
}

function rowOf({ header, records }: Recording, index: number): RecordRow {
  return {
    afterUs: records.timesUs[index]!,
    kind: header.kinds[records.kinds[index]!]!,
    cause: header.causes[records.causes[index]!]!,
    page: records.pages[index]!,
    pages: records.pageCounts[index]!,
    costUs: records.costs[index]! / 10,
  };
}

function firstDemands(recording: Recording, head: number): DemandRow[] {
  const { header, records } = recording;
  const rows: { demand: number; row: DemandRow }[] = [];
  const wanted = new Set<number>();
  followWaits(recording, {
    begins: (demand) => {
      if (wanted.size < head) wanted.add(demand);
    },
    ends: ({ page, demand, answer }) => {
      if (!wanted.has(demand)) return;
      const afterUs = records.timesUs[demand]!;
      const waitedUs = answer === null ? null : Math.max(0, records.timesUs[answer]! - afterUs);
      const cause = answer === null ? null : header.causes[records.causes[answer]!]!;
      rows.push({ demand, row: { afterUs, page, waitedUs, cause } });
    },
  });
  return rows.sort((a, b) => a.demand - b.demand).map(({ row }) => row);
}
