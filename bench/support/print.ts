/** Reports as text: one table each, both sides and the ratio in every row. */
import { formatTable } from "../../src/bench/table.ts";
import type { Measure, Report, Target, Unit } from "./report.ts";

const bothHandlers = ["C handler", "Faultline"] as const;

/** `isJudged`: whether to say which targets are met; a smoke run meets none but by luck. */
export function formatReport(report: Report, isJudged: boolean): string {
  const headings = ["", ...(report.sides ?? bothHandlers), "ratio", "target", ""];
  const rows = [headings, ...report.measures.map((row) => formatRow(row, isJudged))];
  const commands = report.commands.map((command) => `- \`${command}\``);
  const table = formatTable(rows, 1);
  return [`\n## ${report.bench}`, "", report.method, "", ...commands, "", ...table].join("\n");
}

function formatRow(row: Measure, isJudged: boolean): readonly string[] {
  return [
    row.name,
    row.reference === null ? "-" : formatValue(row.reference, row.unit),
    formatValue(row.ours, row.unit),
    row.ratio === null ? "-" : formatRatio(row.ratio),
    row.target === null ? "" : formatTarget(row.target, row.unit),
    row.isMet === null || !isJudged ? "" : row.isMet ? "met" : "MISSED",
  ];
}

function formatTarget(target: Target, unit: Unit): string {
  return target.of === "ratio" ? `<= ${target.limit}x` : `<= ${target.limit} ${unit}`;
}

function formatRatio(ratio: number): string {
  return `${ratio.toFixed(ratio < 10 ? 2 : 0)}x`;
}

function formatValue(value: number, unit: Unit): string {
  const isWhole = Number.isInteger(value) || Math.abs(value) >= 1000;
  const digits = isWhole ? 0 : Math.abs(value) < 10 ? 2 : 1;
  return `${value.toFixed(digits)} ${unit}`;
}
