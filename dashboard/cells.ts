/**
 * The cells of one map: what the daemon told, and what has changed since. Also counts them, for the
 * legend and for those who cannot see the map. PURE.
 */
import {
  Cell,
  type CellChanges,
  type CellKind,
  cellKinds,
  decodeAges,
  decodeBase64,
  decodeRuns,
  kindOfCell,
  type MapSnapshot,
  NO_LAYER,
  shareOfCell,
} from "../src/daemon/dashboard/protocol.ts";

export class CellMap {
  readonly snapshot: MapSnapshot;
  readonly states: Uint8Array;
  readonly layers: Uint8Array;
  /** For each cell when its newest page came, in ms since the VM was attached. */
  readonly ages: Uint32Array;
  /** The largest of these. */
  newestMs = 0;
  /** Cells by kind. */
  readonly #counts = new Float64Array(16);

  /** @throws Error if its parts do not fit together */
  constructor(snapshot: MapSnapshot) {
    this.snapshot = snapshot;
    this.states = decodeBase64(snapshot.states);
    this.layers = decodeBase64(snapshot.layers);
    this.ages = decodeAges(snapshot.ages);
    for (const { length } of [this.states, this.layers, this.ages]) {
      if (length !== snapshot.cells) throw new Error("The map has parts of different lengths.");
    }
    for (const state of this.states) this.#counts[kindOfCell(state)]! += 1;
    for (const age of this.ages) if (age !== 0xffffffff) this.#sawAge(age);
  }

  get cells(): number {
    return this.snapshot.cells;
  }

  /** Calls `changed` for each run of cells that are another thing now. */
  apply(changes: CellChanges, changed: (first: number, count: number) => void): void {
    const { afterMs } = changes;
    decodeRuns(decodeBase64(changes.runs), (first, states) => {
      if (first + states.length > this.cells) throw new Error("A change lies beyond the map.");
      for (let index = 0; index < states.length; index++) {
        const cell = first + index;
        const [before, now] = [this.states[cell]!, states[index]!];
        this.#counts[kindOfCell(before)]! -= 1;
        this.#counts[kindOfCell(now)]! += 1;
        if (!hasCome(before, now)) continue;
        this.ages[cell] = afterMs;
        this.#sawAge(afterMs);
      }
      this.states.set(states, first);
      changed(first, states.length);
    });
  }

  count(kind: CellKind): number {
    return this.#counts[Cell[kind]]!;
  }

  kindAt(cell: number): CellKind {
    return cellKinds[kindOfCell(this.states[cell]!)] ?? "none";
  }

  /** Where the bytes of a cell come from, in words. */
  layerAt(cell: number): string {
    const layer = this.layers[cell]!;
    return layer === NO_LAYER ? "zeroes" : (this.snapshot.layerNames[layer] ?? `layer ${layer}`);
  }

  firstPageOf(cell: number): number {
    return this.snapshot.first + cell * this.snapshot.scale;
  }

  /** Pages of a cell: the last one may have fewer. */
  pagesOf(cell: number): number {
    const { pageCount, scale } = this.snapshot;
    return Math.min(scale, pageCount - this.firstPageOf(cell));
  }

  /** The cell of a page, or null if it lies outside. */
  cellOf(page: number): number | null {
    const cell = Math.floor((page - this.snapshot.first) / this.snapshot.scale);
    return cell >= 0 && cell < this.cells ? cell : null;
  }

  #sawAge(ageMs: number): void {
    if (ageMs > this.newestMs) this.newestMs = ageMs;
  }
}

/** Whether a page of the cell came: not if one is asked for, taken back, or only written to. */
function hasCome(before: number, now: number): boolean {
  const [was, is] = [kindOfCell(before), kindOfCell(now)];
  if (is === Cell.untouched || is === Cell.pending || is === Cell.removed) return false;
  if (was === Cell.untouched || was === Cell.pending) return true;
  if (shareOfCell(now) > shareOfCell(before)) return true;
  return was !== is && was !== Cell.dirty && is !== Cell.dirty;
}
