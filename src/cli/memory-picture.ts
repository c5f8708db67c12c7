/** Guest memory as characters: what was loaded, what is zero, what was never touched. */
import { styleText } from "node:util";
import type { PageCounts } from "../daemon/memory-map.ts";

const LOADED_SHADES = ["░", "▒", "▓", "█"] as const;
const ZERO = "z";
const REMOVED = "x";
const UNTOUCHED = "·";

const stream = process.stdout;

/** Rows of `width` cells. A cell shows the commonest kind; for loaded ones, how much of it. */
export function drawMemory(cells: readonly PageCounts[], width: number): string[] {
  const rows: string[] = [];
  for (let start = 0; start < cells.length; start += width) {
    rows.push(
      cells
        .slice(start, start + width)
        .map(drawCell)
        .join(""),
    );
  }
  return rows;
}

export function legend(): string {
  const loaded = styleText("green", LOADED_SHADES.join(""), { stream });
  return [
    `${loaded} loaded from the snapshot, the darker the more`,
    `${styleText("cyan", ZERO, { stream })} zero, nothing to load`,
    `${styleText("gray", UNTOUCHED, { stream })} never touched`,
  ].join("   ");
}

function drawCell(counts: PageCounts): string {
  const total = counts.loaded + counts.zero + counts.removed + counts.untouched;
  if (counts.loaded > 0) {
    const shade = Math.ceil((counts.loaded / total) * LOADED_SHADES.length) - 1;
    return styleText("green", LOADED_SHADES[shade] ?? "█", { stream });
  }
  if (counts.removed > 0) return styleText("yellow", REMOVED, { stream });
  if (counts.zero > 0) return styleText("cyan", ZERO, { stream });
  return styleText("gray", UNTOUCHED, { stream });
}
