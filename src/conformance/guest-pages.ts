/**
 * The guest memory of a conformance VM: regions anywhere, pages numbered as in the memory file, and
 * the answer to what a page holds.
 */
import { readFileSync } from "node:fs";
import { formatHex, HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../base/units.ts";
import { MappedRegion } from "../linux/memory.ts";
import type { Found, VmSetup } from "./vm-protocol.ts";

/** Plain memory before and behind each region: no other region adjoins it. */
const GUARD_BYTES = 16 * SMALL_PAGE_BYTES;
/** Where in a page the VM writes, and how much. */
const MARK_OFFSET = 128;
const MARK_BYTES = 8;

interface Region {
  readonly address: number;
  readonly firstPage: number;
  readonly pageCount: number;
}

export class GuestPages {
  readonly regions: readonly Region[];
  readonly #expected: Buffer;
  readonly #mappings: MappedRegion[] = [];
  readonly #written = new Map<number, Buffer>();
  readonly #zeroes = Buffer.alloc(SMALL_PAGE_BYTES);

  constructor({ expectedPath, regionPages, pageSizeBytes }: VmSetup) {
    this.#expected = readFileSync(expectedPath);
    const addresses = this.#map(regionPages, pageSizeBytes);
    let firstPage = 0;
    this.regions = regionPages.map((pageCount, index) => {
      const region = { address: addresses[index]!, firstPage, pageCount };
      firstPage += pageCount;
      return region;
    });
  }

  addressOf(page: number): number {
    const region = this.regions.find(
      ({ firstPage, pageCount }) => page >= firstPage && page < firstPage + pageCount,
    );
    if (region === undefined) throw new Error(`Page ${page} is in no region.`);
    return region.address + (page - region.firstPage) * SMALL_PAGE_BYTES;
  }

  /** Notes what the VM is about to write; returns where in the page, and the bytes. */
  mark(page: number, over: "file" | "zero"): { readonly offset: number; readonly bytes: Buffer } {
    const bytes = Buffer.alloc(MARK_BYTES);
    bytes.writeUInt32LE(0x4d41524b, 0);
    bytes.writeUInt32LE(page, 4);
    const base = this.#written.get(page) ?? (over === "file" ? this.#fileBytes(page) : null);
    const whole = Buffer.from(base ?? this.#zeroes);
    bytes.copy(whole, MARK_OFFSET);
    this.#written.set(page, whole);
    return { offset: MARK_OFFSET, bytes };
  }

  /** The VM gave these pages back: what it wrote there is over. */
  forget(first: number, count: number): void {
    for (let page = first; page < first + count; page++) this.#written.delete(page);
  }

  classify(page: number, bytes: Buffer): Found {
    const written = this.#written.get(page);
    if (written?.equals(bytes) === true) return "W";
    const isZero = bytes.equals(this.#zeroes);
    if (this.#fileBytes(page)?.equals(bytes) === true) return isZero ? "B" : "F";
    return isZero ? "Z" : "X";
  }

  /** What is to be said of a page that is nothing of what it may be. */
  describe(page: number, bytes: Buffer): string {
    if (this.#isMarked(page, bytes)) {
      const rest = Buffer.from(bytes);
      const file = this.#fileBytes(page) ?? this.#zeroes;
      file.copy(rest, MARK_OFFSET, MARK_OFFSET, MARK_OFFSET + MARK_BYTES);
      if (rest.equals(file)) return "the write, but around it the bytes of the memory file";
      if (rest.every((byte, index) => byte === 0 || index - MARK_OFFSET < MARK_BYTES)) {
        return "the write, but zeroes around it";
      }
    }
    const from = this.#expected.indexOf(bytes);
    if (from >= 0 && from % SMALL_PAGE_BYTES === 0) {
      return `the bytes of page ${from / SMALL_PAGE_BYTES}`;
    }
    const right = this.#written.get(page) ?? this.#fileBytes(page) ?? this.#zeroes;
    const first = bytes.findIndex((byte, index) => byte !== right[index]);
    const excerpt = bytes.toString("hex", first, first + MARK_BYTES);
    return `other bytes, from ${formatHex(first)} on: ${excerpt}`;
  }

  #isMarked(page: number, bytes: Buffer): boolean {
    const end = MARK_OFFSET + MARK_BYTES;
    return this.#written.get(page)?.compare(bytes, MARK_OFFSET, end, MARK_OFFSET, end) === 0;
  }

  #fileBytes(page: number): Buffer | null {
    const start = page * SMALL_PAGE_BYTES;
    if (start >= this.#expected.length) return null;
    return this.#expected.subarray(start, start + SMALL_PAGE_BYTES);
  }

  /** Addresses for the regions: unrelated, and the later the lower. */
  #map(regionPages: readonly number[], pageSizeBytes: number): number[] {
    const hugePages = pageSizeBytes === HUGE_PAGE_BYTES;
    // Huge pages are scarce, and mappings of them apart from each other anyway.
    const guardBytes = hugePages ? 0 : GUARD_BYTES;
    const largest = Math.max(...regionPages);
    for (const pages of regionPages) {
      const spanBytes = (hugePages ? pages : largest) * SMALL_PAGE_BYTES + 2 * guardBytes;
      this.#mappings.push(MappedRegion.anonymous(spanBytes, { hugePages }));
    }
    const addresses = this.#mappings.map(({ address }) => address + guardBytes);
    return hugePages ? addresses : addresses.sort((one, other) => other - one);
  }

  [Symbol.dispose](): void {
    for (const mapping of this.#mappings) mapping.unmap();
  }
}
