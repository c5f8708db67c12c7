/** Where bytes come from: the cache of chunks, the stores behind it, and the images in use. */
import type { CacheRow, ImageRow, StoreRow } from "../src/daemon/dashboard/protocol.ts";
import { element, panel, setText } from "./element.ts";
import { formatBytes, formatCount, formatShare, plural } from "./formats.ts";

export class CachePanel {
  readonly element: HTMLElement;
  readonly #bar = element("span", { style: "width: 0" });
  readonly #text = element("p", { class: "line" });
  readonly #more = element("p", { class: "line is-quiet" });

  constructor() {
    const bar = element("div", { class: "share is-wide", "aria-hidden": "true" }, this.#bar);
    this.element = panel("Cache of chunks", {}, bar, this.#text, this.#more);
  }

  show(cache: CacheRow): void {
    const share = cache.sizeBytes === 0 ? 0 : cache.usedBytes / cache.sizeBytes;
    this.#bar.style.width = `${(share * 100).toFixed(1)}%`;
    if (cache.sizeBytes === 0) {
      setText(this.#text, "Not in use: it is made when the first image is opened.");
      setText(this.#more, "");
      return;
    }
    const used = `${formatBytes(cache.usedBytes)} of ${formatBytes(cache.sizeBytes)}`;
    setText(this.#text, `${used} (${formatShare(share)}), ${plural(cache.chunks, "chunk")}`);
    const facts = [
      plural(cache.loads, "load"),
      `${formatCount(cache.prefetches)} ahead`,
      `${formatCount(cache.evictions)} dropped`,
      `${formatCount(cache.again)} fetched again`,
      `${formatCount(cache.failed)} failed`,
    ];
    const isTooSmall = cache.again > cache.loads / 10 && cache.again > 100;
    setText(this.#more, facts.join(" · ") + (isTooSmall ? " ⚠ too small: raise cacheBytes" : ""));
    this.#more.classList.toggle("is-warning", isTooSmall || cache.failed > 0);
  }
}

export class StoresPanel {
  readonly element: HTMLElement;
  readonly #list = element("ul", { class: "facts-list" });

  constructor() {
    this.element = panel("Stores", {}, this.#list);
  }

  show(stores: readonly StoreRow[]): void {
    if (stores.length === 0) {
      this.#list.replaceChildren(
        element("li", { class: "is-quiet" }, "No store behind a network is in use."),
      );
      return;
    }
    this.#list.replaceChildren(...stores.map(storeItem));
  }
}

function storeItem(store: StoreRow): HTMLElement {
  const isBad = store.failures > 0;
  const facts = [
    plural(store.reads, "read"),
    `p50 ${formatMs(store.readMs.p50)}`,
    `p99 ${formatMs(store.readMs.p99)}`,
    `${formatCount(store.running)} running, ${formatCount(store.waiting)} waiting`,
    `${formatCount(store.retries)} tried again`,
    plural(store.failures, "failure"),
  ];
  return element(
    "li",
    {},
    element("span", { class: "name", title: store.location }, store.location),
    element(
      "span",
      { class: isBad ? "is-warning" : "is-quiet" },
      (isBad ? "⚠ " : "") + facts.join(" · "),
    ),
  );
}

function formatMs(milliseconds: number): string {
  return `${Number(milliseconds.toPrecision(3))} ms`;
}

export class ImagesPanel {
  readonly element: HTMLElement;
  readonly #list = element("ul", { class: "facts-list" });

  constructor() {
    this.element = panel("Images and memory files", {}, this.#list);
  }

  show(images: readonly ImageRow[]): void {
    if (images.length === 0) {
      this.#list.replaceChildren(element("li", { class: "is-quiet" }, "None is open."));
      return;
    }
    this.#list.replaceChildren(...images.map(imageItem));
  }
}

function imageItem(image: ImageRow): HTMLElement {
  const { chunks, sharedChunks, sharedWith } = image;
  const facts = [
    image.kind === "image" ? "image" : "memory file",
    `${formatBytes(image.dataBytes)} of ${formatBytes(image.sizeBytes)} are data`,
    plural(image.sessions, "session"),
  ];
  const item = element(
    "li",
    {},
    element("span", { class: "name", title: image.memory }, image.memory),
    element("span", { class: "is-quiet" }, facts.join(" · ")),
  );
  if (chunks === null || sharedChunks === null || chunks === 0) return item;
  const share = sharedChunks / chunks;
  const bar = element("span", { class: "share", "aria-hidden": "true" }, element("span"));
  (bar.firstElementChild as HTMLElement).style.width = `${(share * 100).toFixed(1)}%`;
  const others = sharedWith.map((other) => `${other.memory} (${formatCount(other.chunks)})`);
  const text = `${formatShare(share)} of ${plural(chunks, "chunk")} shared`;
  item.append(
    element(
      "span",
      { class: "sharing" },
      bar,
      element("span", {}, others.length === 0 ? text : `${text}, with ${others.join(", ")}`),
    ),
  );
  return item;
}
