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
  hostAddress,
  type ImageOffset,
  imageOffset,
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

/** Who says what the regions are: a VMM in its handshake, or somebody else. For messages. */
export type RegionSource = "handshake" | "statement";

/** A region map as plain data: what one process keeps for the next. */
export interface RegionsJson {
  readonly pageSizeBytes: number;
  readonly regions: readonly (readonly [base: number, sizeBytes: number, imageOffset: number])[];
}

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
  constructor(
    regions: readonly GuestRegion[],
    pageSizeBytes: number,
    source: RegionSource = "handshake",
  ) {
    assert(pageSizeBytes > 0, "page size must be positive");
    const flaw = flawOf(regions, pageSizeBytes, wordsOf[source]);
    if (flaw !== null) throw refusal(flaw, source);
    this.regions = regions;
    this.pageSizeBytes = pageSizeBytes;
    this.totalBytes = regions.reduce((sum, region) => sum + region.sizeBytes, 0);
    this.#bases = Float64Array.from(regions, (region) => region.baseHostAddress);
    this.#ends = Float64Array.from(regions, (region) => region.baseHostAddress + region.sizeBytes);
    this.#firstPages = Float64Array.from(regions, (region) => region.imageOffset / pageSizeBytes);
  }

  /**
   * The way back from `toJson`. What it is given may come from anywhere, and is checked.
   * @throws FaultlineError `handshake`
   */
  static fromJson(json: unknown): RegionMap {
    const { pageSizeBytes, regions } = (json ?? {}) as Partial<Record<keyof RegionsJson, unknown>>;
    const isPageSize = isCount(pageSizeBytes) && pageSizeBytes > 0;
    if (!isPageSize || !Array.isArray(regions) || !regions.every(isTriple)) {
      const text = JSON.stringify(json)?.slice(0, 64);
      throw refusal(`${text} is no list of regions and their page size`, "statement");
    }
    const made = regions.map(([base, sizeBytes, offset]) => ({
      baseHostAddress: hostAddress(base),
      sizeBytes,
      imageOffset: imageOffset(offset),
    }));
    return new RegionMap(made, pageSizeBytes, "statement");
  }

  toJson(): RegionsJson {
    const { regions, pageSizeBytes } = this;
    const triples = regions.map(
      (region) => [region.baseHostAddress, region.sizeBytes, region.imageOffset] as const,
    );
    return { pageSizeBytes, regions: triples };
  }

  /** Of host addresses, as the kernel's calls want them. */
  get ranges(): readonly { readonly start: number; readonly lengthBytes: number }[] {
    return this.regions.map(({ baseHostAddress, sizeBytes }) => ({
      start: baseHostAddress,
      lengthBytes: sizeBytes,
    }));
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

interface Words {
  readonly verb: string;
  readonly fields: readonly [base: string, size: string, offset: string];
}

const wordsOf: Readonly<Record<RegionSource, Words>> = {
  handshake: { verb: "it announces", fields: ["base_host_virt_addr", "size", "offset"] },
  statement: { verb: "there are", fields: ["base", "size", "offset"] },
};

function isCount(value: unknown): value is number {
  return Number.isSafeInteger(value) && (value as number) >= 0;
}

function isTriple(value: unknown): value is readonly [number, number, number] {
  return Array.isArray(value) && value.length === 3 && value.every(isCount);
}

/** What is wrong with them, if anything is. */
function flawOf(
  regions: readonly GuestRegion[],
  pageSizeBytes: number,
  words: Words,
): string | null {
  if (regions.length === 0 || regions.length > MAX_REGIONS) {
    return `${words.verb} ${regions.length} memory regions; 1 to ${MAX_REGIONS} can be served`;
  }
  for (const [index, region] of regions.entries()) {
    const flaw = regionFlaw(region, index, pageSizeBytes, words);
    if (flaw !== null) return flaw;
  }
  return (
    overlapIn(regions, "host addresses", (region) => region.baseHostAddress) ??
    overlapIn(regions, "image offsets", (region) => region.imageOffset)
  );
}

function regionFlaw(
  region: GuestRegion,
  index: number,
  pageSizeBytes: number,
  words: Words,
): string | null {
  const values = [region.baseHostAddress, region.sizeBytes, region.imageOffset];
  for (const [field, value] of values.entries()) {
    if (isAligned(value, pageSizeBytes)) continue;
    const pageSize = formatBytes(pageSizeBytes);
    const what = `${words.fields[field]!} ${formatHex(value)}`;
    return `region ${index} has ${what}, no multiple of its page size ${pageSize}`;
  }
  if (region.sizeBytes === 0) return `region ${index} has size 0`;
  const end = region.baseHostAddress + region.sizeBytes;
  return Number.isSafeInteger(end) ? null : `region ${index} ends beyond 2^53`;
}

function overlapIn(
  regions: readonly GuestRegion[],
  what: string,
  start: (region: GuestRegion) => number,
): string | null {
  const sorted = [...regions].sort((a, b) => start(a) - start(b));
  for (let index = 1; index < sorted.length; index++) {
    const previous = sorted[index - 1]!;
    if (start(previous) + previous.sizeBytes > start(sorted[index]!)) {
      return `two regions overlap in their ${what} at ${formatHex(start(sorted[index]!))}`;
    }
  }
  return null;
}

function refusal(what: string, source: RegionSource): FaultlineError {
  const subject = source === "handshake" ? "The handshake" : "A list of memory regions";
  return new FaultlineError("handshake", `${subject} cannot be served: ${what}.`);
}
