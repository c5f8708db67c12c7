/** The living map of a VM's memory: a canvas to look closer at, by pointer and by keys. */
import type { VmNumbers } from "../src/daemon/dashboard/protocol.ts";
import type { Access } from "./access.ts";
import { button, element, setAttribute, setText } from "./element.ts";
import { formatBytes, formatHex } from "./formats.ts";
import type { StreamState } from "./live-stream.ts";
import { MapInput } from "./map-input.ts";
import { MapLegend, mapSummary } from "./map-legend.ts";
import { type Colouring, colourings, MapPainter } from "./map-painter.ts";
import { MapStreams } from "./map-streams.ts";
import { cellLines, MapTip } from "./map-tip.ts";
import { Minimap } from "./minimap.ts";
import { StoryTeller } from "./page-story.ts";
import { currentTheme, onTheme } from "./theme.ts";
import { isWhole, pan, type View, wholeView } from "./zoom.ts";

const colouringNames: Readonly<Record<Colouring, string>> = {
  state: "State",
  layer: "Source layer",
  age: "Age",
};
const LEGEND_MS = 250;
const ANNOUNCE_MS = 400;
const LEAST_FRAME_PIXELS = 7;

export interface MapViewUser {
  numbers(numbers: VmNumbers): void;
  gone(reason: string): void;
  state(state: StreamState): void;
  announce(text: string): void;
  /** Escape, with nothing left to go back to. */
  left(): void;
}

export class MapView {
  readonly element: HTMLElement;
  readonly #canvas = element("canvas", {
    class: "map",
    tabindex: "0",
    role: "application",
    "aria-roledescription": "memory map",
    "aria-describedby": "map-legend",
  });
  readonly #stage = element("div", { class: "stage" });
  readonly #painter = new MapPainter(this.#canvas, currentTheme());
  readonly #streams: MapStreams;
  readonly #tip = new MapTip();
  readonly #frame = element("span", { class: "cell-frame", hidden: "" });
  readonly #legend = new MapLegend();
  readonly #minimap = new Minimap((page) => this.#goTo(page));
  readonly #place = element("span", { class: "place number" });
  readonly #buttons = new Map<Colouring, HTMLButtonElement>();
  readonly #stories: StoryTeller;
  readonly #user: MapViewUser;
  readonly #sized = new ResizeObserver(() => this.layOut());
  readonly #still = matchMedia("(prefers-reduced-motion: reduce)");
  readonly #forgetTheme: () => void;
  readonly #legendTimer: number;
  #view: View | null = null;
  #announceTimer = 0;
  #frameRequest = 0;

  /** `scale`: pages of one cell in the map of the whole VM. */
  constructor(access: Access, id: string, scale: number, user: MapViewUser) {
    this.#user = user;
    this.#stories = new StoryTeller(access, id);
    const input = new MapInput(this.#canvas, this.#painter, {
      view: () => this.#view,
      look: (view) => this.look(view),
      point: (cell) => this.#point(cell),
      mark: (text, cell) => this.#showTip([text], cell),
      announce: (cell) => this.#announce(cell),
      left: () => user.left(),
    });
    this.#stage.append(this.#canvas, this.#frame, this.#tip.element);
    const tools = element(
      "div",
      { class: "tools" },
      this.#colourButtons(),
      this.#zoomButtons(input),
      this.#place,
    );
    this.element = element(
      "div",
      { class: "map-view" },
      tools,
      this.#stage,
      this.#minimap.element,
      this.#legend.element,
    );
    this.#sized.observe(this.#stage);
    this.#forgetTheme = onTheme(() => {
      this.#painter.setTheme(currentTheme());
      this.#showLegend();
      this.#requestFrame();
    });
    this.#streams = new MapStreams(access, id, scale, {
      mapped: () => this.#mapped(),
      changed: (map, first, count) => {
        if (map !== this.#painter.map) return;
        this.#painter.mark(first, count, !this.#still.matches);
        this.#requestFrame();
      },
      numbers: (numbers) => user.numbers(numbers),
      gone: (reason) => user.gone(reason),
      state: (state) => user.state(state),
    });
    this.#legendTimer = window.setInterval(() => this.#showLegend(), LEGEND_MS);
    this.colour("state");
  }

  focus(): void {
    this.#canvas.focus();
  }

  colour(colouring: Colouring): void {
    this.#painter.setColouring(colouring);
    for (const [each, made] of this.#buttons) {
      setAttribute(made, "aria-pressed", String(each === colouring));
    }
    this.#showLegend();
    this.#requestFrame();
  }

  look(view: View): void {
    this.#view = view;
    this.#tip.hide();
    this.#frame.hidden = true;
    this.#stories.stop();
    this.layOut();
  }

  /** Takes the best map of what is looked at, and puts it on the canvas. */
  layOut(): void {
    const view = this.#view;
    const map = view === null ? null : this.#streams.mapFor(view);
    const { clientWidth, clientHeight } = this.#stage;
    if (view === null || map === null || clientWidth === 0) return;
    if (map !== this.#painter.map) this.#painter.setMap(map);
    const ratio = window.devicePixelRatio;
    this.#painter.layOut(view, Math.floor(clientWidth * ratio), Math.floor(clientHeight * ratio));
    const { columns, rows, cellPixels } = this.#painter.grid;
    this.#canvas.style.width = `${this.#canvas.width / ratio}px`;
    this.#canvas.style.height = `${this.#canvas.height / ratio}px`;
    const told = { columns, rows, cellPixels, first: view.first, pages: view.pages };
    for (const [name, value] of Object.entries(told)) this.#canvas.dataset[name] = String(value);
    this.#canvas.dataset.scale = String(map.snapshot.scale);
    this.#canvas.dataset.from = String(map.firstPageOf(this.#painter.visible[0]));
    this.#showPlace(view);
    this.#requestFrame();
  }

  close(): void {
    window.clearInterval(this.#legendTimer);
    window.clearTimeout(this.#announceTimer);
    cancelAnimationFrame(this.#frameRequest);
    this.#sized.disconnect();
    this.#forgetTheme();
    this.#stories.stop();
    this.#streams.close();
  }

  #mapped(): void {
    const { pageCount } = this.#streams.whole!.snapshot;
    const isOther = this.#view === null || this.#view.first + this.#view.pages > pageCount;
    if (isOther) this.#view = wholeView(pageCount);
    this.layOut();
    this.#showLegend();
  }

  #requestFrame(): void {
    if (this.#frameRequest !== 0) return;
    this.#frameRequest = requestAnimationFrame((nowMs) => {
      this.#frameRequest = 0;
      if (this.#painter.paint(nowMs)) this.#requestFrame();
    });
  }

  #showPlace(view: View): void {
    const { pageSizeBytes, pageCount } = this.#streams.whole!.snapshot;
    const from = view.first * pageSizeBytes;
    const size = Math.min(view.pages, pageCount - view.first) * pageSizeBytes;
    const total = formatBytes(pageCount * pageSizeBytes);
    const part = `${formatBytes(size)} of ${total}, from ${formatBytes(from)} (${formatHex(from)})`;
    setText(this.#place, isWhole(view, pageCount) ? `whole VM, ${total}` : part);
    const cellBytes = this.#painter.map!.snapshot.scale * pageSizeBytes;
    this.#place.title = `One cell is ${formatBytes(cellBytes)}`;
    this.#minimap.show(this.#streams.whole!, view, currentTheme());
  }

  #showLegend(): void {
    const whole = this.#streams?.whole ?? null;
    if (whole === null || this.#view === null) return;
    this.#legend.show(whole, this.#painter.colouring, currentTheme());
    this.#minimap.show(whole, this.#view, currentTheme());
    setAttribute(this.#canvas, "aria-label", mapSummary(whole));
  }

  /** Tells of a cell, and a moment later its first page's story. */
  #point(cell: number | null): void {
    const { map } = this.#painter;
    if (cell === null || map === null || cell >= map.cells) {
      this.#tip.hide();
      this.#frame.hidden = true;
      this.#stories.stop();
      return;
    }
    this.#showTip(cellLines(map, cell), cell);
    this.#stories.ask(map.firstPageOf(cell), (lines) => {
      this.#tip.tell(lines);
      this.#canvas.dataset.story = lines.join("; ");
    });
  }

  #showTip(lines: readonly string[], cell: number): void {
    const place = this.#painter.placeOf(cell);
    if (place === null) return;
    const ratio = window.devicePixelRatio;
    const size = Math.max(LEAST_FRAME_PIXELS, this.#painter.grid.cellPixels / ratio);
    this.#frame.hidden = false;
    const box = { left: place.x / ratio, top: place.y / ratio, width: size, height: size };
    for (const [side, value] of Object.entries(box)) {
      this.#frame.style.setProperty(side, `${value}px`);
    }
    const { clientWidth, clientHeight } = this.#stage;
    this.#tip.show(lines, place.x / ratio, place.y / ratio, clientWidth, clientHeight);
  }

  /** In words, once the keys rest. */
  #announce(cell: number): void {
    window.clearTimeout(this.#announceTimer);
    this.#announceTimer = window.setTimeout(() => {
      const { map } = this.#painter;
      if (map !== null && cell < map.cells) this.#user.announce(cellLines(map, cell).join(", "));
    }, ANNOUNCE_MS);
  }

  #goTo(page: number): void {
    const view = this.#view!;
    const { pageCount } = this.#streams.whole!.snapshot;
    this.look(pan(view, Math.round(page - view.first - view.pages / 2), pageCount));
  }

  #colourButtons(): HTMLElement {
    const group = element("div", { class: "segments", role: "group", "aria-label": "Colour by" });
    for (const [index, colouring] of colourings.entries()) {
      const title = `Colour by ${colouringNames[colouring].toLowerCase()} (${index + 1})`;
      const made = button(colouringNames[colouring], { title }, () => this.colour(colouring));
      this.#buttons.set(colouring, made);
      group.append(made);
    }
    return group;
  }

  #zoomButtons(input: MapInput): HTMLElement {
    return element(
      "div",
      { class: "segments", role: "group", "aria-label": "Zoom" },
      button("−", { "aria-label": "Zoom out", title: "Zoom out (−)" }, () => input.zoom(0.5)),
      button("+", { "aria-label": "Zoom in", title: "Zoom in (+)" }, () => input.zoom(2)),
      button("Whole VM", { title: "The whole VM (Home)" }, () => input.whole()),
    );
  }
}
