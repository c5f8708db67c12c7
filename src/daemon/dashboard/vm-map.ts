/**
 * A VM as one viewer's map: which cells he gets, what he is told first, and what has changed since.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { formatHex } from "../../base/units.ts";
import { HttpError } from "../control/problem.ts";
import { type PageFacts, settledPages } from "./cell-kinds.ts";
import { type ChangedCells, MapCells, type MapWindow, type PageSight } from "./map-cells.ts";
import { agesOf, layersOf } from "./map-layers.ts";
import { addPages, newPageBits, type PageBits, zeroPagesOf } from "./page-bits.ts";
import { LEAST_CELL_BYTES, MAX_CELLS, type MapSnapshot } from "./protocol.ts";
import type { WatchedVm } from "./source.ts";

const NONE = new Uint32Array(0);

/** As it is asked for. */
export interface WindowQuery {
  readonly first?: number | undefined;
  readonly scale?: number | undefined;
  readonly cells?: number | undefined;
}

/** So many cells take a millisecond or two. */
const CELLS_PER_TURN = 8192;

export class VmMap {
  readonly #vm: WatchedVm;
  readonly #cells: MapCells;
  #plan: WatchedVm["plan"];

  private constructor(vm: WatchedVm, window: MapWindow) {
    this.#vm = vm;
    this.#plan = vm.plan;
    this.#cells = new MapCells(vm.regions.pageLimit, window, factsOf(vm), sightOf(vm));
  }

  /**
   * In turns: other VMs wait for this thread. Null: whoever wanted it `isGone`.
   * @throws HttpError 400: there are no such cells
   */
  static async open(
    vm: WatchedVm,
    query: WindowQuery,
    isGone: () => boolean,
  ): Promise<VmMap | null> {
    const { pageLimit, pageSizeBytes } = vm.regions;
    const map = new VmMap(vm, windowOf(query, pageLimit, pageSizeBytes));
    do {
      await nextTurn();
      if (isGone()) return null;
    } while (map.#cells.fill(CELLS_PER_TURN));
    return map;
  }

  /** What a viewer is told first. */
  async snapshot(): Promise<MapSnapshot> {
    const states = base64(this.#cells.states);
    await nextTurn();
    const layers = this.#layers();
    await nextTurn();
    const snapshot = { ...this.#shape(), states, layers, ages: this.#ages() };
    await nextTurn();
    return snapshot;
  }

  #layers(): string {
    const { runs, layers, regions } = this.#vm;
    return base64(layersOf(runs, layers, regions.pageSizeBytes, this.#cells.window));
  }

  #ages(): string {
    const { demandLog } = this.#vm;
    const [pages, timesUs] = [demandLog?.pages() ?? NONE, demandLog?.timesUs() ?? NONE];
    return base64(agesOf(pages, timesUs, this.#cells.window));
  }

  #shape(): Omit<MapSnapshot, "states" | "layers" | "ages"> {
    const { regions, layers, attachedMs, tracksDirty } = this.#vm;
    return {
      pageSizeBytes: regions.pageSizeBytes,
      pageCount: regions.pageLimit,
      ...this.#cells.window,
      layerNames: layers.names,
      attachedAt: new Date(attachedMs).toISOString(),
      tracksDirty,
      regions: regions.regions.map(({ baseHostAddress }, index) => ({
        firstPage: regions.firstPageOf(index),
        pages: regions.endPageOf(index) - regions.firstPageOf(index),
        hostAddress: formatHex(baseHostAddress),
      })),
    };
  }

  /** Null: nothing has changed since the last call. */
  changes(): ChangedCells | null {
    const { plan, regions } = this.#vm;
    if (plan !== this.#plan) {
      this.#plan = plan;
      this.#cells.replan(plan === null ? null : plannedPages(plan, regions.pageLimit));
    }
    return this.#cells.update(sightOf(this.#vm));
  }
}

/** @throws HttpError 400 */
export function windowOf(query: WindowQuery, pageCount: number, pageSizeBytes: number): MapWindow {
  const { first = 0, scale = defaultScale(pageCount - first, pageSizeBytes) } = query;
  if (first >= pageCount) {
    throw wrong("first", `first cannot be ${first}: the VM has ${pageCount} pages.`);
  }
  if (scale < 1) throw wrong("scale", "scale cannot be 0: a cell has a page at least.");
  const there = Math.ceil((pageCount - first) / scale);
  const cells = Math.min(query.cells ?? there, there);
  if (cells < 1) throw wrong("cells", "cells cannot be 0: a map has a cell at least.");
  if (cells > MAX_CELLS) {
    const enough = defaultScale(pageCount - first, pageSizeBytes);
    const message =
      `A map has at most ${MAX_CELLS} cells, and these are ${cells}. Ask for a larger scale, ` +
      `such as ${enough}, or for fewer cells.`;
    throw wrong("cells", message);
  }
  return { first, scale, cells };
}

/** Cells of 64 KiB, or twice that as often as it takes to have few enough. */
function defaultScale(pages: number, pageSizeBytes: number): number {
  let scale = Math.max(1, LEAST_CELL_BYTES / pageSizeBytes);
  while (Math.ceil(pages / scale) > MAX_CELLS) scale *= 2;
  return scale;
}

/** Facts about single pages: the same for every cell that they are in. */
export function factsOf({ regions, runs, plan }: WatchedVm): PageFacts {
  const { pageLimit: pageCount, pageSizeBytes } = regions;
  return {
    existing: regions.totalBytes === pageCount * pageSizeBytes ? null : existingPages(),
    zero: zeroPagesOf(runs, pageSizeBytes, pageCount),
    planned: plan === null ? null : plannedPages(plan, pageCount),
    demanded: newPageBits(pageCount),
  };

  function existingPages(): PageBits {
    const bits = newPageBits(pageCount);
    for (const index of regions.regions.keys()) {
      addPages(bits, regions.firstPageOf(index), regions.endPageOf(index));
    }
    return bits;
  }
}

/** Read at once: `MapCells` wants the page table before what was demanded, and both as they are. */
export function sightOf(vm: WatchedVm): PageSight {
  const { pageTable, demandLog } = vm;
  return {
    states: pageTable.bytes,
    demanded: () => demandLog?.pages() ?? NONE,
    dirty: vm.dirtyBits(),
  };
}

function plannedPages(plan: NonNullable<WatchedVm["plan"]>, pageCount: number): PageBits {
  const bits = newPageBits(pageCount);
  if (plan.completes) addPages(bits, 0, pageCount);
  for (const [at, byte] of (plan.before ?? []).entries()) {
    // Four pages a byte, four bytes a word.
    bits[at >>> 2]! &= ~(settledPages(byte) << ((at & 3) * 4));
  }
  const { starts, counts } = plan.runs;
  for (const [index, start] of starts.entries()) addPages(bits, start, start + counts[index]!);
  return bits;
}

function wrong(field: string, message: string): HttpError {
  return new HttpError(400, message, { field });
}

function base64(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString("base64");
}
