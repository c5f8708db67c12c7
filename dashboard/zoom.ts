/**
 * The arithmetic of looking closer: a view is a run of pages, drawn in rows. Views are kept within
 * the VM; what to ask of the daemon for one is a window, a little larger, so that small steps need
 * no new stream. PURE.
 */
import { LEAST_CELL_BYTES, MAX_CELLS } from "../src/daemon/dashboard/protocol.ts";

/** What is on the screen. */
export interface View {
  readonly first: number;
  readonly pages: number;
}

/** What a stream tells of: `cells` cells of `scale` pages, from page `first` on. */
export interface CellWindow {
  readonly first: number;
  readonly scale: number;
  readonly cells: number;
}

/** How cells lie on the canvas, in device pixels. */
export interface Grid {
  readonly columns: number;
  readonly rows: number;
  readonly cellPixels: number;
}

/** No closer than this: cells are as large as a finger then. */
export const LEAST_VIEW_PAGES = 64;
/** So many cells on the screen are plenty when one looks closer. */
const CLOSE_CELLS = 16_384;
const LARGEST_CELL_PIXELS = 48;
/** From this size on cells are whole pixels, so that all are the same. */
const WHOLE_FROM_PIXELS = 3;

/** Pages of a cell in the map of the whole VM: of a small VM single pages can be seen at once. */
export function wholeScale(pageCount: number, pageSizeBytes: number): number {
  let coarsest = Math.max(1, LEAST_CELL_BYTES / pageSizeBytes);
  while (Math.ceil(pageCount / coarsest) > MAX_CELLS) coarsest *= 2;
  return scaleFor(wholeView(pageCount), coarsest);
}

export function wholeView(pageCount: number): View {
  return { first: 0, pages: pageCount };
}

export function isWhole(view: View, pageCount: number): boolean {
  return view.first === 0 && view.pages >= pageCount;
}

/** Looks `factor` times closer, with `page` where it is on the screen. */
export function zoomAt(view: View, page: number, factor: number, pageCount: number): View {
  const least = Math.min(pageCount, LEAST_VIEW_PAGES);
  const pages = Math.max(least, Math.min(pageCount, Math.round(view.pages / factor)));
  const share = (page - view.first) / view.pages;
  return within(page - share * pages, pages, pageCount);
}

/** Goes on by so many pages, backwards if negative. */
export function pan(view: View, pages: number, pageCount: number): View {
  return within(view.first + pages, view.pages, pageCount);
}

/** The view of the pages from `from` to `to`, both included, in either order. */
export function viewBetween(from: number, to: number, pageCount: number): View {
  const first = Math.min(from, to);
  const pages = Math.abs(to - from) + 1;
  const least = Math.min(pageCount, LEAST_VIEW_PAGES);
  if (pages >= least) return within(first, pages, pageCount);
  return within(first - (least - pages) / 2, least, pageCount);
}

/** The same view, moved as little as possible so that `page` is in it. */
export function reveal(view: View, page: number, pageCount: number): View {
  if (page < view.first) return within(page, view.pages, pageCount);
  if (page < view.first + view.pages) return view;
  return within(page - view.pages + 1, view.pages, pageCount);
}

/** Pages of one cell in a view: a power of two, or that of the map of the whole VM. */
export function scaleFor(view: View, coarsest: number): number {
  let scale = 1;
  while (view.pages / scale > CLOSE_CELLS && scale < coarsest) scale *= 2;
  return Math.min(scale, coarsest);
}

/** What to ask for, with half a view on either side; null: the map of the whole VM will do. */
export function windowFor(view: View, pageCount: number, coarsest: number): CellWindow | null {
  const scale = scaleFor(view, coarsest);
  if (scale === coarsest) return null;
  const margin = view.pages / 2;
  const first = Math.max(0, Math.floor((view.first - margin) / scale)) * scale;
  const end = Math.min(pageCount, view.first + view.pages + margin);
  return { first, scale, cells: Math.min(MAX_CELLS, Math.ceil((end - first) / scale)) };
}

/** Whether what a stream tells of is what a view needs. */
export function serves(window: CellWindow, view: View, pageCount: number, scale: number): boolean {
  const end = Math.min(pageCount, view.first + view.pages);
  return (
    window.scale === scale &&
    window.first <= view.first &&
    window.first + window.cells * window.scale >= end
  );
}

/**
 * The largest square cells with which `cells` of them fit, all over the width; where not even
 * cells of one pixel do, there are more rows than fit.
 */
export function gridFor(cells: number, width: number, height: number): Grid {
  const ideal = Math.sqrt((width * height) / Math.max(1, cells));
  let cellPixels = Math.max(1, Math.min(LARGEST_CELL_PIXELS, ideal));
  if (cellPixels >= WHOLE_FROM_PIXELS) cellPixels = Math.floor(cellPixels);
  for (;;) {
    const columns = roundColumns(Math.max(1, Math.floor(width / cellPixels)));
    const rows = Math.ceil(cells / columns);
    if (rows * cellPixels <= height + 1e-6 || cellPixels <= 1) return { columns, rows, cellPixels };
    cellPixels = cellPixels > WHOLE_FROM_PIXELS ? cellPixels - 1 : Math.max(1, cellPixels * 0.98);
  }
}

/** Many are a multiple of 16, so that rows begin at round addresses. */
function roundColumns(columns: number): number {
  return columns < 64 ? columns : columns - (columns % 16);
}

function within(first: number, pages: number, pageCount: number): View {
  const last = Math.max(0, pageCount - pages);
  return { first: Math.max(0, Math.min(last, Math.round(first))), pages };
}
