/**
 * Paints cells: one pixel for each into a small picture, by tables, and that scaled up to the
 * canvas without smoothing. Cells that have just changed glow.
 */
import { Cell, kindOfCell, NO_AGE } from "../src/daemon/dashboard/protocol.ts";
import type { CellMap } from "./cells.ts";
import {
  ageTable,
  coloursOf,
  cssColour,
  glowing,
  layerTable,
  pixel,
  stateTable,
  type Theme,
} from "./palette.ts";
import { type Grid, gridFor, type View } from "./zoom.ts";

export const colourings = ["state", "layer", "age"] as const;
export type Colouring = (typeof colourings)[number];

const GLOW_STEPS = 8;
const GLOW_STEP_MS = 75;
/** From this size on there is a line between cells. */
const LINED_FROM_PIXELS = 6;
/** Entries for ages that are none. */
const AGE_UNTOUCHED = 255;
const AGE_UNKNOWN = 254;
const AGES = 254;
/** Steps of a doubling of an age. */
const AGE_STEPS = 7;

export class MapPainter {
  readonly canvas: HTMLCanvasElement;
  readonly #context: CanvasRenderingContext2D;
  readonly #picture = document.createElement("canvas");
  readonly #pictureContext: CanvasRenderingContext2D;
  #image = new ImageData(1, 1);
  #pixels = new Uint32Array(this.#image.data.buffer);
  #map: CellMap | null = null;
  #glow = new Uint8Array(0);
  #ageSteps = new Uint8Array(0);
  #isGlowing = false;
  #glowMs = 0;
  #tables: Readonly<Record<Colouring, Uint32Array>>;
  #theme: Theme;
  #colouring: Colouring = "state";
  /** The cells that are visible: [from, to). */
  #from = 0;
  #to = 0;
  grid: Grid = { columns: 1, rows: 1, cellPixels: 1 };
  isDirty = true;
  /** Cells that are marked to be looked at, both ends included. */
  #marked: readonly [from: number, to: number] | null = null;

  constructor(canvas: HTMLCanvasElement, theme: Theme) {
    this.canvas = canvas;
    this.#context = canvas.getContext("2d", { alpha: false })!;
    this.#pictureContext = this.#picture.getContext("2d", { alpha: false })!;
    this.#theme = theme;
    this.#tables = tablesOf(theme);
  }

  get map(): CellMap | null {
    return this.#map;
  }

  get colouring(): Colouring {
    return this.#colouring;
  }

  /** The visible cells, [from, to). */
  get visible(): readonly [from: number, to: number] {
    return [this.#from, this.#to];
  }

  setMap(map: CellMap): void {
    this.#map = map;
    this.#glow = new Uint8Array(map.cells);
    this.#ageSteps = Uint8Array.from(map.ages, (age, cell) => ageStep(age, map.states[cell]!));
    this.isDirty = true;
  }

  setColouring(colouring: Colouring): void {
    this.#colouring = colouring;
    this.isDirty = true;
  }

  setTheme(theme: Theme): void {
    this.#theme = theme;
    this.#tables = tablesOf(theme);
    this.isDirty = true;
  }

  /** These cells are another thing now. */
  mark(first: number, count: number, isToGlow: boolean): void {
    const map = this.#map!;
    for (let cell = first; cell < first + count; cell++) {
      this.#ageSteps[cell] = ageStep(map.ages[cell]!, map.states[cell]!);
      if (isToGlow) this.#glow[cell] = GLOW_STEPS - 1;
    }
    this.#isGlowing ||= isToGlow;
    this.isDirty = true;
  }

  /** Shades the cells between two, in either order. */
  setMarked(marked: readonly [from: number, to: number] | null): void {
    this.#marked = marked;
    this.isDirty = true;
  }

  /** Lays the cells of `view` out on so many device pixels. */
  layOut(view: View, width: number, height: number): void {
    const map = this.#map;
    if (map === null || width === 0) return;
    const { first, scale } = map.snapshot;
    this.#from = Math.max(0, Math.floor((view.first - first) / scale));
    this.#to = Math.min(map.cells, Math.ceil((view.first + view.pages - first) / scale));
    const count = Math.max(1, this.#to - this.#from);
    this.grid = gridFor(count, width, height);
    const { columns, rows, cellPixels } = this.grid;
    const needed = Math.ceil(rows * cellPixels);
    if (this.canvas.width !== width) this.canvas.width = width;
    if (this.canvas.height !== needed) this.canvas.height = needed;
    if (this.#picture.width !== columns || this.#picture.height !== rows) {
      this.#picture.width = columns;
      this.#picture.height = rows;
      this.#image = new ImageData(columns, rows);
      this.#pixels = new Uint32Array(this.#image.data.buffer);
    }
    this.isDirty = true;
  }

  /** Paints if there is something new; true while the next frame has something to do, too. */
  paint(nowMs: number): boolean {
    const map = this.#map;
    if (map === null) return false;
    const isStep = this.#isGlowing && nowMs - this.#glowMs >= GLOW_STEP_MS;
    if (isStep) this.#glowMs = nowMs;
    if (!this.isDirty && !isStep) return this.#isGlowing;
    this.isDirty = false;
    this.#fill(map);
    if (isStep) this.#fade();
    this.#pictureContext.putImageData(this.#image, 0, 0);
    this.#draw();
    // What has faded away has to be painted once more, without any glow.
    return this.isDirty || this.#isGlowing;
  }

  /** The cell under a point of the canvas in device pixels, or null. */
  cellAt(x: number, y: number): number | null {
    const { columns, cellPixels } = this.grid;
    const column = Math.floor(x / cellPixels);
    if (column < 0 || column >= columns || y < 0) return null;
    const cell = this.#from + Math.floor(y / cellPixels) * columns + column;
    return cell < this.#to ? cell : null;
  }

  /** Where a cell is, in device pixels. */
  placeOf(cell: number): { readonly x: number; readonly y: number } | null {
    const index = cell - this.#from;
    if (index < 0 || cell >= this.#to) return null;
    const { columns, cellPixels } = this.grid;
    return { x: (index % columns) * cellPixels, y: Math.floor(index / columns) * cellPixels };
  }

  #fill(map: CellMap): void {
    const [pixels, glow, from, to] = [this.#pixels, this.#glow, this.#from, this.#to];
    const table = this.#tables[this.#colouring];
    const size = table.length / GLOW_STEPS;
    if (this.#colouring === "state") {
      const { states } = map;
      for (let cell = from; cell < to; cell++) {
        pixels[cell - from] = table[glow[cell]! * size + states[cell]!]!;
      }
    } else if (this.#colouring === "layer") {
      const { layers, states } = map;
      for (let cell = from; cell < to; cell++) {
        const isThere = kindOfCell(states[cell]!) === Cell.untouched ? 256 : 0;
        pixels[cell - from] = table[glow[cell]! * size + isThere + layers[cell]!]!;
      }
    } else {
      this.#fillAges(map, pixels, glow);
    }
    pixels.fill(pixel(coloursOf(this.#theme).none), Math.max(0, to - from));
    if (this.#marked !== null) this.#shade(this.#marked);
  }

  #shade([one, other]: readonly [from: number, to: number]): void {
    const half = (value: number): number => (value & 0xfefefe) >>> 1;
    const shade = half(pixel(coloursOf(this.#theme).glow));
    const first = Math.max(this.#from, Math.min(one, other));
    const last = Math.min(this.#to - 1, Math.max(one, other));
    for (let index = first - this.#from; index <= last - this.#from; index++) {
      this.#pixels[index] = ((half(this.#pixels[index]!) + shade) | 0xff000000) >>> 0;
    }
  }

  #fillAges(map: CellMap, pixels: Uint32Array, glow: Uint8Array): void {
    const { ground, kinds, glow: shine } = coloursOf(this.#theme);
    const ramp = this.#tables.age;
    const newest = Math.max(1, stepOfAge(map.newestMs));
    const table = Uint32Array.from({ length: 256 }, (_, step) => {
      return ramp[Math.min(255, Math.round((step / newest) * 255))]!;
    });
    table[AGE_UNTOUCHED] = pixel(ground);
    table[AGE_UNKNOWN] = pixel(kinds.zero);
    const bright = pixel(shine);
    for (let cell = this.#from; cell < this.#to; cell++) {
      const isBright = glow[cell]! > GLOW_STEPS / 2;
      pixels[cell - this.#from] = isBright ? bright : table[this.#ageSteps[cell]!]!;
    }
  }

  #fade(): void {
    const glow = this.#glow;
    let left = 0;
    for (let cell = 0; cell < glow.length; cell++) {
      if (glow[cell]! > 0) left += --glow[cell]!;
    }
    this.#isGlowing = left > 0;
    this.isDirty = true;
  }

  #draw(): void {
    const { columns, rows, cellPixels } = this.grid;
    const { width, height } = this.canvas;
    const context = this.#context;
    const background = cssColour(coloursOf(this.#theme).none);
    context.fillStyle = background;
    context.fillRect(0, 0, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(this.#picture, 0, 0, columns * cellPixels, rows * cellPixels);
    if (cellPixels < LINED_FROM_PIXELS) return;
    for (let column = 1; column <= columns; column++) {
      context.fillRect(column * cellPixels - 1, 0, 1, height);
    }
    for (let row = 1; row <= rows; row++) context.fillRect(0, row * cellPixels - 1, width, 1);
  }
}

function tablesOf(theme: Theme): Readonly<Record<Colouring, Uint32Array>> {
  return {
    state: glowing(stateTable(theme), theme, GLOW_STEPS),
    layer: glowing(layerTable(theme), theme, GLOW_STEPS),
    age: ageTable(),
  };
}

/** By the logarithm: what came in the first moments is what one wants to tell apart. */
function stepOfAge(ageMs: number): number {
  return Math.min(AGES - 1, Math.floor(Math.log2(1 + ageMs) * AGE_STEPS));
}

function ageStep(ageMs: number, state: number): number {
  const kind = kindOfCell(state);
  if (kind === Cell.untouched || kind === Cell.none || kind === Cell.pending) return AGE_UNTOUCHED;
  return ageMs === NO_AGE ? AGE_UNKNOWN : stepOfAge(ageMs);
}
