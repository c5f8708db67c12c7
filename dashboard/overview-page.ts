/** The first thing one sees: all sessions, and what the host does for them. */
import { element, panel, setText } from "./element.ts";
import { formatMicroseconds, formatShort, plural } from "./formats.ts";
import type { LatencyView } from "./latency.ts";
import type { OverviewModel } from "./overview-model.ts";
import { LatencyPlot, RatePlot } from "./plots.ts";
import { hashOfVm } from "./route.ts";
import { SessionTable } from "./session-table.ts";
import { CachePanel, ImagesPanel, StoresPanel } from "./supply-panels.ts";

export class OverviewPage {
  readonly element: HTMLElement;
  readonly #table = new SessionTable((id) => {
    location.hash = hashOfVm(id);
  });
  readonly #filter = element("input", {
    type: "search",
    class: "filter",
    placeholder: "Filter: id, image, state, label  ( / )",
    "aria-label": "Filter sessions",
    spellcheck: "false",
  });
  readonly #count = element("span", { class: "is-quiet", role: "status" });
  readonly #empty = element("div", { class: "empty" });
  readonly #rates = new RatePlot();
  readonly #latency = new LatencyPlot();
  readonly #rateText = element("p", { class: "legend-line" });
  readonly #latencyText = element("p", { class: "legend-line" });
  readonly #refused = element("p", { class: "line is-warning" });
  readonly #cache = new CachePanel();
  readonly #stores = new StoresPanel();
  readonly #images = new ImagesPanel();

  constructor() {
    this.#filter.addEventListener("input", () => {
      this.#table.filter(this.#filter.value);
      this.#showCount();
    });
    this.#filter.addEventListener("keydown", (event) => {
      if (event.key !== "ArrowDown" && event.key !== "Enter") return;
      event.preventDefault();
      this.#table.focus();
    });
    const tools = element("div", { class: "tools" }, this.#filter, this.#count);
    const sessions = panel(
      "Sessions",
      { class: "is-main" },
      tools,
      this.#table.element,
      this.#empty,
    );
    const rates = panel("Rates", {}, this.#rateText, this.#rates.element, this.#refused);
    const latency = panel("Latency of faults", {}, this.#latencyText, this.#latency.element);
    const side = element(
      "div",
      { class: "side" },
      rates,
      latency,
      this.#cache.element,
      this.#stores.element,
      this.#images.element,
    );
    this.element = element("div", { class: "page overview" }, sessions, side);
  }

  /** False: it is no key of the list. */
  press(key: string): boolean {
    return this.#table.press(key);
  }

  focusFilter(): void {
    this.#filter.focus();
    this.#filter.select();
  }

  focus(): void {
    this.#table.focus();
  }

  #showCount(): void {
    const { shownCount } = this.#table;
    setText(this.#count, plural(shownCount, "session"));
    this.#empty.hidden = shownCount > 0;
    this.#table.element.hidden = shownCount === 0;
    if (shownCount > 0) return;
    const isFiltered = this.#filter.value.trim() !== "";
    if (this.#empty.dataset.of === String(isFiltered)) return;
    this.#empty.dataset.of = String(isFiltered);
    this.#empty.replaceChildren(...(isFiltered ? nothingFound() : noSessions()));
  }

  /** What the streams brought; drawn at most twice a second. */
  show(model: OverviewModel, nowMs: number): void {
    const { known } = model;
    if (known === null) return;
    this.#table.show(model.listed(nowMs));
    this.#showCount();
    const [recent, ever] = [model.latency.recent(nowMs), model.latency.ever()];
    this.#rates.show(model.rates);
    this.#latency.show(recent, ever);
    const rate = (perSecond: number): string => formatShort(perSecond);
    this.#rateText.replaceChildren(
      key("series-1", `${rate(model.faultsPerSecond(nowMs))} faults/s`),
      key("series-2 is-dashed", `${rate(model.pagesPerSecond(nowMs))} pages/s installed`),
    );
    this.#latencyText.replaceChildren(
      key("series-1", `last 10 s: ${latencyText(recent)}`),
      key("series-2 is-dashed", `ever: ${latencyText(ever)}`),
    );
    const { refusedHandshakes } = known.numbers;
    const refused = `⚠ ${plural(refusedHandshakes, "handshake")} refused: the log says why`;
    setText(this.#refused, refusedHandshakes > 0 ? refused : "");
    this.#cache.show(known.cache);
    this.#stores.show(known.stores);
    this.#images.show(known.images);
  }
}

export function latencyText({ count, p50Us, p99Us }: LatencyView): string {
  if (count === 0) return "no faults";
  return `p50 ${formatMicroseconds(p50Us)}, p99 ${formatMicroseconds(p99Us)}`;
}

/** A line of a plot, named. */
export function key(series: string, text: string): HTMLElement {
  return element(
    "span",
    { class: "key" },
    element("i", { class: `swatch ${series}`, "aria-hidden": "true" }),
    text,
  );
}

function noSessions(): HTMLElement[] {
  return [
    element("h3", {}, "No sessions yet"),
    element("p", {}, "A session is memory that one VM will ask for. Begin one:"),
    element("pre", {}, "faultline restore MEMORY"),
    element("p", {}, "or see a whole one come to life, without any VM of your own:"),
    element("pre", {}, "faultline demo --dashboard"),
  ];
}

function nothingFound(): HTMLElement[] {
  return [
    element("h3", {}, "No session is like that"),
    element("p", {}, "All words of the filter have to be in its id, image, state or labels."),
  ];
}
