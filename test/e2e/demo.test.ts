/** `faultline demo` proves what it shows: the guest's checksum after a lazy restore is the same. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { builtRoot } from "../../src/kit/paths.ts";
import { TestFolder } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";

const TIMEOUT_MS = 60_000;

function demo(...flags: readonly string[]) {
  using folder = new TestFolder();
  const argv = [join(builtRoot, "src", "cli", "main.js"), "demo", "--memory-mib", "16", ...flags];
  const environment = { ...process.env, TMPDIR: folder.path };
  const options = { encoding: "utf8", timeout: TIMEOUT_MS, env: environment } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, argv, options);
  assert.equal(status, 0, stderr);
  assert.deepEqual(readdirSync(folder.path), [], "it left something behind");
  return stdout;
}

describe("faultline demo", requires("userfaultfd"), () => {
  for (const flags of [
    [],
    ["--image"],
    ["--guest", "process"],
    ["--guest", "process", "--image"],
  ]) {
    test(`${flags.join(" ") || "without options"}: every byte is right`, () => {
      const result = JSON.parse(demo("--json", ...flags)) as Record<string, unknown>;
      assert.equal(result.isProven, true);
      assert.ok(Number(result.faults) > 0);
      assert.ok(Number(result.neverLoadedBytes) > 0);
    });
  }

  test("--image says what became of the memory file", () => {
    const lines = demo("--image", "--guest", "process");
    assert.match(lines, /Packed as an image in \d+ ms, and its memory file removed/);
    assert.match(lines, /the same: every byte it read was right/);
  });
});
