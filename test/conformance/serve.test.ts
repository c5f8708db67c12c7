/** `faultline serve` passes the whole kit, as `faultline conformance` plays it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { scenarios } from "../../src/conformance/scenarios/all.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { requires } from "../support/requires.ts";

interface Report {
  readonly handler: string;
  readonly results: readonly {
    readonly name: string;
    readonly verdict: string;
    readonly message: string;
    readonly handlerMessages: string;
  }[];
  readonly summary: string;
}

test("faultline serve passes every scenario", requires("userfaultfd", "hugepages"), () => {
  const main = join(builtRoot, "src/cli/main.js");
  const child = spawnSync(process.execPath, [main, "conformance", "--json"], { encoding: "utf8" });
  assert.equal(child.stderr, "");
  const { handler, results, summary } = JSON.parse(child.stdout) as Report;
  assert.match(handler, /main\.js serve --memory \{memory\} --socket \{socket\}/);
  assert.deepEqual(
    results.filter(({ verdict }) => verdict !== "pass"),
    [],
  );
  assert.deepEqual(
    results.map(({ name }) => name),
    scenarios.map(({ name }) => name),
  );
  assert.equal(summary, `${scenarios.length} passed, 0 failed, 0 skipped`);
  assert.equal(child.status, 0);
});
