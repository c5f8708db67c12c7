/**
 * What pictures of benchmarks have in common: a page that follows the reader's light or dark theme,
 * logarithmic axes, and one colour per contender that colour-blind readers can tell. PURE.
 */
import { element, escapeText, label, line } from "../../base/markup.ts";

/** A whole picture with its title, which readers who cannot see it get too. */
export function picture(
  widthPx: number,
  heightPx: number,
  title: string,
  subtitle: string,
  body: readonly string[],
): string {
  const page = element("rect", { width: widthPx, height: heightPx, rx: 6, class: "page" });
  const heads = [
    label(title, PADDING_PX, 28, { kind: "title" }),
    label(subtitle, PADDING_PX, 47, { kind: "muted" }),
  ];
  const inside = [
    element("title", {}, escapeText(title)),
    element("desc", {}, escapeText(subtitle)),
    element("style", {}, STYLE),
    ...[page, ...heads, ...body],
  ];
  const root = {
    xmlns: "http://www.w3.org/2000/svg",
    viewBox: `0 0 ${widthPx} ${heightPx}`,
    width: widthPx,
    height: heightPx,
    role: "img",
  };
  return `${element("svg", root, `\n${inside.join("\n")}\n`)}\n`;
}

export const PADDING_PX = 20;
/** Below title and subtitle. */
export const HEAD_PX = 62;

/** Places values between whole decades on so many pixels. */
export class LogAxis {
  readonly #firstDecade: number;
  readonly #decades: number;
  readonly #startPx: number;
  readonly #lengthPx: number;

  constructor(values: readonly number[], startPx: number, lengthPx: number) {
    const first = Math.floor(Math.log10(Math.min(...values)));
    this.#firstDecade = first;
    this.#decades = Math.max(1, Math.ceil(Math.log10(Math.max(...values))) - first);
    this.#startPx = startPx;
    this.#lengthPx = lengthPx;
  }

  get ticks(): number[] {
    return Array.from({ length: this.#decades + 1 }, (_, step) => 10 ** (this.#firstDecade + step));
  }

  at(value: number): number {
    const decades = Math.log10(value) - this.#firstDecade;
    const share = Math.min(1, Math.max(0, decades / this.#decades));
    return this.#startPx + share * this.#lengthPx;
  }

  /** A grid over the height of the plot, with the values below. */
  grid(topPx: number, bottomPx: number, format: (value: number) => string): string[] {
    return this.ticks.flatMap((tick) => {
      const x = this.at(tick);
      const text = label(format(tick), x, bottomPx + 18, { anchor: "middle", kind: "muted" });
      return [line(x, topPx, x, bottomPx, "grid"), text];
    });
  }
}

/** Which colour and dash a contender has, in every picture. */
export function seriesOf(name: string): number {
  const known = ["reference", "mapping", "on-demand", "prefault", "before-resume"].indexOf(name);
  return known >= 0 ? known : COLOURS.length - 1;
}

/** On white, on black, and how a line is dashed: who sees no colours has the dashes and labels. */
const COLOURS: readonly (readonly [light: string, dark: string, dashes: string])[] = [
  ["#b34e00", "#ff9d57", "7 3"],
  ["#57606a", "#b1bac4", "2 3"],
  ["#0064a8", "#5eb4f0", "none"],
  ["#00795a", "#3ecfa0", "none"],
  ["#9b3f85", "#e39bcb", "10 3 2 3"],
  ["#8a6100", "#e6b84a", "4 4"],
];

const coloursOf = (place: 0 | 1): string =>
  COLOURS.map(
    (each, series) =>
      `.fill${series}{fill:${each[place]}}.line${series}{fill:none;stroke:${each[place]}}`,
  ).join("");
const dashes = COLOURS.map((each, series) => `.curve${series}{stroke-dasharray:${each[2]}}`).join(
  "",
);

const STYLE =
  "text{font:13px system-ui,'Segoe UI','Noto Sans','DejaVu Sans',sans-serif;fill:#1f2328}" +
  ".title{font-size:16px;font-weight:600}.group{font-weight:600}.page{fill:#fff}" +
  ".muted{fill:#59636e}.grid{stroke:#d9dee3}.range{stroke-width:3;stroke-opacity:.4}" +
  `.curve{stroke-width:2}.halo{paint-order:stroke;stroke:#fff;stroke-width:4px}` +
  `${dashes}${coloursOf(0)}` +
  "@media(prefers-color-scheme:dark){text{fill:#e6edf3}.page{fill:#0d1117}.muted{fill:#9198a1}" +
  `.grid{stroke:#30363d}.halo{stroke:#0d1117}${coloursOf(1)}}`;
