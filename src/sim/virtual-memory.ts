/**
 * The memory of a virtual VM: which pages are mapped and registered, where mappings begin, and what
 * each page holds. It only keeps the books; the rules are the kernel's (virtual-kernel.ts). PURE.
 */
import type { GuestRegion } from "../snapshot/regions.ts";
import { HandlerFailure } from "./failures.ts";

/** What a page holds: a body, which somebody installs, and a note, which the guest writes. */
export const ZERO_BODY = 0;
export const MISSING = -1;
export const POISON = -2;
/** In a COPY's source: bytes that cannot be read. */
export const UNREADABLE = -3;
/** Bodies from here on were installed by the VMM itself. */
export const FIRST_VMM_BODY = 2 ** 50;

export class VirtualMemory {
  readonly pageCount: number;
  readonly bodies: Float64Array;
  readonly notes: Float64Array;
  readonly isMapped: Uint8Array;
  readonly isRegistered: Uint8Array;
  /** Whether a mapping begins at a page: operations do not cross that. */
  readonly isBorder: Uint8Array;
  readonly #regions: readonly GuestRegion[];
  readonly #pageSizeBytes: number;

  /** `regions`: together they cover the image. */
  constructor(regions: readonly GuestRegion[], pageSizeBytes: number) {
    this.#regions = regions;
    this.#pageSizeBytes = pageSizeBytes;
    const ends = regions.map(({ imageOffset, sizeBytes }) => imageOffset + sizeBytes);
    this.pageCount = Math.max(...ends) / pageSizeBytes;
    this.bodies = new Float64Array(this.pageCount).fill(MISSING);
    this.notes = new Float64Array(this.pageCount);
    this.isMapped = new Uint8Array(this.pageCount).fill(1);
    this.isRegistered = new Uint8Array(this.pageCount).fill(1);
    this.isBorder = new Uint8Array(this.pageCount);
    for (const { imageOffset } of regions) this.isBorder[imageOffset / pageSizeBytes] = 1;
  }

  /** mprotect: a mapping begins at `page`, or does no more. Regions stay apart. */
  setBorder(page: number, isBorder: boolean): void {
    const offset = page * this.#pageSizeBytes;
    if (this.#regions.some((region) => region.imageOffset === offset)) return;
    this.isBorder[page] = isBorder ? 1 : 0;
  }

  /** Whether one operation may cover these pages: registered, and within one mapping. */
  isOneMapping(first: number, pages: number): boolean {
    for (let page = first; page < first + pages; page++) {
      if (page >= this.pageCount || this.isRegistered[page] === 0) return false;
      if (page > first && this.isBorder[page] === 1) return false;
    }
    return true;
  }

  addressOf(page: number): number {
    const offset = page * this.#pageSizeBytes;
    for (const { imageOffset, sizeBytes, baseHostAddress } of this.#regions) {
      if (offset < imageOffset || offset >= imageOffset + sizeBytes) continue;
      return baseHostAddress + (offset - imageOffset);
    }
    throw new Error(`page ${page} lies in no region`);
  }

  pageAt(address: number): number {
    for (const { imageOffset, sizeBytes, baseHostAddress } of this.#regions) {
      if (address < baseHostAddress || address >= baseHostAddress + sizeBytes) continue;
      const offset = imageOffset + (address - baseHostAddress);
      if (offset % this.#pageSizeBytes === 0) return offset / this.#pageSizeBytes;
      throw new HandlerFailure(`the handler gave the unaligned address ${address}`);
    }
    throw new HandlerFailure(`the handler went to address ${address}, outside of every region`);
  }
}
