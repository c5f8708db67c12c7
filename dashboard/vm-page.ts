/** One VM: its map, and beside it what its restore costs. */
import type { HostRow, SessionRow, VmNumbers } from "../src/daemon/dashboard/protocol.ts";
import type { Access } from "./access.ts";
import { CauseBar } from "./cause-bar.ts";
import { element, panel, setAttribute, setText } from "./element.ts";
import {
  formatAge,
  formatBytes,
  formatCount,
  formatMicroseconds,
  formatShare,
  formatShort,
} from "./formats.ts";
import { LatencyWindow } from "./latency.ts";
import type { Colouring } from "./map-painter.ts";
import { MapView } from "./map-view.ts";
import { key, latencyText } from "./overview-page.ts";
import { LatencyPlot, RatePlot } from "./plots.ts";
import { RateMeter, TimeSeries } from "./rates.ts";
import { residentShare } from "./session-order.ts";
import { wholeScale } from "./zoom.ts";

const PLOTTED_POINTS = 240;
/** A stream that was refused is asked for again, as long as the VM is there. */
const AGAIN_AFTER_MS = 2000;

export class VmPage {
  readonly id: string;
  readonly element: HTMLElement;
  readonly #access: Access;
  readonly #announce: (text: string) => void;
  readonly #title = element("h1", {});
  readonly #badge = element("span", { class: "badge" });
  readonly #facts = element("p", { class: "facts" });
  readonly #notice = element("p", { class: "notice", role: "status", hidden: "" });
  readonly #place = element("div", { class: "map-place" });
  readonly #numbers = element("dl", { class: "numbers" });
  readonly #causes = new CauseBar();
  readonly #why = element("p", { class: "line is-quiet" });
  readonly #rates = new RatePlot();
  readonly #latency = new LatencyPlot();
  readonly #rateText = element("p", { class: "legend-line" });
  readonly #latencyText = element("p", { class: "legend-line" });
  #meters = newMeters();
  #map: MapView | null = null;
  /** Of the VM that is shown: its id may be used again. */
  #attachedAt: string | null = null;
  #refusedMs = 0;
  #hasEnded = false;

  constructor(access: Access, id: string, announce: (text: string) => void) {
    this.#access = access;
    this.#announce = announce;
    this.id = id;
    setText(this.#title, id);
    const back = element(
      "a",
      { href: "#/", class: "back", "aria-label": "Back to all sessions" },
      "‹ Sessions",
    );
    const head = element("div", { class: "vm-head" }, back, this.#title, this.#badge, this.#facts);
    const map = panel("Memory", { class: "is-main" }, this.#notice, this.#place);
    this.#why.append(
      "As its fault worker saw it. With CPUs and the kernel's part, and what to change: ",
      element("code", {}, `faultline why ${id}`),
    );
    const side = element(
      "div",
      { class: "side" },
      panel("Numbers", {}, this.#numbers),
      panel("Where its time went", {}, this.#causes.element, this.#why),
      panel("Rates", {}, this.#rateText, this.#rates.element),
      panel("Latency of faults", {}, this.#latencyText, this.#latency.element),
    );
    this.element = element("div", { class: "page vm" }, head, map, side);
  }

  focus(): void {
    if (this.#map !== null) this.#map.focus();
    else (this.element.querySelector(".back") as HTMLElement).focus();
  }

  colour(colouring: Colouring): void {
    this.#map?.colour(colouring);
  }

  close(): void {
    this.#map?.close();
    this.#rates.close();
    this.#latency.close();
  }

  /** `row`: null if it is not listed. */
  show(row: SessionRow | null, nowMs: number, { isDaemon }: HostRow): void {
    this.#why.hidden = !isDaemon;
    if (row === null) {
      const ask = isDaemon ? ` What its restore cost: faultline why ${this.id}` : "";
      this.#tell(`There is no session ${this.id} any more.${ask}`);
      setText(this.#badge, "■ gone");
      return;
    }
    setText(this.#badge, `${row.state === "attached" ? "●" : "◌"} ${row.endReason ?? row.state}`);
    setAttribute(this.#badge, "data-state", row.state);
    setText(this.#facts, factsOf(row, nowMs).join(" · "));
    if (row.state === "waiting") {
      this.#tell(
        "It waits for its VM. The map begins when the VMM connects to the session's socket.",
      );
    } else if (row.state === "attached" && this.#isToOpen(row, nowMs)) {
      this.#open(row);
    } else if (row.waitsFor !== null) {
      this.#tell(`⚠ The VM stands still: ${row.waitsFor}`);
    } else if (!this.#hasEnded && row.state === "attached") {
      this.#tell("");
    }
  }

  /** Another VM at once, one that was refused after a while. */
  #isToOpen({ attachedAt }: SessionRow, nowMs: number): boolean {
    if (attachedAt !== this.#attachedAt) return true;
    return this.#map === null && nowMs - this.#refusedMs > AGAIN_AFTER_MS;
  }

  #open({ attachedAt, pages, pageSizeBytes }: SessionRow): void {
    this.#map?.close();
    this.#hasEnded = false;
    this.#attachedAt = attachedAt;
    this.#meters = newMeters();
    const scale = wholeScale(pages.total, pageSizeBytes);
    const map = new MapView(this.#access, this.id, scale, {
      numbers: (numbers) => this.#takeNumbers(numbers),
      gone: (reason) => {
        this.#hasEnded = true;
        this.#tell(
          `The session has ended (${reason}). The map shows the last that was known of it.`,
        );
      },
      state: (state) => {
        if (state.kind !== "refused") return;
        this.#refusedMs = Date.now();
        this.#map?.close();
        this.#map = null;
        this.#place.replaceChildren();
        this.#tell(`The daemon shows no map of this session (${state.status}).`);
      },
      announce: this.#announce,
      left: () => {
        location.hash = "#/";
      },
    });
    this.#map = map;
    const { activeElement } = document;
    const hadFocus = activeElement === document.body || this.#place.contains(activeElement);
    this.#place.replaceChildren(map.element);
    if (hadFocus) map.focus();
    this.#tell("");
  }

  #tell(text: string): void {
    setText(this.#notice, text);
    this.#notice.hidden = text === "";
  }

  #takeNumbers(numbers: VmNumbers): void {
    const nowMs = numbers.atMs;
    const { faults, pages, series, latencies } = this.#meters;
    faults.add(nowMs, numbers.faults);
    pages.add(nowMs, numbers.installedPages + numbers.zeroPages);
    latencies.add(nowMs, numbers.latencyBuckets);
    const rates = [faults.at(nowMs), pages.at(nowMs)];
    series.add(nowMs / 1000, rates);
    this.#rates.show(series);
    this.#rateText.replaceChildren(
      key("series-1", `${formatShort(rates[0]!)} faults/s`),
      key("series-2 is-dashed", `${formatShort(rates[1]!)} pages/s installed`),
    );
    const [recent, ever] = [latencies.recent(nowMs), latencies.ever()];
    this.#latency.show(recent, ever);
    this.#latencyText.replaceChildren(
      key("series-1", `last 10 s: ${latencyText(recent)}`),
      key("series-2 is-dashed", `ever: ${latencyText(ever)}`),
    );
    this.#causes.show(numbers.causes);
    this.#showNumbers(numbers);
  }

  #showNumbers(numbers: VmNumbers): void {
    const told: readonly (readonly [string, number | null, string])[] = [
      ["faults", numbers.faults, "Times that a thread of the VM asked for a page"],
      ["demanded", numbers.demandedPages, "Different pages that were asked for"],
      ["installed", numbers.installedPages, "Pages with bytes of the snapshot"],
      ["zero", numbers.zeroPages, "Pages of zeroes"],
      ["prefaulted", numbers.prefaultedPages, "Pages that were there before anybody asked"],
      ["removed", numbers.removedPages, "Pages that the VMM took back"],
      ["awaited", numbers.awaitedPages, "Pages whose bytes had to be fetched"],
      ["deferred", numbers.deferred, "Times that the kernel put an installation off"],
    ];
    if (this.#numbers.childElementCount === 0) {
      for (const [name, , title] of told) {
        this.#numbers.append(
          element("div", { title }, element("dt", {}, name), element("dd", { class: "number" })),
        );
      }
    }
    for (const [index, [, value]] of told.entries()) {
      const target = this.#numbers.children[index]!.lastElementChild!;
      setText(target, value === null ? "–" : formatCount(value));
    }
  }
}

function newMeters() {
  return {
    faults: new RateMeter(),
    pages: new RateMeter(),
    series: new TimeSeries(2, PLOTTED_POINTS),
    latencies: new LatencyWindow(),
  };
}

function factsOf(row: SessionRow, nowMs: number): string[] {
  const facts = [row.memory, formatBytes(row.sizeBytes)];
  if (row.pageSizeBytes > 0) facts.push(`pages of ${formatBytes(row.pageSizeBytes)}`);
  if (row.attachedAt !== null) facts.push(`since ${formatAge(nowMs - Date.parse(row.attachedAt))}`);
  if (row.state !== "waiting") {
    facts.push(`${formatShare(residentShare(row))} resident`);
    facts.push(`waited ${formatMicroseconds(row.waitedUs)}`);
  }
  if (row.prefaultState !== "off") facts.push(`prefault ${row.prefaultState}`);
  if (row.pid !== null) facts.push(`VMM ${row.pid}`);
  for (const [name, value] of Object.entries(row.labels)) facts.push(`${name}=${value}`);
  return facts;
}
