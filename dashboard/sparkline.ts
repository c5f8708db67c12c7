/** A small line without axes: whether something goes up or down. */
import { drawing, setAttribute } from "./element.ts";

const WIDTH = 120;
const HEIGHT = 22;

export class Sparkline {
  readonly element: SVGElement;
  readonly #line = drawing("polyline", { class: "spark-line", fill: "none" });

  constructor() {
    this.element = drawing(
      "svg",
      { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" },
      this.#line,
    );
  }

  show(values: readonly number[]): void {
    const most = Math.max(1, ...values);
    const step = WIDTH / Math.max(1, values.length - 1);
    const points = values.map(
      (value, index) =>
        `${(index * step).toFixed(1)},${(HEIGHT - 2 - (value / most) * (HEIGHT - 4)).toFixed(1)}`,
    );
    setAttribute(this.#line, "points", points.join(" "));
  }
}
