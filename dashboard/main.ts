/** The dashboard: hears of all sessions, and shows the list or one VM, as the URL says. */
import type { Overview, OverviewUpdate } from "../src/daemon/dashboard/protocol.ts";
import { Access } from "./access.ts";
import { setText } from "./element.ts";
import { Header } from "./header.ts";
import { openHelp } from "./help.ts";
import { LiveStream, type StreamState } from "./live-stream.ts";
import { colourings } from "./map-painter.ts";
import { OverviewModel } from "./overview-model.ts";
import { OverviewPage } from "./overview-page.ts";
import { hashOfVm, parseHash } from "./route.ts";
import { startTheme, toggleTheme } from "./theme.ts";
import { openTokenForm } from "./token-form.ts";
import { VmPage } from "./vm-page.ts";

const REFRESH_MS = 500;

class Dashboard {
  readonly #access = new Access();
  readonly #model = new OverviewModel();
  readonly #layers = document.querySelector<HTMLElement>("#layers")!;
  readonly #main = document.querySelector<HTMLElement>("#main")!;
  readonly #announcer = document.querySelector<HTMLElement>("#announcer")!;
  readonly #header = new Header(() => openHelp(this.#layers));
  readonly #overview = new OverviewPage();
  #vm: VmPage | null = null;
  /** Until there is a VM to show. */
  #opensFirst = false;
  #stream: LiveStream | null = null;
  #state: StreamState = { kind: "connecting" };

  start(): void {
    document.querySelector("#header")!.append(this.#header.element);
    document.querySelector("#skip")!.addEventListener("click", (event) => {
      event.preventDefault();
      (this.#vm ?? this.#overview).focus();
    });
    window.addEventListener("hashchange", () => this.#route());
    document.addEventListener("keydown", (event) => this.#onKey(event));
    this.#route();
    this.#connect();
    window.setInterval(() => this.#refresh(), REFRESH_MS);
  }

  #connect(): void {
    this.#stream?.close();
    this.#stream = new LiveStream(this.#access, "/v1/watch", {
      take: ({ name, data }) => {
        if (name === "snapshot") {
          const isFirst = this.#model.known === null;
          this.#model.replace(JSON.parse(data) as Overview, Date.now());
          this.#model.tick(Date.now());
          this.#refresh();
          if (isFirst) performance.mark("faultline-first-rows");
        } else if (name === "update") {
          this.#model.update(JSON.parse(data) as OverviewUpdate, Date.now());
        }
      },
      changed: (state) => {
        this.#state = state;
        this.#header.show(this.#model, state, Date.now());
        if (state.kind === "refused" && state.status === 401) this.#askToken();
      },
    });
  }

  #askToken(): void {
    openTokenForm(this.#layers, this.#access.hasToken, (token) => {
      this.#access.use(token);
      this.#connect();
      this.#route();
    });
  }

  #route(): void {
    const route = parseHash(location.hash);
    if (route.kind === "token") {
      this.#access.use(route.token);
      this.#opensFirst = route.opensFirst;
      history.replaceState(null, "", "#/");
      if (this.#stream !== null) this.#connect();
    }
    const id = route.kind === "vm" ? route.id : null;
    if (id !== null && this.#vm?.id === id) return;
    this.#vm?.close();
    this.#vm = null;
    if (id !== null) {
      this.#vm = new VmPage(this.#access, id, (text) => setText(this.#announcer, text));
    }
    this.#main.replaceChildren((this.#vm ?? this.#overview).element);
    document.title = id === null ? "Faultline" : `${id} · Faultline`;
    this.#refresh();
    if (this.#model.known !== null) (this.#vm ?? this.#overview).focus();
  }

  #refresh(): void {
    const nowMs = Date.now();
    this.#model.tick(nowMs);
    this.#header.show(this.#model, this.#state, nowMs);
    if (this.#model.known === null) return;
    if (this.#opensFirst && this.#vm === null) this.#openFirst();
    if (this.#vm === null) this.#overview.show(this.#model, nowMs);
    else this.#vm.show(this.#model.session(this.#vm.id), nowMs, this.#model.known.host);
  }

  #openFirst(): void {
    const first = this.#model.firstAttached;
    if (first === null) return;
    this.#opensFirst = false;
    location.hash = hashOfVm(first.id);
  }

  #onKey(event: KeyboardEvent): void {
    const isTyping = event.target instanceof HTMLInputElement;
    if (event.ctrlKey || event.metaKey || event.altKey || this.#layers.childElementCount > 0)
      return;
    if (event.key === "Escape") {
      if (isTyping) this.#overview.focus();
      else if (this.#vm !== null) location.hash = "#/";
      return;
    }
    if (isTyping) return;
    const colouring = colourings[Number(event.key) - 1];
    if (event.key === "?") openHelp(this.#layers);
    else if (event.key === "t") toggleTheme();
    else if (event.key === "/" && this.#vm === null) this.#overview.focusFilter();
    else if (event.key === "m" && this.#vm !== null) this.#vm.focus();
    else if (colouring !== undefined && this.#vm !== null) this.#vm.colour(colouring);
    else if (!this.#isForList(event) || !this.#overview.press(event.key)) return;
    event.preventDefault();
  }

  /** Nothing has the focus yet, and there is nothing else to choose from. */
  #isForList({ target }: KeyboardEvent): boolean {
    return this.#vm === null && target === document.body;
  }
}

startTheme();
new Dashboard().start();
