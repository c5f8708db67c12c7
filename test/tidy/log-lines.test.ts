/** Every line that the handler can log stands in docs/OPERATING.md, with what to do. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { logCallsIn, untoldLines } from "../support/log-lines.ts";
import { assertNone, readRepositoryFile, repositoryFiles } from "../support/tree.ts";

describe("the log", () => {
  const sources = repositoryFiles().filter((file) => /^src\/(daemon|supervisor)\//.test(file));
  const calls = sources.flatMap((file) => logCallsIn(readRepositoryFile(file)));

  test("is told of in docs/OPERATING.md, line by line", () => {
    assert.ok(calls.length > 40, `only ${calls.length} lines were found`);
    assertNone(untoldLines(readRepositoryFile("docs/OPERATING.md"), calls));
  });

  test("a line that nobody tells of is found, however it is written", () => {
    const planted = [
      'log.info({ pid: f(1) }, "Attached a VM");',
      'this.#log(is ? "info" : "error", "A pager ended", {});',
      'log.warn(fields, is ? "Took it over" : "Left it there");',
    ].join("\n");
    const found = logCallsIn(planted);
    assert.deepEqual(
      found.map(({ message }) => message),
      ["Attached a VM", "A pager ended", "Took it over", "Left it there"],
    );
    const page = "| info | `Attached a …`, `A pager ended` | |\n`Took it over`";
    assert.deepEqual(untoldLines(page, found), [
      '"Took it over" is not told of',
      '"Left it there" is not told of',
    ]);
  });
});
