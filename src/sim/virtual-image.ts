/**
 * A snapshot of a few pages, by chance from a seed: layers with data and holes, and regions that
 * lie in host memory in another order than in the image. Bytes are numbers, one for each part of a
 * page, so that a page of the wrong layer or of the wrong place is never taken for the right one.
 * PURE.
 */
import { hostAddress, imageOffset } from "../base/units.ts";
import type { Extent } from "../snapshot/layers.ts";
import type { GuestRegion } from "../snapshot/regions.ts";
import type { Random } from "./random.ts";
import { UNREADABLE } from "./virtual-memory.ts";
import type { VirtualSource } from "./virtual-session.ts";

/** Larger than any part's number. */
const PART_RADIX = 2 ** 24;
const HOLE = null;

export interface ImageOptions {
  readonly pageSizeBytes: number;
  readonly pageCount: number;
  /** Layers change owner only at the borders of parts. */
  readonly partsPerPage: number;
  readonly hasUnreadablePages: boolean;
}

export class VirtualImage implements VirtualSource {
  readonly regions: readonly GuestRegion[];
  readonly unreadablePages: ReadonlySet<number>;
  readonly #options: ImageOptions;
  /** What each layer holds, part by part; base first. */
  readonly #layers: readonly (readonly (number | null)[])[];

  constructor(random: Random, options: ImageOptions) {
    this.#options = options;
    const { pageCount, partsPerPage } = options;
    this.#layers = Array.from({ length: random.between(1, 4) }, (_, layer) =>
      makeLayer(random, layer, pageCount * partsPerPage),
    );
    this.regions = makeRegions(random, pageCount, options.pageSizeBytes);
    const badPages = options.hasUnreadablePages ? random.between(1, 3) : 0;
    this.unreadablePages = new Set(Array.from({ length: badPages }, () => random.below(pageCount)));
  }

  /** What every page must hold: for each part the topmost layer that has it, else zero. */
  get bodies(): number[] {
    return Array.from({ length: this.#options.pageCount }, (_, page) =>
      this.#body(page, (part) => this.#topmost(part) ?? 0),
    );
  }

  get extents(): Extent[][] {
    const partBytes = this.#options.pageSizeBytes / this.#options.partsPerPage;
    return this.#layers.map((layer) =>
      layer.flatMap((value, part) =>
        value === HOLE ? [] : [{ start: part * partBytes, end: (part + 1) * partBytes }],
      ),
    );
  }

  /** A page of one layer's file, where holes read as zero. */
  fromLayer(owner: number, page: number): number {
    if (this.unreadablePages.has(page)) return UNREADABLE;
    return this.#body(page, (part) => this.#layers[owner]![part] ?? 0);
  }

  assembled(page: number): number {
    if (this.unreadablePages.has(page)) return UNREADABLE;
    return this.#body(page, (part) => this.#topmost(part) ?? 0);
  }

  #topmost(part: number): number | null {
    return this.#layers.findLast((layer) => layer[part] !== HOLE)?.[part] ?? HOLE;
  }

  #body(page: number, partAt: (part: number) => number): number {
    const { partsPerPage } = this.#options;
    let body = 0;
    for (let part = 0; part < partsPerPage; part++) {
      body = body * PART_RADIX + partAt(page * partsPerPage + part);
    }
    return body;
  }
}

/** Runs of data and of holes; some of the data are zeroes. */
function makeLayer(random: Random, layer: number, partCount: number): (number | null)[] {
  const density = random.pick([0, 0.3, 0.7, 1]);
  const parts: (number | null)[] = [];
  while (parts.length < partCount) {
    const isData = random.chance(density);
    for (let length = random.between(1, 6); length > 0; length--) {
      const value = random.chance(0.05) ? 0 : layer * partCount + parts.length + 1;
      if (parts.length < partCount) parts.push(isData ? value : HOLE);
    }
  }
  return parts;
}

function makeRegions(random: Random, pageCount: number, pageSizeBytes: number): GuestRegion[] {
  const cuts = Array.from({ length: random.below(3) }, () => random.between(1, pageCount - 1));
  const firsts = [...new Set([0, ...cuts])].sort((a, b) => a - b);
  const pieces = firsts.map((first, index) => ({
    first,
    pages: (firsts[index + 1] ?? pageCount) - first,
    base: 0,
  }));
  let base = 0x7e00_0000_0000;
  for (const piece of random.shuffled(pieces)) {
    piece.base = base;
    base += (piece.pages + random.below(3)) * pageSizeBytes;
  }
  return pieces.map((piece) => ({
    baseHostAddress: hostAddress(piece.base),
    sizeBytes: piece.pages * pageSizeBytes,
    imageOffset: imageOffset(piece.first * pageSizeBytes),
  }));
}
