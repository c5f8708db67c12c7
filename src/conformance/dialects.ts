/** How VMMs introduce themselves: the handshake of every Firecracker release. PURE. */
import { SMALL_PAGE_BYTES } from "../base/units.ts";

/** One region as a handshake names it. */
export interface RegionEntry {
  readonly base_host_virt_addr: number;
  readonly size: number;
  readonly offset: number;
  readonly page_size?: number;
  readonly page_size_kib?: number;
}

interface Dialect {
  readonly hasPageSize: boolean;
  /** In bytes, whatever its name says: no release ever sent KiB. */
  readonly hasPageSizeKib: boolean;
  /** From v1.12 on the socket stays open until the VMM ends; before, it was closed at once. */
  readonly keepsSocket: boolean;
}

export const dialects = {
  "v1.1": { hasPageSize: false, hasPageSizeKib: false, keepsSocket: false },
  "v1.7": { hasPageSize: false, hasPageSizeKib: true, keepsSocket: false },
  "v1.12": { hasPageSize: true, hasPageSizeKib: true, keepsSocket: true },
} as const satisfies Record<string, Dialect>;
export type DialectName = keyof typeof dialects;

export interface RegionPlace {
  readonly address: number;
  /** In pages of 4 KiB. */
  readonly pageCount: number;
}

/** The regions in the order of the memory file; offsets add up. */
export function regionEntries(
  places: readonly RegionPlace[],
  pageSizeBytes: number,
  name: DialectName,
): RegionEntry[] {
  const { hasPageSize, hasPageSizeKib } = dialects[name];
  let offset = 0;
  return places.map(({ address, pageCount }) => {
    const size = pageCount * SMALL_PAGE_BYTES;
    const entry = {
      base_host_virt_addr: address,
      size,
      offset,
      ...(hasPageSize ? { page_size: pageSizeBytes } : {}),
      ...(hasPageSizeKib ? { page_size_kib: pageSizeBytes } : {}),
    };
    offset += size;
    return entry;
  });
}
