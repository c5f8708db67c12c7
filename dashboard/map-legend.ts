/** What the colours mean, in words, with a sign for each kind and how many cells there are. */
import { type CellKind, cellKinds, NO_LAYER } from "../src/daemon/dashboard/protocol.ts";
import type { CellMap } from "./cells.ts";
import { element, setText } from "./element.ts";
import { formatBytes, formatCount, formatMicroseconds, formatShare, plural } from "./formats.ts";
import type { Colouring } from "./map-painter.ts";
import { ageColour, coloursOf, cssColour, layerColour, type Theme } from "./palette.ts";

const signs: Readonly<Record<CellKind, string>> = {
  untouched: "",
  pending: "…",
  present: "●",
  zero: "0",
  prefaulted: "»",
  removed: "×",
  dirty: "✎",
  none: "",
};

const meanings: Readonly<Record<CellKind, string>> = {
  untouched: "nobody has asked for it",
  pending: "a thread of the VM waits for it",
  present: "there, as the VM demanded it",
  zero: "there as zeroes",
  prefaulted: "there before the VM asked",
  removed: "taken back by the VMM: zero from now on",
  dirty: "written by the VM",
  none: "no memory at this place",
};

const MAX_LAYERS_TOLD = 12;

export class MapLegend {
  readonly element = element("ul", { class: "legend", id: "map-legend", "aria-label": "Legend" });
  #shown = "";

  show(map: CellMap, colouring: Colouring, theme: Theme): void {
    const items =
      colouring === "state"
        ? stateItems(map, theme)
        : colouring === "layer"
          ? layerItems(map, theme)
          : ageItems(map);
    const text = items.map(({ textContent }) => textContent).join("|") + theme;
    if (text === this.#shown) return;
    this.#shown = text;
    this.element.replaceChildren(...items);
  }
}

/** All of it in one sentence. */
export function mapSummary(map: CellMap): string {
  const told = cellKinds
    .filter((kind) => map.count(kind) > 0)
    .map((kind) => `${formatCount(map.count(kind))} ${kind}`);
  return `Map of ${plural(map.cells, "cell")}: ${told.join(", ")}.`;
}

function stateItems(map: CellMap, theme: Theme): HTMLElement[] {
  const { kinds } = coloursOf(theme);
  const always = ["untouched", "pending", "present", "zero", "prefaulted", "removed"];
  const told = cellKinds.filter(
    (kind) =>
      map.count(kind) > 0 ||
      always.includes(kind) ||
      (kind === "dirty" && map.snapshot.tracksDirty),
  );
  const items = told.map((kind) => {
    const share = formatShare(map.count(kind) / map.cells);
    const made = item(
      cssColour(kinds[kind]),
      signs[kind],
      kind,
      `${formatCount(map.count(kind))} · ${share}`,
    );
    made.title = meanings[kind];
    made.dataset.kind = kind;
    return made;
  });
  return [unit(map), ...items];
}

/** What is counted: whatever part of it is being looked at. */
function unit({ snapshot: { scale, pageSizeBytes } }: CellMap): HTMLElement {
  const size = formatBytes(scale * pageSizeBytes);
  const made = element("li", { class: "is-quiet" }, `cells of ${size}, whole VM:`);
  made.title = "pending or dirty if any page is, else what most of those are that are there";
  return made;
}

function layerItems(map: CellMap, theme: Theme): HTMLElement[] {
  const names = map.snapshot.layerNames.slice(0, MAX_LAYERS_TOLD);
  const counts = new Float64Array(256);
  for (const layer of map.layers) counts[layer]! += 1;
  const layers = names.map((name, layer) =>
    item(cssColour(layerColour(layer)), String(layer + 1), name, formatCount(counts[layer]!)),
  );
  const zeroes = item(
    cssColour(coloursOf(theme).kinds.zero),
    "0",
    "zeroes",
    formatCount(counts[NO_LAYER]!),
  );
  return [unit(map), ...layers, zeroes, element("li", { class: "is-quiet" }, "faint: untouched")];
}

function ageItems(map: CellMap): HTMLElement[] {
  const stops = Array.from({ length: 8 }, (_, index) => cssColour(ageColour(index / 7)));
  const ramp = element("i", { class: "ramp", "aria-hidden": "true" });
  ramp.style.background = `linear-gradient(to right, ${stops.join(", ")})`;
  const newest = element("span", {});
  setText(newest, `${formatMicroseconds(map.newestMs * 1000)} after the VM came: new`);
  return [
    element("li", { class: "is-ramp" }, element("span", {}, "old: first moments"), ramp, newest),
    element("li", { class: "is-quiet" }, "grey: untouched, or nobody knows when"),
  ];
}

function item(colour: string, sign: string, name: string, count: string): HTMLElement {
  const swatch = element("i", { class: "cell", "aria-hidden": "true" }, sign);
  swatch.style.background = colour;
  return element(
    "li",
    {},
    swatch,
    element("b", {}, name),
    element("span", { class: "is-quiet" }, count),
  );
}
