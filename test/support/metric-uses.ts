/** Compares dashboards, alerts and pages with the table of metrics. PURE. */
import type { Metric } from "../../src/daemon/metrics/table.ts";
import { parseExpression, type Selector } from "./promql.ts";

export type MetricTable = Readonly<Record<string, Metric>>;

/** Labels that Prometheus adds, and its own series. */
const SCRAPE_LABELS = ["instance", "job"];
const SCRAPE_SERIES = ["up"];

/** The table's name of a series: without the suffix of a histogram's parts. */
export function metricOf(series: string, table: MetricTable): string | null {
  if (series in table) return series;
  const base = series.replace(/_(bucket|sum|count)$/, "");
  return table[base]?.type === "histogram" ? base : null;
}

/** Metrics that an expression is about. */
export function metricsIn(text: string, table: MetricTable): string[] {
  const names = parseExpression(text).selectors.map(({ name }) => metricOf(name, table));
  return names.filter((name) => name !== null);
}

/** `shown`: labels that a legend or a text beside the expression names. */
export function expressionViolations(
  text: string,
  table: MetricTable,
  shown: readonly string[] = [],
): string[] {
  const { selectors, groupedBy } = parseExpression(text);
  const violations = selectors.flatMap((selector) => selectorViolations(selector, table));
  const known = new Set([...SCRAPE_LABELS, ...selectors.flatMap((each) => labelsOf(each, table))]);
  const isAggregated = /\b(sum|count)\b/.test(text);
  for (const label of groupedBy) {
    if (!known.has(label)) violations.push(`groups by ${label}, which nothing there has`);
  }
  for (const label of shown) {
    const isThere = isAggregated ? groupedBy.includes(label) : known.has(label);
    if (!isThere) violations.push(`shows ${label}, which its result does not have`);
  }
  return violations.map((each) => `${text}: ${each}`);
}

function selectorViolations(selector: Selector, table: MetricTable): string[] {
  const { name, matchers, isRange } = selector;
  if (SCRAPE_SERIES.includes(name)) return [];
  const metric = table[metricOf(name, table) ?? ""];
  if (metric === undefined) return [`there is no ${name}`];
  const violations: string[] = [];
  if (isRange !== (metric.type !== "gauge")) {
    violations.push(isRange ? `${name} is a gauge` : `${name} is not used by rate or increase`);
  }
  const known = [...SCRAPE_LABELS, ...labelsOf(selector, table)];
  for (const { label, value } of matchers) {
    const values = metric.labels?.[label] ?? null;
    if (!known.includes(label)) violations.push(`${name} has no label ${label}`);
    else if (value !== null && values !== null && !values.includes(value)) {
      violations.push(`${label} of ${name} is never ${value}`);
    }
  }
  return violations;
}

function labelsOf({ name }: Selector, table: MetricTable): string[] {
  const metric = table[metricOf(name, table) ?? ""];
  return [...Object.keys(metric?.labels ?? {}), ...(name.endsWith("_bucket") ? ["le"] : [])];
}

/** As the page of metrics has them: type, labels with their values, and meaning. */
export function pageCells({ type, labels = {}, help }: Metric): readonly string[] {
  const list = Object.entries(labels).map(
    ([name, values]) => `\`${name}\`${values === null ? "" : `: ${values.join(", ")}`}`,
  );
  return [type, list.join("; "), help];
}

/** Every difference between docs/METRICS.md and the table. */
export function metricPageViolations(page: string, table: MetricTable): string[] {
  const rows = [...page.matchAll(/^\| `([a-z_0-9]+)` \| (.*) \|$/gm)];
  const told = new Map(rows.map(([, name, rest]) => [name!, rest!.split(" | ")]));
  const violations: string[] = [];
  for (const [name, metric] of Object.entries(table)) {
    const cells = told.get(name);
    if (cells === undefined) violations.push(`docs/METRICS.md lacks ${name}`);
    else if (cells.slice(0, 3).join(" | ") !== pageCells(metric).join(" | ")) {
      violations.push(`docs/METRICS.md says of ${name}: ${cells.slice(0, 3).join(" | ")}`);
    } else if (cells.length !== 4 || cells[3] === "") {
      violations.push(`docs/METRICS.md does not say what to do about ${name}`);
    }
  }
  for (const name of told.keys()) {
    if (!(name in table)) violations.push(`docs/METRICS.md has ${name}, which does not exist`);
  }
  if (rows.length !== told.size) violations.push("docs/METRICS.md has a metric twice");
  return violations;
}
