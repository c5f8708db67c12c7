/** The import law, no cycles, no dead files: on the tree itself, and on planted violations. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { folderLaws, importViolations } from "../support/import-law.ts";
import { findCycles, findUnreached, importsOf, workerEntriesOf } from "../support/imports.ts";
import { assertNone, inFolder, typescriptFiles } from "../support/tree.ts";

const files = typescriptFiles();
const sources = inFolder(files, "src");
const scripts = inFolder(files, "scripts");
const benches = inFolder(files, "bench");
const dashboard = inFolder(files, "dashboard");
/** What is started from outside: the package, the command, the foreign VMM, the npm scripts. */
const ROOTS = ["src/index.ts", "src/cli/main.ts", "src/tinyvm/main.ts"].concat([
  "bench/main.ts",
  "bench/record-trace.ts",
  "scripts/build-dashboard.ts",
  "scripts/pictures.ts",
  "scripts/sim.ts",
  "scripts/test.ts",
  "dashboard/main.ts",
]);

describe("this repository", () => {
  test("keeps the import law", () => {
    assert.ok(sources.size > 0);
    assertNone(importViolations(files));
  });

  test("has no import cycle in src/ or dashboard/", () => {
    assertNone(findCycles(new Map([...sources, ...dashboard])));
  });

  test("has no file in src/, scripts/, bench/ or dashboard/ that nobody reaches", () => {
    const all = new Map([...sources, ...scripts, ...benches, ...dashboard]);
    assertNone(findUnreached(all, ROOTS));
  });
});

function violationsOf(file: string, text: string): string[] {
  return importViolations(new Map([[file, text]]));
}

describe("the import law", () => {
  const law = "(docs/ARCHITECTURE.md#import-law)";
  const forbidden: [file: string, text: string, sentence: string][] = [
    [
      "src/pager/planner.ts",
      'import { readFileSync } from "node:fs";',
      `src/pager/planner.ts imports node:fs: pager/ is pure ${law}`,
    ],
    [
      "src/base/units.ts",
      'import type { A } from "../linux/fd.ts";',
      `src/base/units.ts imports ../linux/fd.ts: base/ may import nothing ${law}`,
    ],
    [
      "src/linux/memory.ts",
      'import koffi from "koffi";',
      `src/linux/memory.ts imports koffi: only src/linux/sys.ts may ${law}`,
    ],
    [
      "src/pager/planner.ts",
      'import { a } from "../snapshot/regions.ts";',
      "src/pager/planner.ts imports ../snapshot/regions.ts: pager/ may import types of " +
        `snapshot/ only ${law}`,
    ],
    [
      "src/source/cache.ts",
      'import { a } from "../linux/socket.ts";',
      "src/source/cache.ts imports ../linux/socket.ts: source/ may import only snapshot, base, " +
        `linux/memory, linux/file, linux/fd, linux/clock, linux/zstd ${law}`,
    ],
    [
      "src/tinyvm/vmm.ts",
      'const a = await import("../protocol/handshake.ts");',
      "src/tinyvm/vmm.ts imports ../protocol/handshake.ts: tinyvm/ may import only linux, uffd, " +
        `base ${law}`,
    ],
    [
      "src/index.ts",
      'export { a } from "./cli/main.ts";',
      `src/index.ts imports ./cli/main.ts: nobody imports cli/ ${law}`,
    ],
    [
      "src/supervisor/supervisor.ts",
      'import { a } from "../engine/engine.ts";',
      "src/supervisor/supervisor.ts imports ../engine/engine.ts: supervisor/ may import only " +
        `linux, base ${law}`,
    ],
    [
      "src/engine/worker.ts",
      'import { a } from "../../test/support/stage.ts";',
      `src/engine/worker.ts imports ../../test/support/stage.ts: src/ stands by itself ${law}`,
    ],
    [
      "src/pager/pacing.ts",
      "export const now = (): number => performance.now();",
      `src/pager/pacing.ts uses performance: pager/ is pure ${law}`,
    ],
    [
      "dashboard/main.ts",
      'import type { A } from "../src/daemon/host.ts";',
      "dashboard/main.ts imports ../src/daemon/host.ts: dashboard/ may import only base, " +
        `daemon/dashboard/protocol ${law}`,
    ],
    [
      "dashboard/plots.ts",
      'import { readFileSync } from "node:fs";',
      `dashboard/plots.ts imports node:fs: dashboard/ runs in browsers ${law}`,
    ],
    [
      "src/daemon/dashboard/page.ts",
      'import { a } from "../../../dashboard/cells.ts";',
      "src/daemon/dashboard/page.ts imports ../../../dashboard/cells.ts: src/ stands by itself " +
        law,
    ],
    [
      "src/engine/worker.ts",
      'import uPlot from "uplot";',
      `src/engine/worker.ts imports uplot: only dashboard/plots.ts may ${law}`,
    ],
    [
      "src/misc/helpers.ts",
      "",
      `src/misc/helpers.ts lies in a folder that the import law does not know ${law}`,
    ],
  ];
  for (const [file, text, sentence] of forbidden) {
    test(`says: ${sentence.replace(` ${law}`, "")}`, () => {
      assert.deepEqual(violationsOf(file, text), [sentence]);
    });
  }

  const allowed: [file: string, text: string][] = [
    ["src/pager/planner.ts", 'import type { A } from "../snapshot/regions.ts";'],
    ["src/pager/planner.ts", "// Date.now() would be wrong here\nconst text = 'Math.random';"],
    ["src/linux/sys.ts", 'import koffi from "koffi";'],
    ["src/source/files.ts", 'import { a } from "../linux/memory.ts";'],
    ["dashboard/plots.ts", 'import uPlot from "uplot";'],
    ["dashboard/cells.ts", 'import { a } from "../src/daemon/dashboard/protocol.ts";'],
    ["test/unit/dashboard-cells.test.ts", 'import { a } from "../../dashboard/cells.ts";'],
    ["src/index.ts", 'export { a } from "./engine/engine.ts";'],
    ["src/cli/main.ts", 'import { a } from "../tinyvm/vmm.ts";'],
    ["test/unit/doctor.test.ts", 'import { a } from "../../src/cli/doctor.ts";'],
  ];
  for (const [file, text] of allowed) {
    test(`lets ${file} have ${text.split("\n")[0]}`, () => {
      assert.deepEqual(violationsOf(file, text), []);
    });
  }

  test("knows every folder of src/", () => {
    const folders = [...sources.keys()].map((file) => file.split("/")[1]!);
    const unknown = folders.filter((name) => !name.endsWith(".ts") && !(name in folderLaws));
    assert.deepEqual(unknown, []);
  });
});

describe("importsOf", () => {
  test("finds every way to import, and no import in a string or comment", () => {
    const text = [
      'import koffi from "koffi";',
      "import {",
      "  a,",
      "  type B,",
      '} from "./a.ts";',
      'import type { C } from "./c.ts";',
      'import "./effect.ts";',
      'export * from "./d.ts";',
      'export type { E } from "./e.ts";',
      '// import { no } from "./comment.ts";',
      'const text = `\nimport { no } from "./string.ts";\n`;',
      "export const f = async () => await import('./f.ts');",
      'export const from = "not this";',
    ].join("\n");
    assert.deepEqual(
      importsOf(text).map(({ specifier, isTypeOnly, line }) => [specifier, isTypeOnly, line]),
      [
        ["koffi", false, 1],
        ["./a.ts", false, 2],
        ["./c.ts", true, 6],
        ["./effect.ts", false, 7],
        ["./d.ts", false, 8],
        ["./e.ts", true, 9],
        ["./f.ts", false, 14],
      ],
    );
  });

  test("worker entries are named by their sources", () => {
    const text = 'new Worker(new URL("./worker.js", import.meta.url));';
    assert.deepEqual(workerEntriesOf(text), ["./worker.ts"]);
  });
});

describe("cycles and dead files", () => {
  const tree = new Map([
    ["src/index.ts", 'export { a } from "./x/a.ts";'],
    ["src/x/a.ts", 'import { b } from "./b.ts";\nnew URL("./worker.js", import.meta.url);'],
    ["src/x/b.ts", 'import { c } from "../y/c.ts";'],
    ["src/y/c.ts", 'import { a } from "../x/a.ts";'],
    ["src/x/worker.ts", 'import type { D } from "./d.ts";'],
    ["src/x/d.ts", 'import type { W } from "./worker.ts";'],
    ["src/x/dead.ts", 'import { a } from "./a.ts";'],
  ]);

  test("a cycle over three files is found once; types make none", () => {
    assert.deepEqual(findCycles(tree), ["src/x/a.ts → src/x/b.ts → src/y/c.ts → src/x/a.ts"]);
  });

  test("a file that imports others, but that nobody imports, is dead", () => {
    assert.deepEqual(findUnreached(tree, ["src/index.ts"]), ["src/x/dead.ts"]);
  });
});
