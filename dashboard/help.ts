/** The keys, for `?`. */
import { element } from "./element.ts";

const keys: readonly (readonly [string, string])[] = [
  ["/", "filter sessions"],
  ["↑ ↓", "choose a session; in the map: move by a row"],
  ["Enter", "open the session; in the map: look closer at the cell"],
  ["← →", "in the map: move by a cell"],
  ["Shift + arrows", "in the map: pan"],
  ["Page Up, Page Down", "in the map: pan by a whole view"],
  ["+ −", "in the map: zoom in and out"],
  ["Home", "in the map: the whole VM"],
  ["Escape", "back: the view before, then the list of sessions"],
  ["1 2 3", "colour by state, by source layer, by age"],
  ["m", "go to the map"],
  ["t", "light or dark"],
  ["?", "these keys"],
];

export function openHelp(layers: HTMLElement): void {
  if (layers.querySelector("dialog") !== null) return;
  const list = element("dl", { class: "keys" });
  for (const [key, what] of keys) {
    list.append(element("dt", {}, element("kbd", {}, key)), element("dd", {}, what));
  }
  const close = element("button", { type: "submit", class: "primary" }, "Close");
  const pointer = element(
    "p",
    {},
    "With the mouse: the wheel zooms where it points, a double click looks closer, " +
      "dragging marks what to look at.",
  );
  const form = element(
    "form",
    { method: "dialog" },
    element("h2", {}, "Keys"),
    list,
    pointer,
    close,
  );
  const dialog = element("dialog", { class: "layer help", "aria-label": "Keys" }, form);
  dialog.addEventListener("close", () => dialog.remove());
  layers.append(dialog);
  dialog.showModal();
}
