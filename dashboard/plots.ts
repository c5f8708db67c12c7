/** The two plots: rates over time, and how latencies are distributed. Drawn by uPlot. */
import uPlot from "uplot";
import { element } from "./element.ts";
import { formatMicroseconds, formatShort } from "./formats.ts";
import { barFloorUs, LATENCY_BARS, type LatencyView } from "./latency.ts";
import type { TimeSeries } from "./rates.ts";
import { onTheme, styleColour } from "./theme.ts";

const HEIGHT = 132;
/** Until its place is known. */
const FIRST_WIDTH = 320;
const LEAST_SPAN_S = 30;
const AXIS_FONT = "11px system-ui, sans-serif";

class Plot {
  readonly element: HTMLElement;
  readonly #plot: uPlot;
  readonly #sized: ResizeObserver;
  readonly #forgetTheme: () => void;

  constructor(options: Omit<uPlot.Options, "width" | "height">, label: string) {
    this.element = element("div", { class: "plot", role: "img", "aria-label": label });
    const empty: uPlot.AlignedData = [[], ...options.series.slice(1).map(() => [])];
    const shared = {
      width: FIRST_WIDTH,
      height: HEIGHT,
      legend: { show: false },
      cursor: { show: false },
      padding: [8, 26, 0, 0] as [number, number, number, number],
    };
    this.#plot = new uPlot({ ...shared, ...options }, empty, this.element);
    this.#sized = new ResizeObserver(() => {
      const width = this.element.clientWidth;
      if (width > 0) this.#plot.setSize({ width, height: HEIGHT });
    });
    this.#sized.observe(this.element);
    this.#forgetTheme = onTheme(() => this.#plot.redraw(false, true));
  }

  set(data: uPlot.AlignedData, label: string): void {
    this.element.setAttribute("aria-label", label);
    this.#plot.setData(data);
  }

  close(): void {
    this.#forgetTheme();
    this.#sized.disconnect();
    this.#plot.destroy();
  }
}

function axis(values: uPlot.Axis["values"], others: uPlot.Axis = {}): uPlot.Axis {
  return {
    stroke: () => styleColour("--ink-2"),
    grid: { stroke: () => styleColour("--line"), width: 1 },
    ticks: { show: false },
    font: AXIS_FONT,
    ...(values === undefined ? {} : { values }),
    ...others,
  };
}

function line(colour: string, dash: number[] = []): uPlot.Series {
  return {
    stroke: () => styleColour(colour),
    width: 1.75,
    dash,
    points: { show: false },
  };
}

export class RatePlot extends Plot {
  constructor() {
    const options = {
      series: [{}, line("--series-1"), line("--series-2", [5, 3])],
      scales: {
        x: { range: (_: uPlot, first: number, last: number) => spanFor(first, last) },
        y: { range: (_: uPlot, __: number, most: number) => rangeFor(most) },
      },
      axes: [
        axis((_, times) => times.map(formatClock), { size: 24, space: 70 }),
        axis((_, rates) => rates.map(formatShort), { size: 46, space: 26 }),
      ],
    };
    super(options, "Rates over time");
  }

  show({ timesS, values }: TimeSeries): void {
    const now = values.map((series) => formatShort(series.at(-1) ?? 0));
    const label = `Over time: ${now[0]} faults/s and ${now[1]} pages/s now.`;
    this.set([timesS, ...values] as uPlot.AlignedData, label);
  }
}

export class LatencyPlot extends Plot {
  constructor() {
    const bars = uPlot.paths.bars!({ size: [0.8, 40], align: 1 });
    const options = {
      series: [
        {},
        { ...line("--series-1"), fill: () => styleColour("--series-1-soft"), paths: bars },
        { ...line("--series-2", [5, 3]), paths: uPlot.paths.stepped!({ align: 1 }) },
      ],
      scales: {
        x: { time: false, range: (): [number, number] => [0, LATENCY_BARS] },
        y: { range: (_: uPlot, __: number, most: number) => rangeFor(most) },
      },
      axes: [
        axis((_, bars) => bars.map((bar) => formatMicroseconds(roundUs(barFloorUs(bar)))), {
          size: 24,
          splits: () => [0, 7, 13, 20, 27, 33, 40],
        }),
        axis((_, shares) => shares.map((share) => `${Math.round(share * 100)} %`), {
          size: 46,
          space: 26,
        }),
      ],
    };
    super(options, "Latency distribution");
  }

  show(recent: LatencyView, ever: LatencyView): void {
    const numbers = Array.from({ length: LATENCY_BARS }, (_, bar) => bar);
    const half = (view: LatencyView): string => formatMicroseconds(view.p50Us);
    const most = (view: LatencyView): string => formatMicroseconds(view.p99Us);
    const label =
      `Latency, last 10 s: half within ${half(recent)}, 99 % within ${most(recent)}; ` +
      `ever: ${half(ever)} and ${most(ever)}.`;
    this.set([numbers, recent.bars, ever.bars], label);
  }
}

function rangeFor(most: number): [number, number] {
  return [0, most > 0 ? most * 1.1 : 1];
}

/** Half a minute at least: a plot that has just begun is not all of one second. */
function spanFor(first: number | null, last: number | null): [number, number] {
  const end = last ?? Date.now() / 1000;
  return [Math.min(first ?? end, end - LEAST_SPAN_S), end];
}

function formatClock(seconds: number): string {
  return new Date(seconds * 1000).toLocaleTimeString("en-GB");
}

/** Bars begin at powers of two; people read powers of ten. */
function roundUs(us: number): number {
  return 10 ** Math.round(Math.log10(us));
}
