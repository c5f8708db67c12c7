/** The guest's physical memory in this process: one anonymous mapping per region. */
import { readFileSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import { formatBytes, HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../base/units.ts";
import { MappedRegion } from "../linux/memory.ts";
import { type GuestRegion, guestRegions } from "./memory-layout.ts";

const FREE_HUGE_PAGES = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";

export interface MappedGuestRegion extends GuestRegion {
  readonly mapping: MappedRegion;
}

export class GuestMemory {
  readonly regions: readonly [MappedGuestRegion, MappedGuestRegion];
  readonly pageSizeBytes: number;
  /** Low memory by bytes, RAM by 32-bit words. Touching them touches the guest's memory. */
  readonly low: Uint8Array;
  readonly ram: Uint32Array;

  private constructor(regions: [MappedGuestRegion, MappedGuestRegion], pageSizeBytes: number) {
    this.regions = regions;
    this.pageSizeBytes = pageSizeBytes;
    this.low = new Uint8Array(regions[0].mapping.view());
    this.ram = new Uint32Array(regions[1].mapping.view());
  }

  /** Empty memory. With huge pages nothing is taken from the pool yet, but enough must be free. */
  static allocate(ramBytes: number, options: { readonly hugePages: boolean }): GuestMemory {
    const [low, ram] = guestRegions(ramBytes);
    if (options.hugePages) requireFreeHugePages(low.sizeBytes + ram.sizeBytes);
    return new GuestMemory(
      [
        { ...low, mapping: MappedRegion.anonymous(low.sizeBytes, options) },
        { ...ram, mapping: MappedRegion.anonymous(ram.sizeBytes, options) },
      ],
      options.hugePages ? HUGE_PAGE_BYTES : SMALL_PAGE_BYTES,
    );
  }

  get sizeBytes(): number {
    return this.regions.reduce((sum, region) => sum + region.sizeBytes, 0);
  }

  unmap(): void {
    for (const region of this.regions) region.mapping.unmap();
  }

  [Symbol.dispose](): void {
    this.unmap();
  }
}

/** MAP_NORESERVE reserves no huge pages: unchecked, the handler would find the pool empty. */
function requireFreeHugePages(sizeBytes: number): void {
  const needed = sizeBytes / HUGE_PAGE_BYTES;
  const free = readFreeHugePages();
  if (free >= needed) return;
  throw new FaultlineError(
    "unsupported",
    `--huge-pages needs ${needed} free huge pages (${formatBytes(sizeBytes)}); ${free} are free. ` +
      `Reserve more: sysctl vm.nr_hugepages=${needed}`,
  );
}

function readFreeHugePages(): number {
  try {
    return Number(readFileSync(FREE_HUGE_PAGES, "utf8"));
  } catch {
    return 0; // A kernel without huge pages of 2 MiB.
  }
}
