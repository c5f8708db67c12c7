/** Which sessions are listed, and in which order. PURE. */
import type { SessionRow } from "../src/daemon/dashboard/protocol.ts";

export interface ListedSession {
  readonly row: SessionRow;
  readonly faultsPerSecond: number;
}

export const sortKeys = [
  "id",
  "state",
  "memory",
  "size",
  "resident",
  "rate",
  "p50",
  "p99",
  "waited",
] as const;
export type SortKey = (typeof sortKeys)[number];

export interface Order {
  readonly key: SortKey;
  readonly isDescending: boolean;
}

/** The share of a VM's pages that are there, 0 to 1. */
export function residentShare({ pages }: SessionRow): number {
  return pages.total === 0 ? 0 : Math.min(1, pages.present / pages.total);
}

/** Those with every word of the filter in their id, image, state, labels or trouble. */
export function matches(row: SessionRow, filter: string): boolean {
  const words = filter
    .toLowerCase()
    .split(/\s+/)
    .filter((word) => word !== "");
  if (words.length === 0) return true;
  const labels = Object.entries(row.labels).map(([name, value]) => `${name}=${value}`);
  const text = [row.id, row.state, row.memory, row.waitsFor ?? "", ...labels]
    .join(" ")
    .toLowerCase();
  return words.every((word) => text.includes(word));
}

export function ordered(sessions: readonly ListedSession[], order: Order): ListedSession[] {
  const sign = order.isDescending ? -1 : 1;
  return [...sessions].sort((left, right) => {
    const [a, b] = [sortValue(left, order.key), sortValue(right, order.key)];
    const difference =
      typeof a === "number" && typeof b === "number" ? a - b : compareText(String(a), String(b));
    return difference * sign || compareText(left.row.id, right.row.id);
  });
}

/** Numbers first go down: the most is what one looks for. */
export function firstDirection(key: SortKey): boolean {
  return !["id", "state", "memory"].includes(key);
}

function sortValue({ row, faultsPerSecond }: ListedSession, key: SortKey): number | string {
  switch (key) {
    case "id":
      return row.id;
    case "state":
      return row.state;
    case "memory":
      return row.memory;
    case "size":
      return row.sizeBytes;
    case "resident":
      return residentShare(row);
    case "rate":
      return faultsPerSecond;
    case "p50":
      return row.p50Us;
    case "p99":
      return row.p99Us;
    case "waited":
      return row.waitedUs;
  }
}

/** `vm-9` comes before `vm-10`. */
const collator = new Intl.Collator("en", { numeric: true });

function compareText(left: string, right: string): number {
  return collator.compare(left, right);
}
