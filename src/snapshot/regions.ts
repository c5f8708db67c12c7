/**
 * The guest's memory regions, as a VMM announces them, and the way between a host address and a
 * page of the memory image.
 *
 * ```
 *   VMM's address space          memory image (file)
 *   0x7f10_0000_0000 ┌────────┐   0          ┌────────┐
 *                    │region 0│ ────────────►│        │
 *                    └────────┘   3 GiB      ├────────┤
 *   0x7e00_0000_0000 ┌────────┐ ────────────►│        │
 *                    │region 1│              └────────┘
 *                    └────────┘
 * ```
 *
 * PURE. Regions never overlap, in either space, so the way is one-to-one.
 */
import { assert } from "../base/assert.ts";
import { FaultlineError } from "../base/errors.ts";
import {
  formatBytes,
  formatHex,
  type HostAddress,
  type ImageOffset,
  isAligned,
} from "../base/units.ts";

/** A contiguous run of guest RAM in the VMM's address space. Sizes and offsets in bytes. */
export interface GuestRegion {
  readonly baseHostAddress: HostAddress;
  readonly sizeBytes: number;
  readonly imageOffset: ImageOffset;
}

/** Firecracker announces at most four; a bound keeps lookups cheap whatever a peer sends. */
export const MAX_REGIONS = 256;

export class RegionMap {
  readonly regions: readonly GuestRegion[];
  readonly pageSizeBytes: number;
  /** Bytes of all regions together: the size the memory image must have. */
  readonly totalBytes: number;
  // Columns, in the order of `regions`, for lookups without property chains.
  readonly #bases: Float64Array;
  readonly #ends: Float64Array;
  readonly #firstPages: Float64Array;

  /**
   * @throws FaultlineError `handshake`: empty, misaligned or overlapping regions
   */
  constructor(regions: readonly GuestRegion[], pageSizeBytes: number) {
    checkRegions(regions, pageSizeBytes);
    this.regions = regions;
    this.pageSizeBytes = pageSizeBytes;
    this.totalBytes = regions.reduce((sum, region) => sum + region.sizeBytes, 0);
    this.#bases = Float64Array.from(regions, (region) => region.baseHostAddress);
    this.#ends = Float64Array.from(regions, (region) => region.baseHostAddress + region.sizeBytes);
    this.#firstPages = Float64Array.from(regions, (region) => region.imageOffset / pageSizeBytes);
  }

  /** One more than the highest page index of any region. */
  get pageLimit(): number {
    const ends = this.regions.map((region) => region.imageOffset + region.sizeBytes);
    return Math.max(...ends) / this.pageSizeBytes;
  }

  /** The region that holds a host address; -1 if none does. */
  regionAt(address: number): number {
    for (let index = 0; index < this.#bases.length; index++) {
      if (address >= this.#bases[index]! && address < this.#ends[index]!) return index;
    }
    return -1;
  }

  /** The region that holds a page of the image; -1 if none does. */
  regionOfPage(page: number): number {
    for (let index = 0; index < this.#firstPages.length; index++) {
      if (page >= this.#firstPages[index]! && page < this.endPageOf(index)) return index;
    }
    return -1;
  }

  firstPageOf(region: number): number {
    return this.#firstPages[region]!;
  }

  /** End, exclusive, of a region's pages. */
  endPageOf(region: number): number {
    const sizeBytes = this.#ends[region]! - this.#bases[region]!;
    return this.#firstPages[region]! + sizeBytes / this.pageSizeBytes;
  }

  /** The page that holds `address`, which lies in `region`. Rounds down. */
  pageAt(region: number, address: number): number {
    const offset = address - this.#bases[region]!;
    return this.#firstPages[region]! + Math.floor(offset / this.pageSizeBytes);
  }

  /** The first host address of `page`, which lies in `region`. */
  addressOf(region: number, page: number): number {
    return this.#bases[region]! + (page - this.#firstPages[region]!) * this.pageSizeBytes;
  }

  baseOf(region: number): number {
    return this.#bases[region]!;
  }

  /** End, exclusive. */
  endOf(region: number): number {
    return this.#ends[region]!;
  }
}

function checkRegions(regions: readonly GuestRegion[], pageSizeBytes: number): void {
  assert(pageSizeBytes > 0, "page size must be positive");
  if (regions.length === 0 || regions.length > MAX_REGIONS) {
    throw refusal(
      `it announces ${regions.length} memory regions; 1 to ${MAX_REGIONS} can be served`,
    );
  }
  for (const [index, region] of regions.entries()) checkRegion(region, index, pageSizeBytes);
  checkOverlap(regions, "host addresses", (region) => region.baseHostAddress);
  checkOverlap(regions, "image offsets", (region) => region.imageOffset);
}

function checkRegion(region: GuestRegion, index: number, pageSizeBytes: number): void {
  const fields: readonly (readonly [string, number])[] = [
    ["base_host_virt_addr", region.baseHostAddress],
    ["size", region.sizeBytes],
    ["offset", region.imageOffset],
  ];
  for (const [name, value] of fields) {
    if (!isAligned(value, pageSizeBytes)) {
      throw refusal(
        `region ${index} has ${name} ${formatHex(value)}, no multiple of its page size ` +
          formatBytes(pageSizeBytes),
      );
    }
  }
  if (region.sizeBytes === 0) throw refusal(`region ${index} has size 0`);
  if (!Number.isSafeInteger(region.baseHostAddress + region.sizeBytes)) {
    throw refusal(`region ${index} ends beyond 2^53`);
  }
}

function checkOverlap(
  regions: readonly GuestRegion[],
  what: string,
  start: (region: GuestRegion) => number,
): void {
  const sorted = [...regions].sort((a, b) => start(a) - start(b));
  for (let index = 1; index < sorted.length; index++) {
    const previous = sorted[index - 1]!;
    if (start(previous) + previous.sizeBytes > start(sorted[index]!)) {
      throw refusal(`two regions overlap in their ${what} at ${formatHex(start(sorted[index]!))}`);
    }
  }
}

function refusal(what: string): FaultlineError {
  return new FaultlineError("handshake", `The handshake cannot be served: ${what}.`);
}
