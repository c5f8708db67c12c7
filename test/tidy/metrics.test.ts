/** Who speaks of metrics (page, dashboard, alerts, limits) speaks of those that there are. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { type Metric, metrics } from "../../src/daemon/metrics/table.ts";
import { parseAlerts } from "../support/alert-rules.ts";
import {
  expressionViolations,
  type MetricTable,
  metricPageViolations,
  metricsIn,
} from "../support/metric-uses.ts";
import { requires } from "../support/requires.ts";
import { assertNone, readRepositoryFile } from "../support/tree.ts";

const table: MetricTable = metrics;
const alerts = parseAlerts(readRepositoryFile("packaging/alerts.yml"));

const needs = requires("promtool");

interface Panel {
  readonly id: number;
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly w: number };
  readonly targets?: readonly { readonly expr: string; readonly legendFormat: string }[];
}
const dashboard = JSON.parse(readRepositoryFile("packaging/grafana-dashboard.json")) as {
  readonly panels: readonly Panel[];
  readonly annotations: { readonly list: readonly { readonly expr: string }[] };
};
const targets = dashboard.panels.flatMap((panel) => panel.targets ?? []);

/** `{{label}}` in a legend, `{{ $labels.label }}` in the text of an alert. */
function labelsIn(text: string): string[] {
  return [...text.matchAll(/\{\{\s*(?:\$labels\.)?([a-z_]+)\s*\}\}/g)].map(([, label]) => label!);
}

function checkRules(yaml: string): void {
  const folder = mkdtempSync(join(tmpdir(), "faultline-rules-"));
  try {
    const file = join(folder, "rules.yml");
    writeFileSync(file, yaml);
    const result = spawnSync("promtool", ["check", "rules", file], {
      encoding: "utf8",
      timeout: 20_000,
    });
    assert.equal(result.status, 0, result.stdout + result.stderr);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

describe("docs/METRICS.md", () => {
  test("has every metric as the table has it, what to do about it, and no other", () => {
    assertNone(metricPageViolations(readRepositoryFile("docs/METRICS.md"), table));
  });

  test("a metric missing, added, twice, or told otherwise is found", () => {
    const planted: Record<string, Metric> = {
      a: { type: "gauge", help: "A." },
      b: { type: "counter", help: "B.", labels: { x: ["1", "2"], y: null } },
      c: { type: "gauge", help: "C." },
    };
    const good = "| `b` | counter | `x`: 1, 2; `y` | B. | Do. |";
    const page = `${good}\n${good}\n| \`c\` | gauge |  | C. |  |\n| \`d\` | gauge |  | D. | Do. |`;
    assert.deepEqual(metricPageViolations(page, planted), [
      "docs/METRICS.md lacks a",
      "docs/METRICS.md does not say what to do about c",
      "docs/METRICS.md has d, which does not exist",
      "docs/METRICS.md has a metric twice",
    ]);
    const [other] = metricPageViolations(good.replace("1, 2", "1"), { b: planted.b! });
    assert.match(other!, /says of b: counter \| `x`: 1; `y` \| B\./);
  });
});

describe("the dashboard", () => {
  test("asks for metrics and labels that there are", () => {
    for (const { expr, legendFormat } of targets) {
      assertNone(expressionViolations(expr, table, labelsIn(legendFormat)));
    }
    for (const { expr } of dashboard.annotations.list) {
      assertNone(expressionViolations(expr, table));
    }
  });

  test("shows every metric that is not a single VM's", () => {
    const shown = new Set(targets.flatMap(({ expr }) => metricsIn(expr, table)));
    const hidden = Object.entries(table).filter(
      ([name, { isPerSession }]) => isPerSession !== true && !shown.has(name),
    );
    assert.deepEqual(
      hidden.map(([name]) => name),
      [],
    );
  });

  test("has panels of their own ids, within its 24 columns", () => {
    const ids = dashboard.panels.map(({ id }) => id);
    assert.equal(new Set(ids).size, ids.length);
    for (const { title, gridPos } of dashboard.panels) {
      assert.ok(gridPos.x + gridPos.w <= 24, title);
    }
  });

  test("is PromQL, says promtool", needs, () => {
    const rules = targets.map(({ expr }, index) => {
      const query = expr.replaceAll("$__rate_interval", "5m");
      return `      - record: panel:${index}\n        expr: ${JSON.stringify(query)}\n`;
    });
    checkRules(`groups:\n  - name: panels\n    rules:\n${rules.join("")}`);
  });
});

describe("the alerts", () => {
  test("ask for metrics and labels that there are", () => {
    for (const { expression, summary, description } of alerts) {
      assertNone(expressionViolations(expression, table, labelsIn(summary + description)));
    }
  });

  test("are told of in docs/OPERATING.md, each with what to do, and no other", () => {
    const page = readRepositoryFile("docs/OPERATING.md");
    const told = [...page.matchAll(/^\| `(Faultline[A-Z]\w+)` \| (\w+) \| .+ \|$/gm)];
    assert.deepEqual(
      told.map(([, name, severity]) => [name, severity]),
      alerts.map(({ name, severity }) => [name, severity]),
    );
  });

  test("are rules, says promtool", needs, () => {
    checkRules(readRepositoryFile("packaging/alerts.yml"));
  });

  test("that are not in the part of YAML that is read are found", () => {
    const head = "groups:\n  - name: faultline\n    rules:\n";
    for (const line of [
      "      - alert: A: b",
      "      - record: a",
      "       x: y",
      "      - alert:",
    ]) {
      assert.throws(() => parseAlerts(`${head}${line}\n`), /alerts\.yml: /, line);
    }
  });
});

describe("docs/LIMITS.md", () => {
  test("names each bound of faultline_bounds_reached_total", () => {
    const page = readRepositoryFile("docs/LIMITS.md");
    const told = [...page.matchAll(/`bound="([a-z_]+)"`/g)].map(([, bound]) => bound!);
    const { bound } = metrics.faultline_bounds_reached_total.labels;
    assert.deepEqual([...new Set(told)].sort(), [...bound].sort());
  });
});

describe("an expression", () => {
  const planted: Record<string, Metric> = {
    a_total: { type: "counter", help: "", labels: { x: ["1"] } },
    b: { type: "gauge", help: "" },
    c_seconds: { type: "histogram", help: "" },
  };

  for (const [text, violation, shown] of [
    ["sum(rate(nothing_total[5m]))", /there is no nothing_total/],
    ["b_bucket", /there is no b_bucket/],
    ["a_total", /not used by rate/],
    ["rate(b[5m])", /b is a gauge/],
    ['rate(a_total{y="1"}[5m])', /no label y/],
    ['rate(a_total{x="2"}[5m])', /never 2/],
    ["sum by (y) (rate(a_total[5m]))", /groups by y/],
    ["sum(rate(a_total[5m]))", /shows x/, ["x"]],
  ] as const) {
    test(`that is wrong is found: ${text}`, () => {
      const found = expressionViolations(text, planted, shown);
      assert.equal(found.length, 1, found.join("; "));
      assert.match(found[0]!, violation);
    });
  }

  test("that is right is not", () => {
    for (const text of [
      'sum by (x) (rate(a_total{x="1",instance=~"$instance"}[$__rate_interval])) > 0',
      "histogram_quantile(0.99, sum by (le, job) (rate(c_seconds_bucket[5m]))) / b",
      "up == 0 and on (instance) b",
    ]) {
      assert.deepEqual(expressionViolations(text, planted), []);
    }
  });
});
