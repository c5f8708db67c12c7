/** `faultline serve` passes the whole kit, as `faultline conformance` plays it. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { test } from "node:test";
import { scenarios } from "../../src/conformance/scenarios/all.ts";
import { userfaultScenarios } from "../../src/conformance/userfault/scenarios.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { TestFolder } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";

const main = join(builtRoot, "src/cli/main.js");

const serve = `'${process.execPath}' '${main}' serve --memory {memory} --socket {socket}`;

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

const needs = requires("userfaultfd", "hugepages");

function conformance(...args: readonly string[]): Report & { readonly status: number | null } {
  const argv = [main, "conformance", "--json", ...args];
  const child = spawnSync(process.execPath, argv, { encoding: "utf8" });
  assert.equal(child.stderr, "");
  return { ...(JSON.parse(child.stdout) as Report), status: child.status };
}

function assertAllPassed(
  { results, summary, status }: ReturnType<typeof conformance>,
  played: readonly { readonly name: string }[] = scenarios,
): void {
  assert.deepEqual(
    results.filter(({ verdict }) => verdict !== "pass"),
    [],
  );
  assert.deepEqual(
    results.map(({ name }) => name),
    played.map(({ name }) => name),
  );
  assert.equal(summary, `${played.length} passed, 0 failed, 0 skipped`);
  assert.equal(status, 0);
}

test("faultline serve passes every scenario", needs, () => {
  const report = conformance();
  assert.match(report.handler, /main\.js serve --memory \{memory\} --socket \{socket\}/);
  assertAllPassed(report);
});

test("and so it does when it tracks what VMs write", needs, () => {
  using folder = new TestFolder();
  const handler = `${serve} --track-dirty ${folder.path}`;
  assertAllPassed(conformance("--handler", handler, "--many-vms"));
});

test("and of VMs with KVM Userfault", requires("userfaultfd", "cc"), () => {
  for (const how of ["", "--prefault concurrent", "--prefault all"]) {
    const handler = `${serve} --async-faults ${how}`;
    assertAllPassed(conformance("--handler", handler, "kvm-userfault"), userfaultScenarios);
  }
});
