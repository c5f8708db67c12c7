/** What is made of samples: ratios, verdicts, the order of turns, and the table. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import type { Contender } from "../../src/bench/contender.ts";
import { reportScenario, type ScenarioReport } from "../../src/bench/report.ts";
import { orderOf } from "../../src/bench/run.ts";
import type { Sample, Scenario, Target } from "../../src/bench/scenario.ts";
import { quickSettings } from "../../src/bench/settings.ts";
import { median, quantile, slope, spreadOf } from "../../src/bench/statistics.ts";
import { formatScenario } from "../../src/bench/table.ts";

const speedAtLeast = (limit: number): Target => {
  return { contender: "auto", figure: "speed", of: "ratio", relation: ">=", limit };
};
const growthAtMost = (limit: number): Target => {
  return { contender: "auto", figure: "growth", of: "value", relation: "<=", limit };
};

function scenarioWith(targets: readonly Target[]): Scenario {
  return {
    name: "sprint",
    summary: "",
    describe: ({ rounds }) => `It ran ${rounds} times.`,
    contenders: ["reference", "auto"],
    isPinned: false,
    figures: [
      { key: "speed", title: "speed", unit: "pages/s", isCompared: true },
      { key: "growth", title: "growth", unit: "×", isCompared: false },
    ],
    targets,
    measure: () => Promise.reject(new Error("nothing is measured here")),
  };
}

function contender(name: string): Contender {
  return { name, title: name, command: null, servesMany: true };
}

const samples = new Map<string, readonly Sample[]>([
  [
    "reference",
    [
      { speed: 100, growth: 1 },
      { speed: 1000, growth: 1 },
      { speed: 10, growth: 1 },
    ],
  ],
  [
    "auto",
    [
      { speed: 200, growth: 1.1 },
      { speed: 900, growth: 3 },
      { speed: 11, growth: 1.3 },
    ],
  ],
]);

function reportOf(targets: readonly Target[], names = ["reference", "auto"]): ScenarioReport {
  const present = new Map([...samples].filter(([name]) => names.includes(name)));
  const settings = { ...quickSettings, rounds: 3 };
  return reportScenario(scenarioWith(targets), settings, names.map(contender), present);
}

describe("statistics", () => {
  test("a median of four lies between the middle two", () => {
    assert.equal(median([4, 1, 3, 2]), 2.5);
    assert.equal(quantile([0, 10], 0.25), 2.5);
    assert.throws(() => median([]), /no values/);
  });

  test("a spread keeps both ends", () => {
    assert.deepEqual(spreadOf([3, 1, 2]), { median: 2, min: 1, max: 3 });
  });

  test("a slope is the growth of y per x", () => {
    const points = [1, 2, 3].map((x) => [x, 5 - 2 * x] as const);
    assert.equal(slope(points), -2);
  });
});

describe("a report", () => {
  test("takes ratios round by round: the ratio of medians would be another", () => {
    const [reference, auto] = reportOf([]).contenders;
    assert.deepEqual(auto!.figures.speed!.ratio, { median: 1.1, min: 0.9, max: 2 });
    assert.deepEqual(auto!.figures.speed!.values, [200, 900, 11]);
    assert.equal(auto!.figures.growth!.ratio, null);
    assert.equal(reference!.figures.speed!.ratio, null);
  });

  test("judges the median of ratios or values, in the direction of the target", () => {
    const targets = [speedAtLeast(1.1), speedAtLeast(1.2), growthAtMost(1.3), growthAtMost(1.2)];
    assert.deepEqual(
      reportOf(targets).targets.map(({ value, isMet }) => [value, isMet]),
      [
        [1.1, true],
        [1.1, false],
        [1.3, true],
        [1.3, false],
      ],
    );
  });

  test("judges nothing that was not compared", () => {
    const targets = [speedAtLeast(1), growthAtMost(2)];
    assert.deepEqual(
      reportOf(targets, ["auto"]).targets.map(({ figure }) => figure),
      ["growth"],
    );
    assert.deepEqual(reportOf(targets, ["reference"]).targets, []);
  });
});

describe("turns", () => {
  for (const all of [["a"], ["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"]]) {
    test(`of ${all.length}: over the rounds each is first as often as any other`, () => {
      const orders = Array.from({ length: 2 * all.length }, (_, round) => orderOf(all, round));
      for (const order of orders) assert.deepEqual(order.toSorted(), all);
      for (const place of all.keys()) {
        assert.deepEqual(
          orders.map((order) => order[place]!).toSorted(),
          all.flatMap((name) => [name, name]),
          `place ${place}`,
        );
      }
    });
  }

  test("go both ways, so that nobody always follows the same one", () => {
    assert.deepEqual(
      [orderOf(["a", "b"], 0), orderOf(["a", "b"], 1)],
      [
        ["a", "b"],
        ["b", "a"],
      ],
    );
  });
});

describe("a table", () => {
  const lines = (isJudged: boolean): string[] =>
    formatScenario(reportOf([speedAtLeast(1.2), growthAtMost(2)]), isJudged).split("\n");

  test("is Markdown: a rule below the head, and as many cells in every row", () => {
    const table = lines(true).filter((line) => line.startsWith("|"));
    assert.match(table[1]!, /^\| -+ \| -+ \|( -+: \|)+$/);
    assert.deepEqual(new Set(table.map((line) => line.split("|").length)), new Set([10]));
    assert.equal(new Set(table.map((line) => line.length)).size, 1, "columns line up");
  });

  test("has medians, ranges, ratios, and says what became of targets", () => {
    const row = (start: string): string[] =>
      lines(true)
        .find((line) => line.startsWith(`| ${start}`))!
        .split("|")
        .map((cell) => cell.trim())
        .slice(3, -1);
    assert.deepEqual(row("speed  | auto"), [
      ...["200.0 pages/s", "[11.0 … 900.0]", "1.10", "[0.90 … 2.00]", "≥ 1.2", "MISSED"],
    ]);
    assert.deepEqual(row("growth | auto"), ["1.30 ×", "[1.10 … 3.00]", "", "", "≤ 2", "met"]);
  });

  test("of a quick look passes no verdict", () => {
    assert.doesNotMatch(lines(false).join("\n"), /met|MISSED/);
  });
});
