/**
 * The pictures of a report's page: causes as bars, demand over time, cost over memory. Each is an
 * SVG with a title for those who cannot see it; the page gives the colours. PURE.
 */
import { element, escapeText, label, line } from "../base/markup.ts";
import { formatBytes, formatDuration } from "../base/units.ts";
import { causeWords } from "./cause-words.ts";
import { type DemandsAccount, type RestoreReport, reportCauses } from "./restore-report.ts";

const WIDTH_PX = 900;
const NAMES_PX = 270;
const ROW_PX = 24;
const PLOT_PX = 140;
const LABEL_PX = 24;
/** Room behind a bar for its value. */
const VALUE_PX = 130;

export function causesPicture({ causes, wallUs }: RestoreReport): string {
  const spent = reportCauses
    .filter((cause) => causes[cause] > 0)
    .sort((left, right) => causes[right] - causes[left]);
  const most = Math.max(1, ...spent.map((cause) => causes[cause]));
  const rows = spent.flatMap((cause, row) => {
    const us = causes[cause];
    const width = Math.max(1, (us / most) * (WIDTH_PX - NAMES_PX - VALUE_PX));
    const value = `${formatDuration(us)}, ${Math.round((us / Math.max(1, wallUs)) * 100)} %`;
    const [y, middle] = [row * ROW_PX, row * ROW_PX + 16];
    const kind = cause === "guest" ? "guest" : "bar";
    return [
      label(causeWords[cause], NAMES_PX - 8, middle, { anchor: "end" }),
      element("rect", { x: NAMES_PX, y: y + 3, width, height: ROW_PX - 8, class: kind }),
      label(value, NAMES_PX + width + 6, middle, { kind: "muted" }),
    ];
  });
  return picture(`Time by cause, ${formatDuration(wallUs)} in all`, spent.length * ROW_PX, rows);
}

export function demandsPicture({ sliceUs, counts }: DemandsAccount): string {
  const most = Math.max(1, ...counts);
  const bars = columns(
    counts.map((count, index) => [index, count] as const),
    counts.length,
    most,
  );
  const endUs = sliceUs * counts.length;
  return picture(
    `Pages asked for, in slices of ${formatDuration(sliceUs)}: ${most} at most`,
    PLOT_PX + LABEL_PX,
    [
      ...bars,
      ...axis("connection", formatDuration(endUs)),
      label(`${most} pages`, 0, 12, { kind: "muted" }),
    ],
  );
}

export function extentsPicture({ extents, sizeBytes, pageSizeBytes }: RestoreReport): string {
  const count = Math.ceil(sizeBytes / pageSizeBytes / extents.pagesEach);
  const most = Math.max(1, ...extents.costUs.map(([, us]) => us));
  const each = formatBytes(extents.pagesEach * pageSizeBytes);
  return picture(
    `What threads waited for each ${each} of memory: ${formatDuration(most)} at most`,
    PLOT_PX + LABEL_PX,
    [
      ...columns(extents.costUs, count, most),
      ...axis("0", formatBytes(sizeBytes)),
      label(formatDuration(most), 0, 12, { kind: "muted" }),
    ],
  );
}

function columns(
  values: readonly (readonly [index: number, value: number])[],
  count: number,
  most: number,
): string[] {
  const widthPx = WIDTH_PX / Math.max(1, count);
  return values
    .filter(([, value]) => value > 0)
    .map(([index, value]) => {
      const height = Math.max(1, (value / most) * (PLOT_PX - 16));
      const place = { x: index * widthPx, y: PLOT_PX - height, width: Math.max(1, widthPx - 0.5) };
      return element("rect", { ...place, height, class: "bar" });
    });
}

function axis(from: string, to: string): string[] {
  return [
    line(0, PLOT_PX, WIDTH_PX, PLOT_PX, "grid"),
    label(from, 0, PLOT_PX + 17, { kind: "muted" }),
    label(to, WIDTH_PX, PLOT_PX + 17, { anchor: "end", kind: "muted" }),
  ];
}

function picture(title: string, heightPx: number, body: readonly string[]): string {
  const root = { viewBox: `0 0 ${WIDTH_PX} ${heightPx}`, width: WIDTH_PX, height: heightPx };
  const named = element("title", {}, escapeText(title));
  return element("svg", { ...root, role: "img" }, `\n${[named, ...body].join("\n")}\n`);
}
