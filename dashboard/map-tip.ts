/** What a cell is, in words: beside the pointer, and for those who hear the page instead. */
import { FULL_SHARE, shareOfCell } from "../src/daemon/dashboard/protocol.ts";
import type { CellMap } from "./cells.ts";
import { element } from "./element.ts";
import { formatBytes, formatHex, formatMicroseconds, formatShare, plural } from "./formats.ts";

const NO_AGE = 0xffffffff;
const GAP = 14;

export function cellLines(map: CellMap, cell: number): string[] {
  const { pageSizeBytes } = map.snapshot;
  const firstPage = map.firstPageOf(cell);
  const pages = map.pagesOf(cell);
  const from = firstPage * pageSizeBytes;
  const kind = map.kindAt(cell);
  const share = shareOfCell(map.states[cell]!) / FULL_SHARE;
  const touched = pages > 1 && kind !== "untouched" ? `, ${formatShare(share)} touched` : "";
  const lines = [
    `${formatHex(from)} – ${formatHex(from + pages * pageSizeBytes - 1)}`,
    `${formatBytes(pages * pageSizeBytes)}, ${plural(pages, "page")} from ${firstPage}`,
    `${kind}${touched}`,
    `bytes from: ${map.layerAt(cell)}`,
  ];
  const age = map.ages[cell]!;
  if (age !== NO_AGE && kind !== "untouched") {
    lines.push(`newest page after ${formatMicroseconds(age * 1000)}`);
  }
  return lines;
}

export class MapTip {
  readonly element = element("div", { class: "tip", role: "tooltip", hidden: "" });
  readonly #lines = element("div");
  readonly #story = element("div", { class: "story" });

  constructor() {
    this.element.append(this.#lines, this.#story);
  }

  /** At a point of the element that it lies in, which is so large. */
  show(lines: readonly string[], x: number, y: number, width: number, height: number): void {
    this.#lines.replaceChildren(...lines.map((line) => element("div", {}, line)));
    this.#story.replaceChildren();
    this.element.hidden = false;
    const { offsetWidth, offsetHeight } = this.element;
    const left = x + GAP + offsetWidth > width ? x - GAP - offsetWidth : x + GAP;
    const top = y + GAP + offsetHeight > height ? y - GAP - offsetHeight : y + GAP;
    this.element.style.left = `${Math.max(0, left)}px`;
    this.element.style.top = `${Math.max(0, top)}px`;
  }

  tell(story: readonly string[]): void {
    this.#story.replaceChildren(...story.map((line) => element("div", {}, line)));
  }

  hide(): void {
    this.element.hidden = true;
  }
}
