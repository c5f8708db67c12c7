/** The splitter under the tidy tests: what is code, what is comment, what is text in strings. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { lineAt, parseSource } from "../support/source-text.ts";

/** What is left of a source as code, without the blanks. */
const codeOf = (text: string): string => parseSource(text).code.replace(/ +/g, " ").trim();
const commentsOf = (text: string): string => parseSource(text).comments.trim();

describe("parseSource", () => {
  const cases: [what: string, text: string, code: string][] = [
    ["line comments", "a(); // b()", "a();"],
    ["block comments", "a(/* b */ c);", "a( c);"],
    ["strings", "a(\"b\" + 'c');", "a(\" \" + ' ');"],
    ["escaped quotes", 'a("b\\"c", d);', 'a(" ", d);'],
    ["comment marks in strings", 'a("// b", "/* c");', 'a(" ", " ");'],
    ["templates", "a(`b §{c + `d §{e}`} f`);", "a(` §{c + ` §{e}`} `);"],
    [
      "braces inside of templates",
      "a(`§{b.map((c) => { return {}; })} } {`);",
      "a(`§{b.map((c) => { return {}; })} `);",
    ],
    ["regular expressions", 'a(/b[/"]c\\/d/g, e);', "a(/ [ ] /g, e);"],
    ["a character class at the end", "a(/[b]/); c();", "a(/[ ]/); c();"],
    ["divisions", "a = b / c / d;", "a = b / c / d;"],
    ["a division after an assertion", "a = b! / c; // d / e", "a = b! / c;"],
    ["a division after an index", "a = b[0] / c(1) / 2;", "a = b[0] / c(1) / 2;"],
  ];
  for (const [what, text, code] of cases) {
    // The linter takes a dollar with a brace in a string for a forgotten template.
    const [source, expected] = [text.replaceAll("§", "$"), code.replaceAll("§", "$")];
    test(`${what}: ${source}`, () => assert.equal(codeOf(source), expected));
  }

  test("keeps every position and line in both halves", () => {
    const text = 'a(); // one\n/* two\n three */ b("x\\n");\n';
    const { code, comments } = parseSource(text);
    assert.deepEqual([code.length, comments.length], [text.length, text.length]);
    assert.equal(code.indexOf("b("), text.indexOf("b("));
    assert.equal(commentsOf(text), "// one\n/* two\n three */");
    assert.equal(lineAt(text, text.indexOf("b(")), 3);
  });

  test("ends with the text, also inside of something unfinished", () => {
    for (const text of ['a("b', "a(`b §{c", "a(/b", "/* a", "// a"]) {
      assert.equal(parseSource(text.replace("§", "$")).code.length, text.length);
    }
  });
});
