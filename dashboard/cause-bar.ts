/** Where the VM's waits went, as one bar with words. */
import type { CauseTimes } from "../src/base/restore-causes.ts";
import { causeWords, waitSentence, waits } from "./cause-words.ts";
import { element, setText } from "./element.ts";
import { formatMicroseconds, formatShare } from "./formats.ts";

const TOLD = 6;

export class CauseBar {
  readonly element: HTMLElement;
  readonly #sentence = element("p", { class: "line" });
  readonly #bar = element("div", { class: "stack", "aria-hidden": "true" });
  readonly #list = element("ol", { class: "causes" });

  constructor() {
    this.element = element("div", {}, this.#sentence, this.#bar, this.#list);
  }

  show(times: CauseTimes): void {
    const { shares } = waits(times);
    setText(this.#sentence, waitSentence(times));
    const told = shares.slice(0, TOLD);
    const parts = told.map(({ share }, index) => {
      const part = element("span", { class: `part part-${index}` });
      part.style.flexGrow = String(share);
      return part;
    });
    this.#bar.replaceChildren(...parts);
    const items = told.map(({ cause, us, share }, index) =>
      element(
        "li",
        {},
        element("i", { class: `swatch part-${index}`, "aria-hidden": "true" }),
        element("b", {}, causeWords[cause]),
        element("span", { class: "number" }, formatMicroseconds(us)),
        element("span", { class: "number is-quiet" }, formatShare(share)),
      ),
    );
    this.#list.replaceChildren(...items);
  }
}
