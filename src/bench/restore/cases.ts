/** The cases of `restore`: which trace, from where, on which pages, by how many VMs at once. */
import { readFileSync } from "node:fs";
import { HUGE_PAGE_BYTES, MIB, SMALL_PAGE_BYTES } from "../../base/units.ts";
import { availableMib } from "../machine.ts";
import { loadTrace, type NamedTrace } from "../traces.ts";

/** How late each answer of the far store comes. */
export const FAR_LATENCY_MS = 20;

export const backendNames = ["file", "cached", "cold", "far"] as const;
export type BackendName = (typeof backendNames)[number];

/** What the reports call them. */
export const backendTitles: Readonly<Record<BackendName, string>> = {
  file: "local memory file",
  cached: "cached image",
  cold: "cold image",
  far: `image ${FAR_LATENCY_MS} ms away`,
};

export interface RestoreWishes {
  /** `linux`, `synthetic`, or paths of files. */
  readonly traces: readonly string[];
  readonly backends: readonly BackendName[];
  readonly pageSizes: readonly number[];
  readonly vmCounts: readonly number[];
  /** Guests write to each page that they touch, not only read it. */
  readonly doWrite: boolean;
}

export const standardWishes: RestoreWishes = {
  traces: ["linux", "synthetic"],
  backends: backendNames,
  pageSizes: [SMALL_PAGE_BYTES],
  vmCounts: [1],
  doWrite: false,
};

/** The guest's trace takes seconds for each measurement, and says no more of whether all works. */
export const quickWishes: RestoreWishes = { ...standardWishes, traces: ["synthetic"] };

export const fullWishes: RestoreWishes = {
  ...standardWishes,
  pageSizes: [SMALL_PAGE_BYTES, HUGE_PAGE_BYTES],
  vmCounts: [1, 10, 100],
};

export interface RestoreCase {
  readonly trace: NamedTrace;
  readonly backend: BackendName;
  readonly pageSizeBytes: number;
  readonly vms: number;
  readonly doWrite: boolean;
}

/** By trace, as each has files of its own. Throws if a trace cannot be had. */
export function casesOf(wishes: RestoreWishes, isQuick: boolean): RestoreCase[] {
  const { doWrite } = wishes;
  return wishes.traces
    .map((name) => loadTrace(name, isQuick))
    .flatMap((trace) =>
      wishes.pageSizes.flatMap((pageSizeBytes) =>
        wishes.vmCounts.flatMap((vms) =>
          wishes.backends.map((backend) => ({ trace, backend, pageSizeBytes, vms, doWrite })),
        ),
      ),
    );
}

/** `restore linux, cached image, 4 KiB pages, 1 VM` */
export function caseTitle({ trace, backend, pageSizeBytes, vms, doWrite }: RestoreCase): string {
  const parts = [
    `restore ${trace.name}`,
    backendTitles[backend],
    `${pageTitle(pageSizeBytes)} pages`,
  ];
  return [...parts, vmTitle(vms), ...(doWrite ? ["writing"] : [])].join(", ");
}

export function pageTitle(pageSizeBytes: number): string {
  return pageSizeBytes === HUGE_PAGE_BYTES ? "2 MiB" : "4 KiB";
}

export function vmTitle(vms: number): string {
  return vms === 1 ? "1 VM" : `${vms} VMs`;
}

/** Null if this machine can do it at this moment. */
export function whySkipped({ trace, backend, pageSizeBytes, vms }: RestoreCase): string | null {
  const { pages, sizeBytes } = trace.trace;
  const touched = touchedPages(pages, pageSizeBytes) * vms;
  if (pageSizeBytes === HUGE_PAGE_BYTES && touched > freeHugePages()) {
    return (
      `needs ${touched} free huge pages of 2 MiB, and there are ${freeHugePages()}: ` +
      `sysctl vm.nr_hugepages=${touched}`
    );
  }
  // The store and the cache of chunks beside the memory file.
  const copies = backend === "file" ? 1 : 3;
  const guestBytes = pageSizeBytes === SMALL_PAGE_BYTES ? touched * pageSizeBytes : 0;
  const neededMib = Math.ceil((copies * sizeBytes + guestBytes) / MIB);
  const available = availableMib();
  return neededMib <= available
    ? null
    : `needs ${neededMib} MiB of memory, and ${available} MiB are available`;
}

function touchedPages(pages: Uint32Array, pageSizeBytes: number): number {
  const perPage = pageSizeBytes / SMALL_PAGE_BYTES;
  return new Set(Array.from(pages, (page) => Math.floor(page / perPage))).size;
}

function freeHugePages(): number {
  try {
    const folder = "/sys/kernel/mm/hugepages/hugepages-2048kB";
    return Number(readFileSync(`${folder}/free_hugepages`, "utf8"));
  } catch {
    return 0;
  }
}
