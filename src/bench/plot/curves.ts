/**
 * Distributions as cumulative curves, each with its name beside it. Both axes are logarithmic: up,
 * each further nine of 90 %, 99 %, 99.9 % takes as much room, as a guest waits for the slow ones
 * most. PURE.
 */
import { element, label, line } from "../../base/markup.ts";
import { formatDuration } from "../../base/units.ts";
import { HEAD_PX, LogAxis, PADDING_PX, picture, seriesOf } from "./svg.ts";

export interface Curve {
  /** Decides the colour. */
  readonly name: string;
  readonly title: string;
  /** Microseconds, one for each of the shares. */
  readonly quantilesUs: readonly number[];
}

interface Point {
  readonly x: number;
  readonly y: number;
}

interface Box extends Point {
  readonly width: number;
  readonly height: number;
}

const WIDTH_PX = 820;
const HEIGHT_PX = 440;
const LEFT_PX = 64;
const BOTTOM_PX = 56;
const GRID_SHARES = [0, 0.5, 0.9, 0.99, 0.999];
const TOP_NINES = 3;
/** Where along a curve its name may stand. */
const LABEL_SHARES = [0.92, 0.8, 0.95, 0.97, 0.7, 0.985, 0.99, 0.994, 0.55, 0.3];
const LABEL_GAP_PX = 8;
const LABEL_HEIGHT_PX = 16;
/** Generous: fonts differ. */
const LETTER_PX = 9;
/** A clock may see no time pass. */
const LEAST_US = 0.01;

export function plotCurves(
  title: string,
  subtitle: string,
  shares: readonly number[],
  curves: readonly Curve[],
): string {
  const bottomPx = HEIGHT_PX - BOTTOM_PX;
  const lengthPx = WIDTH_PX - LEFT_PX - 2 * PADDING_PX;
  const seen = (us: number): number => Math.max(us, LEAST_US);
  const values = curves.flatMap(({ quantilesUs }) => [quantilesUs[0]!, quantilesUs.at(-1)!]);
  const axis = new LogAxis(values.map(seen), LEFT_PX, lengthPx);
  const heightOf = (share: number): number => {
    const nines = Math.min(TOP_NINES, -Math.log10(1 - share));
    return bottomPx - (nines / TOP_NINES) * (bottomPx - HEAD_PX);
  };
  const paths = curves.map(({ quantilesUs }): Point[] =>
    quantilesUs.map((us, step) => ({
      x: axis.at(seen(us)),
      y: heightOf(shares[step]!),
    })),
  );
  const steps = LABEL_SHARES.map((share) => shares.findIndex((each) => each >= share));
  const boxes = placeLabels(curves, paths, steps);
  const body = [
    ...GRID_SHARES.flatMap((share) => [
      line(LEFT_PX, heightOf(share), LEFT_PX + lengthPx, heightOf(share), "grid"),
      label(`${Number((share * 100).toFixed(1))} %`, LEFT_PX - 8, heightOf(share) + 4, {
        anchor: "end",
        kind: "muted",
      }),
    ]),
    ...axis.grid(HEAD_PX, bottomPx, formatDuration),
    ...curves.map(({ name }, index) => drawCurve(seriesOf(name), paths[index]!)),
    ...curves.map(({ name, title: text }, index) => {
      const { x, y } = boxes[index]!;
      return label(text, x, y + LABEL_HEIGHT_PX - 4, { kind: `halo group fill${seriesOf(name)}` });
    }),
  ];
  return picture(WIDTH_PX, HEIGHT_PX, title, subtitle, body);
}

function drawCurve(series: number, points: readonly Point[]): string {
  const text = points.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join(" ");
  return element("polyline", { points: text, class: `line${series} curve curve${series}` });
}

/** Beside its own curve, at one of `steps`, where it hides least of the others. */
function placeLabels(
  curves: readonly Curve[],
  paths: readonly (readonly Point[])[],
  steps: readonly number[],
): Box[] {
  const placed: Box[] = [];
  for (const [index, { title }] of curves.entries()) {
    const own = paths[index]!;
    const boxes = steps.flatMap((step) => besides(own[step]!, title.length * LETTER_PX));
    const costs = boxes.map((box) => costOf(box, paths, placed));
    placed.push(boxes[costs.indexOf(Math.min(...costs))]!);
  }
  return placed;
}

/** To the right of a curve's point and to its left. */
function besides({ x, y }: Point, width: number): Box[] {
  const box = { y: y - LABEL_HEIGHT_PX / 2, width, height: LABEL_HEIGHT_PX };
  return [
    { ...box, x: x + LABEL_GAP_PX },
    { ...box, x: x - LABEL_GAP_PX - width },
  ];
}

const OUTSIDE_COST = 10_000;
const OVERLAP_COST = 1000;

function costOf(box: Box, paths: readonly (readonly Point[])[], placed: readonly Box[]): number {
  const isInside = box.x >= LEFT_PX && box.x + box.width <= WIDTH_PX - PADDING_PX;
  const hidden = paths.flat().filter((point) => isWithin(point, box)).length;
  const overlaps = placed.filter((other) => doOverlap(box, other)).length;
  return (isInside ? 0 : OUTSIDE_COST) + overlaps * OVERLAP_COST + hidden;
}

function isWithin({ x, y }: Point, box: Box): boolean {
  return x >= box.x && x <= box.x + box.width && y >= box.y && y <= box.y + box.height;
}

function doOverlap(a: Box, b: Box): boolean {
  const isBeside = a.x + a.width + LABEL_GAP_PX < b.x || b.x + b.width + LABEL_GAP_PX < a.x;
  return !isBeside && a.y < b.y + b.height && b.y < a.y + a.height;
}
