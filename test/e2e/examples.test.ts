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
/** A part of an example: a model, say, in a folder of the example's name. */
const MAX_PART_LINES = 150;

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

/** Examples that need nothing of the kernel. */
const models: Readonly<Record<string, () => void>> = {
  "read-userfault": () => {
    assert.deepEqual(run("read-userfault"), [
      "then: a vCPU reads page 3: EFAULT, exit reason 39",
      "then: KVM reads pages 5 and 6: queue says 6, 5, ENOENT",
      "then: the VMM reads page 2 itself: 0, and nobody was asked",
      "then: another process serves page 7: EIO, EIO",
      "then: 8 ioctls of the VM for 3 pages",
      "now: another process serves pages 7, 4 and 2: 0 ioctls of the VM for 3 pages",
    ]);
  },
};

describe("example", () => {
  for (const [name, check] of Object.entries(examples)) test(name, needs, check);
  for (const [name, check] of Object.entries(models)) test(name, check);

  test("none is without a test, or longer than a screen", () => {
    const folder = join(repositoryRoot, "examples");
    const files = readdirSync(folder, { recursive: true, encoding: "utf8" });
    for (const file of files.filter((name) => name.endsWith(".ts"))) {
      const [name = ""] = file.split(/[./]/);
      assert.ok(name in examples || name in models, `${file} has no test`);
      const lineCount = readFileSync(join(folder, file), "utf8").trimEnd().split("\n").length;
      const maxLines = file.includes("/") ? MAX_PART_LINES : MAX_LINES;
      assert.ok(lineCount <= maxLines, `${file} has ${lineCount} lines`);
    }
  });
});
