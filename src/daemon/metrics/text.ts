/**
 * Metrics as text, in Prometheus' format 0.0.4: checked against the table as they are written, and
 * put into its order, so that all samples of a metric stand together.
 */
import { assert } from "../../base/assert.ts";
import type { DurationCounts } from "../../base/histogram.ts";
import { cumulative } from "./buckets.ts";
import { type Metric, type MetricName, metrics } from "./table.ts";

type Table = typeof metrics;
type NameOf<Type extends Metric["type"]> = {
  [Name in MetricName]: Table[Name]["type"] extends Type ? Name : never;
}[MetricName];
/** A value of the table's list, or any where it has none. */
type LabelsOf<Name extends MetricName> = Table[Name] extends { readonly labels: infer Labels }
  ? {
      readonly [Label in keyof Labels]: Labels[Label] extends readonly (infer Value)[]
        ? Value
        : string;
    }
  : Readonly<Record<string, never>>;

export class MetricText {
  readonly #samples = new Map<string, string[]>();

  add<Name extends NameOf<"counter" | "gauge">>(
    name: Name,
    labels: LabelsOf<Name>,
    value: number,
  ): void {
    this.#put(name, name, labels, value);
  }

  addDurations<Name extends NameOf<"histogram">>(
    name: Name,
    labels: LabelsOf<Name>,
    durations: DurationCounts,
    boundsNs: readonly number[],
  ): void {
    let count = 0;
    for (const bucket of cumulative(durations, boundsNs)) {
      ({ count } = bucket);
      this.#put(name, `${name}_bucket`, { ...labels, le: bucket.le }, count);
    }
    this.#put(name, `${name}_sum`, labels, durations.totalUs / 1e6);
    this.#put(name, `${name}_count`, labels, count);
  }

  toString(): string {
    const lines: string[] = [];
    for (const [name, { type, help }] of Object.entries(metrics) as [MetricName, Metric][]) {
      const samples = this.#samples.get(name);
      if (samples === undefined) continue;
      lines.push(`# HELP ${name} ${escapeHelp(help)}`, `# TYPE ${name} ${type}`);
      for (const sample of samples) lines.push(sample);
    }
    return `${lines.join("\n")}\n`;
  }

  #put(metric: MetricName, series: string, labels: object, value: number): void {
    assert(Number.isFinite(value), `${series} is ${value}`);
    const pairs = Object.entries(labels).map(([name, each]) => `${name}="${escapeLabel(each)}"`);
    const line = `${series}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`} ${value}`;
    const samples = this.#samples.get(metric);
    if (samples === undefined) this.#samples.set(metric, [line]);
    else samples.push(line);
  }
}

function escapeHelp(text: string): string {
  return text.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");
}

function escapeLabel(value: unknown): string {
  return escapeHelp(String(value)).replaceAll('"', '\\"');
}
