/** The bar on top: which daemon this is, whether the page hears of it, how busy it is. */
import { button, element, setAttribute, setText } from "./element.ts";
import { formatAge, formatCount, formatRate, plural } from "./formats.ts";
import type { StreamState } from "./live-stream.ts";
import type { OverviewModel } from "./overview-model.ts";
import { Sparkline } from "./sparkline.ts";
import { currentTheme, onTheme, toggleTheme } from "./theme.ts";

/** The daemon has as many streams as it allows. */
const TOO_MANY = 429;

export class Header {
  readonly element: HTMLElement;
  readonly #facts = element("p", { class: "facts" });
  readonly #state = element("span", { class: "connection", role: "status" });
  readonly #rate = element("span", { class: "number" });
  readonly #spark = new Sparkline();

  constructor(help: () => void) {
    const theme = button("", { class: "icon", title: "Light or dark (t)" }, toggleTheme);
    const named = (): void => {
      const other = currentTheme() === "light" ? "dark" : "light";
      setText(theme, other === "dark" ? "☾" : "☀");
      setAttribute(theme, "aria-label", `Change to ${other} colours`);
    };
    named();
    onTheme(named);
    const brand = element("a", { class: "brand", href: "#/" }, "Faultline");
    const keys = button("?", { class: "icon", "aria-label": "Keys", title: "Keys (?)" }, help);
    const rate = element("span", { class: "busy" }, this.#spark.element, this.#rate);
    this.element = element(
      "div",
      { class: "bar" },
      brand,
      this.#facts,
      rate,
      this.#state,
      theme,
      keys,
    );
  }

  show(model: OverviewModel, state: StreamState, nowMs: number): void {
    const { known } = model;
    this.#showState(state, nowMs);
    if (known === null) return;
    const { host } = known;
    const facts = [
      `version ${host.version}`,
      `up ${formatAge(nowMs - Date.parse(host.startedAt))}`,
      `${formatCount(host.sessions.attached)} attached`,
      `${formatCount(host.sessions.waiting)} waiting, of ${formatCount(host.maxSessions)}`,
      `${host.workers.alive} of ${plural(host.workers.started, "fault worker")}`,
    ];
    if (host.takeovers > 0) facts.push(plural(host.takeovers, "takeover"));
    if (host.isDraining) facts.push("draining: takes no new sessions");
    setText(this.#facts, facts.join(" · "));
    this.#facts.classList.toggle(
      "is-warning",
      host.isDraining || host.workers.alive < host.workers.started,
    );
    setText(this.#rate, `${formatRate(model.faultsPerSecond(nowMs)).replace("/s", "")} faults/s`);
    this.#spark.show(model.rates.values[0]!);
  }

  #showState(state: StreamState, nowMs: number): void {
    setText(this.#state, stateText(state, nowMs));
    setAttribute(this.#state, "data-state", state.kind);
  }
}

function stateText(state: StreamState, nowMs: number): string {
  switch (state.kind) {
    case "connecting":
      return "◌ connecting";
    case "live":
      return "● live";
    case "waiting": {
      const seconds = Math.max(0, Math.ceil((state.untilMs - nowMs) / 1000));
      const what = state.status === TOO_MANY ? "too many viewers, again" : "reconnecting";
      return `◌ ${what} in ${seconds} s`;
    }
    case "refused":
      return state.status === 401 ? "⚷ token needed" : `✕ refused (${state.status})`;
  }
}
