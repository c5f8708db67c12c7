/** Times of contenders, by group, on one logarithmic axis: the median with its range. PURE. */
import { element, label, line } from "../../base/markup.ts";
import { formatDuration } from "../../base/units.ts";
import { HEAD_PX, LogAxis, PADDING_PX, picture, seriesOf } from "./svg.ts";

export interface TimeRow {
  /** Decides the colour. */
  readonly name: string;
  readonly title: string;
  /** Milliseconds. */
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

export interface TimeGroup {
  readonly title: string;
  readonly rows: readonly TimeRow[];
}

const WIDTH_PX = 820;
const NAMES_PX = 152;
/** For the label of the longest time. */
const VALUES_PX = 76;
const ROW_PX = 22;
const GROUP_PX = 30;
const AXIS_PX = 50;

export function plotTimes(title: string, subtitle: string, groups: readonly TimeGroup[]): string {
  const rows = groups.flatMap((group) => group.rows);
  const startPx = PADDING_PX + NAMES_PX;
  const lengthPx = WIDTH_PX - startPx - PADDING_PX - VALUES_PX;
  const times = rows.flatMap(({ min, max }) => [min * 1000, max * 1000]);
  const axis = new LogAxis(times, startPx, lengthPx);
  const bottomPx = HEAD_PX + groups.length * GROUP_PX + rows.length * ROW_PX;
  const body = axis.grid(HEAD_PX, bottomPx, formatDuration);
  let y = HEAD_PX;
  for (const group of groups) {
    y += GROUP_PX;
    body.push(label(group.title, PADDING_PX, y - 8, { kind: "group halo" }));
    for (const row of group.rows) {
      body.push(...drawRow(row, axis, y + ROW_PX / 2));
      y += ROW_PX;
    }
  }
  const scale = "less is better; logarithmic scale";
  body.push(
    label(scale, startPx + lengthPx / 2, bottomPx + 38, { anchor: "middle", kind: "muted" }),
  );
  return picture(WIDTH_PX, bottomPx + AXIS_PX, title, subtitle, body);
}

function drawRow({ name, title, median, min, max }: TimeRow, axis: LogAxis, y: number): string[] {
  const series = seriesOf(name);
  const [left, middle, right] = [min, median, max].map((ms) => axis.at(ms * 1000));
  const value = formatDuration(median * 1000);
  return [
    label(title, PADDING_PX + 12, y + 4),
    line(left!, y, right!, y, `line${series} range`),
    element("circle", { cx: middle!, cy: y, r: 5, class: `fill${series}` }),
    label(value, Math.max(right!, middle!) + 10, y + 4, { kind: "halo" }),
  ];
}
