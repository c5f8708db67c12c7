/** Pictures of benchmarks: whole XML, with every name and number that a reader needs. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { label } from "../../src/base/markup.ts";
import { formatDuration } from "../../src/base/units.ts";
import { plotsOf } from "../../src/bench/plot/plots.ts";
import { LogAxis } from "../../src/bench/plot/svg.ts";
import { type ScenarioReport, touchShares } from "../../src/bench/report.ts";

const spread = (median: number) => ({ median, min: median / 2, max: median * 2 });

function reportOf(backend: string, medians: Readonly<Record<string, number>>): ScenarioReport {
  const contenders = Object.entries(medians).map(([name, median]) => ({
    ...{ name, title: `title of ${name}`, command: null, servesMany: false },
    figures: { working_set_ms: { ...spread(median), ratio: null, values: [median] } },
    touchQuantilesUs: touchShares.map((share) => (median * (1 + share)) / 100),
  }));
  return {
    ...{ name: backend, method: "", rounds: 1, warmUpRounds: 0, comparedTo: "on-demand" },
    ...{ figures: [], contenders, targets: [] },
    restore: { trace: "my/<own>.trace", backend, pageSizeBytes: 4096, vms: 10, doWrite: false },
  };
}

const plots = plotsOf([
  reportOf("far", { "on-demand": 4000, prefault: 1234 }),
  reportOf("file", { "on-demand": 90, mapping: 0.0999, "handler 1": 77 }),
]);

/** Throws unless every element is closed, every value quoted, and no sign is left bare. */
function assertWellFormed(xml: string): void {
  const open: string[] = [];
  let rest = xml;
  while (rest !== "") {
    const tag = /^<(\/?)([a-z]\w*)((?: [\w:-]+="[^"<]*")*)(\/?)>/i.exec(rest);
    const text = /^(?:[^<&]|&(?:amp|lt|gt|quot);)+/.exec(rest);
    assert.ok(tag !== null || text !== null, `at ${rest.slice(0, 60)}`);
    const [whole, closes, name, , isEmpty] = tag ?? [text![0]];
    if (closes === "/") assert.equal(open.pop(), name);
    else if (name !== undefined && isEmpty !== "/") open.push(name);
    rest = rest.slice(whole.length);
  }
  assert.deepEqual(open, []);
}

describe("pictures", () => {
  test("one of all times, and one of the touches of each backend", () => {
    const names = plots.map(({ name }) => name);
    const stem = "restore--own--trace-4k-10vm";
    assert.deepEqual(names, [
      ...[`${stem}-times.svg`, `${stem}-touches-far.svg`, `${stem}-touches-file.svg`],
    ]);
  });

  test("are whole XML without a number that is none", () => {
    for (const { svg } of plots) {
      assertWellFormed(svg);
      assert.doesNotMatch(svg, /NaN|Infinity|undefined/);
      assert.match(svg, /^<svg xmlns="http:\/\/www\.w3\.org\/2000\/svg" viewBox="0 0 820 \d+"/);
      assert.match(svg, /prefers-color-scheme:dark/);
    }
    assert.throws(() => assertWellFormed("<a><b></a>"));
    assert.throws(() => assertWellFormed("<a>1 & 2</a>"));
  });

  test("name every contender and backend, with its time", () => {
    const texts = textsOf(plots[0]!.svg);
    for (const title of ["on-demand", "prefault", "mapping", "handler 1"]) {
      assert.ok(texts.includes(`title of ${title}`), title);
    }
    for (const text of ["local memory file", "image 20 ms away", "1.23 s", "99.9 µs", "77 ms"]) {
      assert.ok(texts.includes(text), `${text} is among ${texts.join(" | ")}`);
    }
    assert.ok(texts.indexOf("local memory file") < texts.indexOf("image 20 ms away"));
    assert.match(texts[0]!, /trace “my\/&lt;own&gt;\.trace”, 4 KiB pages, 10 VMs/);
  });

  test("name every curve beside it, inside of the picture", () => {
    const texts = textsOf(plots[2]!.svg);
    for (const title of ["on-demand", "mapping", "handler 1"]) {
      assert.ok(texts.includes(`title of ${title}`), title);
    }
    const places = [...plots[2]!.svg.matchAll(/<text x="([\d.]+)" y="([\d.]+)"/g)];
    assert.ok(places.every(([, x, y]) => Number(x) < 820 && Number(y) < 440));
  });
});

test("a logarithmic axis has whole decades, and nothing beyond its ends", () => {
  const axis = new LogAxis([3, 4000], 100, 400);
  assert.deepEqual(axis.ticks, [1, 10, 100, 1000, 10_000]);
  assert.deepEqual(
    [0.5, 1, 100, 10_000, 1e6].map((us) => axis.at(us)),
    [100, 100, 300, 500, 500],
  );
  assert.deepEqual(new LogAxis([10, 10], 0, 50).ticks, [10, 100]);
});

test("times have three digits and a unit; text is escaped", () => {
  const texts = [0.02, 999.4, 1500, 2_345_678].map(formatDuration);
  assert.deepEqual(texts, ["0.02 µs", "999 µs", "1.5 ms", "2.35 s"]);
  assert.equal(
    label('<&">', 1, 2),
    '<text x="1" y="2" text-anchor="start">&lt;&amp;&quot;&gt;</text>',
  );
});

function textsOf(svg: string): string[] {
  return [...svg.matchAll(/<text[^>]*>([^<]*)</g)].map((match) => match[1]!);
}
