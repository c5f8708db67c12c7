/** Reports as text: Markdown that reads well as it is, so that a table can be kept as printed. */
import type { ContenderReport, FigureReport, ScenarioReport } from "./report.ts";
import type { Figure, FigureUnit } from "./scenario.ts";
import type { Spread } from "./statistics.ts";

type Row = readonly string[];

const WORD_COLUMNS = 2;
const TARGET_COLUMNS = 2;

/** `isJudged`: whether to say which targets are met; a quick look meets none but by luck. */
export function formatScenario(report: ScenarioReport, isJudged: boolean): string {
  const rows = report.figures.flatMap((figure) =>
    report.contenders.map((contender) => formatRow(report, figure, contender.name, isJudged)),
  );
  const rounds = `${report.rounds} round${report.rounds === 1 ? "" : "s"}`;
  const warmUp = report.warmUpRounds === 0 ? "" : " after one to warm up";
  const contenders = report.contenders.map(describeContender);
  const ratio = report.comparedTo === "reference" ? "ratio to C" : `ratio to ${report.comparedTo}`;
  const headings = ["", "", "median", "[min … max]", ratio, "[min … max]", "target", ""];
  return [
    `## ${report.name}`,
    "",
    `${report.method} ${rounds}${warmUp}, contenders in turns; ratios are per round.`,
    "",
    ...contenders,
    "",
    ...formatTable(withoutEmptyColumns([headings, ...rows]), WORD_COLUMNS),
  ].join("\n");
}

function describeContender({ title, command, servesMany }: ContenderReport): string {
  if (command === null) {
    return (
      `- ${title}: no handler; a read maps up to 16 cached pages at once (fault-around), so that ` +
      "most touches do not fault"
    );
  }
  const lifetime = servesMany ? "one process for all" : "a process for each VM";
  return `- ${title}, ${lifetime}: \`${command}\``;
}

/** Where nothing is promised, targets have no column. */
function withoutEmptyColumns(rows: readonly Row[]): Row[] {
  const last = rows[0]!.length - TARGET_COLUMNS;
  const hasTargets = rows.slice(1).some((row) => row[last] !== "");
  return hasTargets ? [...rows] : rows.map((row) => row.slice(0, last));
}

function formatRow(report: ScenarioReport, figure: Figure, name: string, isJudged: boolean): Row {
  const contender = report.contenders.find((each) => each.name === name)!;
  const value: FigureReport = contender.figures[figure.key]!;
  const target = report.targets.find(
    (each) => each.contender === name && each.figure === figure.key,
  );
  const sign = target?.relation === "<=" ? "≤" : "≥";
  return [
    figure.title,
    contender.title,
    `${formatValue(value.median, figure.unit)} ${figure.unit}`,
    formatRange(value, (each) => formatValue(each, figure.unit)),
    value.ratio === null ? "" : formatRatio(value.ratio.median),
    value.ratio === null ? "" : formatRange(value.ratio, formatRatio),
    target === undefined ? "" : `${sign} ${target.limit}`,
    target === undefined || !isJudged ? "" : target.isMet ? "met" : "MISSED",
  ];
}

/** Columns as wide as their widest cell; numbers, after the first columns, to the right. */
export function formatTable(rows: readonly Row[], wordColumns: number): string[] {
  const widths = rows[0]!.map((_, column) =>
    Math.max(3, ...rows.map((row) => row[column]!.length)),
  );
  const line = (row: Row): string => {
    const cells = row.map((cell, column) => pad(cell, widths[column]!, column < wordColumns));
    return `| ${cells.join(" | ")} |`;
  };
  const rule = widths.map((width, column) =>
    column < wordColumns ? "-".repeat(width) : `${"-".repeat(width - 1)}:`,
  );
  return [line(rows[0]!), `| ${rule.join(" | ")} |`, ...rows.slice(1).map(line)];
}

function pad(cell: string, width: number, isWord: boolean): string {
  return isWord ? cell.padEnd(width) : cell.padStart(width);
}

function formatRange({ min, max }: Spread, format: (value: number) => string): string {
  return `[${format(min)} … ${format(max)}]`;
}

function formatRatio(ratio: number): string {
  return ratio < 0.1 ? ratio.toPrecision(1) : ratio.toFixed(ratio < 10 ? 2 : 0);
}

function formatValue(value: number, unit: FigureUnit): string {
  if (unit === "×") return value.toFixed(2);
  const digits = value >= 1000 ? 0 : value < 10 ? 2 : 1;
  return value.toFixed(digits).replace(/\B(?=(\d{3})+$)/g, value >= 10_000 ? "," : "");
}
