/** The whole VM as a strip, with a frame around what the map shows. A click goes there. */
import { Cell, kindOfCell } from "../src/daemon/dashboard/protocol.ts";
import type { CellMap } from "./cells.ts";
import { element } from "./element.ts";
import { stateTable, type Theme } from "./palette.ts";
import type { View } from "./zoom.ts";

const COLUMNS = 512;

export class Minimap {
  readonly element: HTMLElement;
  readonly #canvas = element("canvas", { width: String(COLUMNS), height: "1" });
  readonly #frame = element("span", { class: "frame" });
  #map: CellMap | null = null;

  constructor(go: (page: number) => void) {
    this.element = element(
      "div",
      { class: "minimap", "aria-hidden": "true" },
      this.#canvas,
      this.#frame,
    );
    this.element.addEventListener("click", ({ clientX }) => {
      const { left, width } = this.element.getBoundingClientRect();
      if (this.#map !== null) go(((clientX - left) / width) * this.#map.snapshot.pageCount);
    });
  }

  show(map: CellMap, view: View, theme: Theme): void {
    this.#map = map;
    const { pageCount } = map.snapshot;
    this.#frame.style.left = `${(view.first / pageCount) * 100}%`;
    this.#frame.style.width = `max(3px, ${(view.pages / pageCount) * 100}%)`;
    const image = new ImageData(COLUMNS, 1);
    const pixels = new Uint32Array(image.data.buffer);
    const table = stateTable(theme);
    for (let column = 0; column < COLUMNS; column++) {
      pixels[column] = table[columnState(map, column)]!;
    }
    this.#canvas.getContext("2d")!.putImageData(image, 0, 0);
  }
}

/** The first cell of a column that anything has happened to, as brightly as the column is full. */
function columnState(map: CellMap, column: number): number {
  const from = Math.floor((column / COLUMNS) * map.cells);
  const to = Math.max(from + 1, Math.floor(((column + 1) / COLUMNS) * map.cells));
  let state = map.states[from]!;
  let touched = 0;
  for (let cell = from; cell < to; cell++) {
    const kind = kindOfCell(map.states[cell]!);
    if (kind === Cell.untouched || kind === Cell.none) continue;
    if (touched++ === 0) state = map.states[cell]!;
  }
  return (state & 15) | (Math.round((15 * touched) / (to - from)) << 4);
}
