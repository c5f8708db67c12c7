/** `npm test` itself: its last line, its exit code, and what it does with files that misbehave. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import { builtRoot } from "../../src/kit/paths.ts";

const folder = mkdtempSync(join(tmpdir(), "faultline-test-script-"));
after(() => rmSync(folder, { recursive: true }));

interface Run {
  readonly output: string;
  readonly lastLine: string;
  readonly exitCode: number | null;
}

/** Runs the script on files with these contents. */
function runTests(
  contents: readonly string[],
  options: readonly string[] = [],
  environment: NodeJS.ProcessEnv = {},
): Run {
  const files = contents.map((content, index) => {
    const path = join(folder, `${index}.test.mjs`);
    writeFileSync(path, `import { test } from "node:test";\n${content}\n`);
    return path;
  });
  const env: NodeJS.ProcessEnv = { ...process.env, FAULTLINE_REQUIRE_ALL: "0", ...environment };
  // The runner refuses to run inside of a test of its own.
  delete env.NODE_TEST_CONTEXT;
  const script = join(builtRoot, "scripts", "test.js");
  const child = spawnSync(process.execPath, [script, ...files, ...options], {
    env,
    encoding: "utf8",
  });
  const output = child.stdout + child.stderr;
  return { output, lastLine: child.stdout.trimEnd().split("\n").at(-1)!, exitCode: child.status };
}

const PASSES = 'test("good", () => {});';
const FAILS = 'test("bad", () => { throw new Error("on purpose"); });';

describe("npm test", () => {
  test("ends in the counts, with exit code 0 where all is well", () => {
    const run = runTests([PASSES, 'test("odd", { skip: "no moon" }, () => {});']);
    assert.deepEqual([run.lastLine, run.exitCode], ["1 passed, 0 failed, 1 skipped", 0]);
    assert.match(run.output, /Skipped:\n {2}no moon\n {4}.*1\.test\.mjs: odd/);
  });

  test("shows a failure in full, with exit code 1", () => {
    const run = runTests([PASSES, FAILS]);
    assert.deepEqual([run.lastLine, run.exitCode], ["1 passed, 1 failed, 0 skipped", 1]);
    assert.match(run.output, /bad\n.*\n {4}Error: on purpose\n {8}at .*1\.test\.mjs:2/);
  });

  test("fails where no test ran, or none but skipped ones", () => {
    const run = runTests(['test("odd", { skip: "no moon" }, () => {});']);
    assert.deepEqual([run.lastLine, run.exitCode], ["0 passed, 0 failed, 1 skipped", 1]);
    const nothing = runTests([], ["no-such-folder"]);
    assert.deepEqual([nothing.lastLine, nothing.exitCode], ["0 passed, 0 failed, 0 skipped", 1]);
  });

  test("counts a file that holds no test, dies, or cannot be loaded as failed", () => {
    const dies = `${PASSES}\ntest("dies", () => process.kill(process.pid, "SIGKILL"));`;
    const run = runTests(["", dies, 'import "./no-such-file.mjs";']);
    assert.equal(run.exitCode, 1);
    assert.match(run.lastLine, /^[01] passed, 3 failed, 0 skipped$/);
    assert.match(run.output, /killed by SIGKILL/);
  });

  test("ends a file that wedges, and goes on with the others", () => {
    const run = runTests(
      [`${PASSES}\ntest("wedge", () => { for (;;); });`, PASSES],
      ["--timeout", "2"],
    );
    assert.equal(run.exitCode, 1);
    assert.match(run.lastLine, /^[12] passed, 1 failed, 0 skipped$/);
    assert.match(run.output, /It was ended after 2 s/);
  });
});

describe("a capability that is missing", () => {
  const requiresUrl = new URL("../support/requires.js", import.meta.url).href;
  const needy = `import { requires } from "${requiresUrl}";
    test("compiles", requires("cc"), () => {});`;
  const withoutCompiler = { PATH: folder };

  test("skips the test, and the reason says how to get it", () => {
    const run = runTests([PASSES, needy], [], withoutCompiler);
    assert.deepEqual([run.lastLine, run.exitCode], ["1 passed, 0 failed, 1 skipped", 0]);
    assert.match(run.output, /needs cc: no cc or gcc on PATH: apt-get install gcc/);
  });

  test("fails the file under FAULTLINE_REQUIRE_ALL=1, and is named", () => {
    const environment = { ...withoutCompiler, FAULTLINE_REQUIRE_ALL: "1" };
    const run = runTests([PASSES, needy], [], environment);
    assert.deepEqual([run.lastLine, run.exitCode], ["1 passed, 1 failed, 0 skipped", 1]);
    assert.match(run.output, /FAULTLINE_REQUIRE_ALL=1, but needs cc: no cc or gcc/);
  });
});
