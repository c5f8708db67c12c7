/** Every example runs, and prints what its header promises. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { builtRoot, repositoryRoot } from "../../src/kit/paths.ts";
import { requires } from "../support/requires.ts";

const needs = requires("userfaultfd");
const TIMEOUT_MS = 20_000;
const MAX_LINES = 60;

/** Runs an example and returns its lines. */
function run(name: string, ...options: string[]): string[] {
  const path = join(builtRoot, "examples", `${name}.js`);
  const child = spawnSync(process.execPath, [path, ...options], {
    encoding: "utf8",
    timeout: TIMEOUT_MS,
  });
  assert.equal(child.stderr, "");
  assert.equal(child.status, 0, `${child.signal ?? child.status}: ${child.stdout}`);
  return child.stdout.trimEnd().split("\n");
}

const examples: Readonly<Record<string, () => void>> = {
  /** A letter per page in the order of the faults, four reads a page, as on the man page. */
  "userfaultfd-manpage": () => {
    const lines = run("userfaultfd-manpage", "3");
    const faults = lines.filter((line) => line.startsWith("fault"));
    const reads = lines.filter((line) => line.startsWith("read"));
    assert.deepEqual(faults, ["fault at page 0", "fault at page 1", "fault at page 2"]);
    assert.deepEqual(reads.map((line) => line.split(" ")[1]).join(""), "AAAABBBBCCCC");
    assert.equal(reads[4], "read B at offset 4111");
  },

  "userfaultfd-events": () => {
    const lines = run("userfaultfd-events");
    assert.match(lines[0]!, /^offered: wake copy zeropage/);
    assert.deepEqual(lines.slice(1), [
      "the thread read a sum of 2016",
      "64 faults served; the event loop was free: true",
    ]);
  },

  "write-protect": () => {
    assert.deepEqual(run("write-protect"), [
      "page 3 was written: 1 before, 21 now",
      "page 7 was written: 1 before, 11 now",
      "page 11 was written: 1 before, 11 now",
      "13 pages were only read, or not touched",
    ]);
  },
};

describe("example", () => {
  for (const [name, check] of Object.entries(examples)) test(name, needs, check);

  test("none is without a test, or longer than a screen", () => {
    const folder = join(repositoryRoot, "examples");
    for (const file of readdirSync(folder).filter((name) => name.endsWith(".ts"))) {
      assert.ok(file.replace(/\.ts$/, "") in examples, `${file} has no test`);
      const lineCount = readFileSync(join(folder, file), "utf8").trimEnd().split("\n").length;
      assert.ok(lineCount <= MAX_LINES, `${file} has ${lineCount} lines`);
    }
  });
});
