/** What colour the dashboard's map gives to a page: read from the canvas, as the user sees it. */
import type { WatchedPage } from "./page-browser.ts";

/** The pixel at the middle of the cell that holds a page, as little-endian RGBA. */
export async function pixelOfPage(watched: WatchedPage, page: number): Promise<number> {
  return await watched.ask<number>(`(() => {
    const canvas = document.querySelector("canvas.map");
    const { columns, cellPixels, from, scale } = canvas.dataset;
    const cell = Math.floor((${page} - Number(from)) / Number(scale));
    const at = (index) => Math.floor((index + 0.5) * Number(cellPixels) - 0.01);
    const copy = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
    const [x, y] = [at(cell % Number(columns)), at(Math.floor(cell / Number(columns)))];
    copy.drawImage(canvas, x, y, 1, 1, 0, 0, 1, 1);
    return new Uint32Array(copy.getImageData(0, 0, 1, 1).data.buffer)[0];
  })()`);
}
