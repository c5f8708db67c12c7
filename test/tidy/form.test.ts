/** Sizes and banned words: in the tree itself, and in planted violations. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { parseSource } from "../support/source-text.ts";
import {
  countCodeLines,
  functionSpans,
  sizeViolations,
  wordViolations,
} from "../support/tidy-scan.ts";
import { assertNone, typescriptFiles } from "../support/tree.ts";

const files = typescriptFiles();

describe("this repository", () => {
  test("keeps files within 400 lines, functions within 70, lines within 100 columns", () => {
    assertNone([...files].flatMap(([file, text]) => sizeViolations(file, text)));
  });

  test("has none of the banned words", () => {
    assertNone([...files].flatMap(([file, text]) => wordViolations(file, text)));
  });

  test("is understood by the scanner: every bracket of the code has its partner", () => {
    for (const [file, text] of files) {
      assert.equal(unmatchedBracket(parseSource(text).code), null, file);
    }
  });
});

function unmatchedBracket(code: string): string | null {
  const open: string[] = [];
  for (const here of code) {
    if ("([{".includes(here)) open.push(here);
    const kind = ")]}".indexOf(here);
    if (kind !== -1 && open.pop() !== "([{"[kind]) return here;
  }
  return open.pop() ?? null;
}

const body = (lineCount: number): string => "  work();\n".repeat(lineCount);

describe("sizes", () => {
  test("a function of 71 lines is too long, one of 70 is not", () => {
    assert.deepEqual(sizeViolations("src/a.ts", `function long() {\n${body(69)}}\n`), [
      "src/a.ts:1 has 71 lines in function long(): at most 70",
    ]);
    assert.deepEqual(sizeViolations("src/a.ts", `function short() {\n${body(68)}}\n`), []);
  });

  test("a file of 401 lines of code is too long, whatever its comments; ABI tables are not", () => {
    const text = `${"// a comment\n\n".repeat(100)}${"work();\n".repeat(401)}`;
    assert.deepEqual(sizeViolations("src/a.ts", text), [
      "src/a.ts has 401 lines of code: at most 400",
    ]);
    assert.deepEqual(sizeViolations("src/linux/abi-kvm.ts", text), []);
    assert.equal(countCodeLines("/**\n * comment\n */\n\nwork(); // more\n"), 1);
  });

  test("a line of 101 columns is too wide, counted in characters", () => {
    assert.deepEqual(sizeViolations("src/a.ts", `// ${"é".repeat(98)}\n`), [
      "src/a.ts:1 has 101 columns: at most 100",
    ]);
    assert.deepEqual(sizeViolations("src/a.ts", `// ${"🙂".repeat(97)}\n`), []);
  });
});

describe("the scanner finds", () => {
  const heads = (text: string): string[] => functionSpans(text).map(({ head }) => head);
  const functions: [what: string, text: string, found: string[]][] = [
    ["a function", "export async function* a(b: C): D {\n}", ["export async function* a(b: C): D"]],
    [
      "one whose return type is an object",
      "function a(): {\n  b: C;\n} {\n  work();\n}",
      ["function a(): {"],
    ],
    [
      "one whose return type has arguments",
      "function a(): Map<B, { c: D }> {\n}",
      ["function a(): Map<B, { c: D }>"],
    ],
    ["an arrow function", "const a = (b: C): D => {\n};", ["const a = (b: C): D =>"]],
    [
      "methods, accessors and constructors",
      "class A {\n  constructor() {}\n  get b() {}\n  #c(): D {}\n  [Symbol.dispose](): E {}\n}",
      ["constructor()", "get b()", "#c(): D", "[Symbol.dispose](): E"],
    ],
    ["a callback among arguments", "run(1, async () => {\n});", ["async () =>"]],
    ["a method of an object", "const a = {\n  b() {\n  },\n};", ["b()"]],
  ];
  for (const [what, text, found] of functions) {
    test(what, () => assert.deepEqual(heads(text), found));
  }

  const others = [
    "if (a) {\n} else if (b) {\n} else {\n}",
    "for (const a of b()) {\n}",
    "while (a()) {\n}",
    "switch (a()) {\n  case b(): {\n  }\n}",
    "try {\n} catch (error) {\n} finally {\n}",
    "class A extends B() {\n}",
    "interface A {\n  b(): C;\n}",
    "const a = { b: c() };",
    "return { a: b() };",
    "type A = () => { b: C };",
    "run({ a: b() });",
    'const a = "function b() {";\n// function c() {',
  ];
  for (const text of others) {
    test(`no function in ${text.replaceAll("\n", " ")}`, () => assert.deepEqual(heads(text), []));
  }

  test("the lines of a function from its head to its brace", () => {
    const text = "const x = 1;\n\nfunction a(\n  b: C,\n): D {\n  work();\n}\n";
    assert.deepEqual(functionSpans(text), [{ head: "function a(", line: 3, lineCount: 5 }]);
  });

  test("no length in the suites of tests, but in the tests themselves", () => {
    const text = `describe("a", () => {\n  test("b", () => {\n${body(80)}  });\n});\n`;
    assert.deepEqual(heads(text), ["() =>"]);
  });
});

describe("banned words", () => {
  // As in the scanner: put together, or this file would be found too.
  const later = ["TO", "DO"].join("");
  const planted: [text: string, what: string][] = [
    ["const a = b as any;", "a cast to any"],
    ["function a(b: any) {}", "the type any"],
    ["let a: Map<string, any>;", "the type any"],
    [`// @ts-${"ignore"}\nwork();`, "a switched-off type check"],
    ['test.only("a", () => {});', "a test that keeps others from running"],
    [`work(); // ${later}: more`, "a note to do it later"],
    ["export default work;", "a default export"],
    ["export { work as default };", "a default export"],
    ["console.log(1);", "console.log"],
  ];
  for (const [text, what] of planted) {
    test(`finds ${what} in ${text.split("\n")[0]!.replace(later, "…")}`, () => {
      assert.deepEqual(wordViolations("src/a.ts", text), [`src/a.ts:1 has ${what}`]);
    });
  }

  test("lets programs print, and words stand where they mean nothing", () => {
    assert.deepEqual(wordViolations("src/cli/main.ts", "console.log(1);"), []);
    assert.deepEqual(wordViolations("src/a.ts", "// any of them, as any reader sees\n"), []);
    assert.deepEqual(wordViolations("src/a.ts", 'const a = "export default";'), []);
    assert.deepEqual(wordViolations("src/a.ts", "const many = company;"), []);
  });
});
