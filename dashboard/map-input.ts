/** Pointer and keys on the map: what is looked at, and which cell is told of. */
import { formatBytes, formatHex } from "./formats.ts";
import type { MapPainter } from "./map-painter.ts";
import { isWhole, pan, reveal, type View, viewBetween, wholeView, zoomAt } from "./zoom.ts";

export interface MapInputUser {
  view(): View | null;
  look(view: View): void;
  /** Tell of a cell, or of none. */
  point(cell: number | null): void;
  /** What is being marked with the pointer, which is over `cell`. */
  mark(text: string, cell: number): void;
  announce(cell: number): void;
  left(): void;
}

const MAX_HISTORY = 64;
const DRAG_PIXELS = 5;
/** Turns of the wheel that follow each other so closely are one step of the history. */
const ONE_GESTURE_MS = 600;
const WHEEL_STEP = 1.002;

export class MapInput {
  readonly #canvas: HTMLCanvasElement;
  readonly #painter: MapPainter;
  readonly #user: MapInputUser;
  readonly #history: View[] = [];
  #lastStepMs = 0;
  /** The page that the keys are at. */
  #cursor: number | null = null;
  #dragged: { readonly cell: number; readonly x: number; readonly y: number } | null = null;
  #isMarking = false;

  constructor(canvas: HTMLCanvasElement, painter: MapPainter, user: MapInputUser) {
    this.#canvas = canvas;
    this.#painter = painter;
    this.#user = user;
    canvas.addEventListener("keydown", (event) => this.#onKey(event));
    canvas.addEventListener("wheel", (event) => this.#onWheel(event), { passive: false });
    canvas.addEventListener("dblclick", (event) => this.#onDoubleClick(event));
    canvas.addEventListener("pointerdown", (event) => this.#onDown(event));
    canvas.addEventListener("pointermove", (event) => this.#onMove(event));
    canvas.addEventListener("pointerup", (event) => this.#onUp(event));
    canvas.addEventListener("pointercancel", () => this.#endDrag());
    canvas.addEventListener("pointerleave", () => this.#user.point(null));
    canvas.addEventListener("blur", () => this.#user.point(null));
  }

  /** Around the cursor, or the middle. */
  zoom(factor: number): void {
    const view = this.#user.view();
    if (view === null) return;
    const middle = view.first + view.pages / 2;
    const isSeen = this.#cursor !== null && reveal(view, this.#cursor, this.#pageCount) === view;
    this.#zoomAt(isSeen ? this.#cursor! : middle, factor);
  }

  whole(): void {
    this.#go(wholeView(this.#pageCount));
  }

  get #pageCount(): number {
    return this.#painter.map?.snapshot.pageCount ?? 0;
  }

  #zoomAt(page: number, factor: number): void {
    const view = this.#user.view();
    if (view !== null) this.#go(zoomAt(view, page, factor, this.#pageCount));
  }

  #go(view: View): void {
    const before = this.#user.view();
    if (before === null || (before.first === view.first && before.pages === view.pages)) return;
    const nowMs = performance.now();
    if (nowMs - this.#lastStepMs > ONE_GESTURE_MS) this.#history.push(before);
    this.#lastStepMs = nowMs;
    if (this.#history.length > MAX_HISTORY) this.#history.shift();
    this.#user.look(view);
  }

  #back(): void {
    const view = this.#user.view();
    const before = this.#history.pop();
    this.#lastStepMs = 0;
    if (before !== undefined) this.#user.look(before);
    else if (view !== null && !isWhole(view, this.#pageCount)) this.whole();
    else this.#user.left();
  }

  #onKey(event: KeyboardEvent): void {
    const view = this.#user.view();
    if (view === null || event.ctrlKey || event.metaKey || event.altKey) return;
    if (!this.#act(event.key, event.shiftKey, view)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** Whether the key means anything here. */
  #act(key: string, isShifted: boolean, view: View): boolean {
    const scale = this.#painter.map?.snapshot.scale ?? 1;
    const row = this.#painter.grid.columns * scale;
    const steps: Readonly<Record<string, number>> = {
      ArrowLeft: -scale,
      ArrowRight: scale,
      ArrowUp: -row,
      ArrowDown: row,
    };
    const step = steps[key];
    if (step !== undefined && !isShifted) this.#moveCursor(step, view);
    else if (step !== undefined) {
      const isRow = key === "ArrowUp" || key === "ArrowDown";
      this.#go(
        pan(view, isRow ? step : Math.sign(step) * Math.ceil(view.pages / 8), this.#pageCount),
      );
    } else if (key === "PageUp") this.#go(pan(view, -view.pages, this.#pageCount));
    else if (key === "PageDown") this.#go(pan(view, view.pages, this.#pageCount));
    else if (key === "+" || key === "=") this.zoom(2);
    else if (key === "-" || key === "_") this.zoom(0.5);
    else if (key === "Enter") this.zoom(4);
    else if (key === "Home") this.whole();
    else if (key === "Escape") this.#back();
    else return false;
    return true;
  }

  #moveCursor(step: number, view: View): void {
    const isOutside = this.#cursor === null || reveal(view, this.#cursor, this.#pageCount) !== view;
    const page = isOutside ? view.first : this.#cursor! + step;
    this.#cursor = Math.max(0, Math.min(this.#pageCount - 1, page));
    const moved = reveal(view, this.#cursor, this.#pageCount);
    if (moved !== view) this.#user.look(moved);
    const cell = this.#painter.map?.cellOf(this.#cursor) ?? null;
    this.#user.point(cell);
    if (cell !== null) this.#user.announce(cell);
  }

  #onWheel(event: WheelEvent): void {
    event.preventDefault();
    const view = this.#user.view();
    const page = this.#pageAt(event);
    if (view === null || page === null) return;
    if (event.shiftKey) {
      const row = this.#painter.grid.columns * (this.#painter.map?.snapshot.scale ?? 1);
      this.#go(pan(view, Math.sign(event.deltaY + event.deltaX) * row, this.#pageCount));
      return;
    }
    this.#zoomAt(page, WHEEL_STEP ** -Math.max(-400, Math.min(400, event.deltaY)));
  }

  #onDoubleClick(event: MouseEvent): void {
    const page = this.#pageAt(event);
    if (page !== null) this.#zoomAt(page, 4);
  }

  #onDown(event: PointerEvent): void {
    const cell = this.#cellAt(event);
    if (cell === null || event.button !== 0) return;
    this.#dragged = { cell, x: event.clientX, y: event.clientY };
    this.#cursor = this.#painter.map!.firstPageOf(cell);
    this.#canvas.setPointerCapture(event.pointerId);
  }

  #onMove(event: PointerEvent): void {
    const cell = this.#cellAt(event);
    const dragged = this.#dragged;
    if (dragged === null) {
      this.#user.point(cell);
      return;
    }
    const way = Math.hypot(event.clientX - dragged.x, event.clientY - dragged.y);
    this.#isMarking ||= way > DRAG_PIXELS;
    if (!this.#isMarking || cell === null) return;
    this.#painter.setMarked([dragged.cell, cell]);
    const map = this.#painter.map!;
    const first = map.firstPageOf(Math.min(dragged.cell, cell));
    const pages = (Math.abs(dragged.cell - cell) + 1) * map.snapshot.scale;
    const { pageSizeBytes } = map.snapshot;
    const from = formatHex(first * pageSizeBytes);
    this.#user.mark(`look at ${formatBytes(pages * pageSizeBytes)} from ${from}`, cell);
  }

  #onUp(event: PointerEvent): void {
    const cell = this.#cellAt(event);
    const dragged = this.#dragged;
    const wasMarking = this.#isMarking;
    this.#endDrag();
    const map = this.#painter.map;
    if (!wasMarking || dragged === null || cell === null || map === null) return;
    const to = Math.max(dragged.cell, cell);
    const first = map.firstPageOf(Math.min(dragged.cell, cell));
    this.#go(viewBetween(first, map.firstPageOf(to) + map.pagesOf(to) - 1, this.#pageCount));
  }

  #endDrag(): void {
    this.#dragged = null;
    this.#isMarking = false;
    this.#painter.setMarked(null);
    this.#user.point(null);
  }

  #cellAt({ clientX, clientY }: MouseEvent): number | null {
    const { left, top } = this.#canvas.getBoundingClientRect();
    const ratio = window.devicePixelRatio;
    return this.#painter.cellAt((clientX - left) * ratio, (clientY - top) * ratio);
  }

  #pageAt(event: MouseEvent): number | null {
    const cell = this.#cellAt(event);
    const map = this.#painter.map;
    if (cell === null || map === null) return null;
    return map.firstPageOf(cell) + map.pagesOf(cell) / 2;
  }
}
