/** What the kit says of the handlers of bench/reference: the careful one, and the naive one. */
import assert from "node:assert/strict";
import { join } from "node:path";
import { before, describe, test } from "node:test";
import type { Result } from "../../src/conformance/runner.ts";
import { scenarios } from "../../src/conformance/scenarios/all.ts";
import { compile } from "../../src/kit/compile.ts";
import { HandlerCommand } from "../../src/kit/handler-command.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { requires } from "../support/requires.ts";
import { failuresOf, IMPATIENCE_MS, PATIENCE_MS, play } from "./kit.ts";

const needs = requires("userfaultfd", "cc", "hugepages");

function compiled(name: string): HandlerCommand {
  const source = join(repositoryRoot, "bench/reference", `${name}.c`);
  return new HandlerCommand(`'${compile(source, ["-pthread"])}' {socket} {memory}`);
}

/** One VM per process is all that they serve. */
const asked = scenarios.filter(({ needsManyVms }) => needsManyVms !== true).map(({ name }) => name);

describe("the reference handler", needs, () => {
  test("passes every scenario for one VM", async () => {
    const options = { deadlineMs: PATIENCE_MS, servesManyVms: false };
    const results = await play([], compiled("handler"), options);
    assert.deepEqual(failuresOf(results), []);
    const passed = results.filter(({ verdict }) => verdict === "pass");
    assert.deepEqual(
      passed.map(({ scenario }) => scenario.name),
      asked,
    );
  });
});

/** It ignores REMOVE, what UFFDIO_COPY says, and the end of the VM. */
const NAIVE_FAILS = [
  "remove-populated",
  "remove-missing",
  "remove-mixed",
  "remove-again",
  "remove-all",
  "remove-scattered",
  "remove-across-regions",
  "remove-unread",
  "remove-many-unread",
  "remove-fault-first",
  "remove-flood",
  "remove-race",
  "remove-balloon",
  "neighbours-present",
  "hotplug-replug",
  "huge-remove",
  "vm-killed-mid-fault",
  "vm-killed-mid-remove",
  "vm-killed-at-work",
  "vm-killed-socket-closed",
  "vm-exits",
  "memory-truncated",
];

describe("the naive handler", needs, () => {
  let naive: HandlerCommand;
  before(() => {
    naive = compiled("naive");
  });

  test("fails what is not in its loop", async () => {
    const options = { deadlineMs: IMPATIENCE_MS, servesManyVms: false };
    const results = await play(NAIVE_FAILS, naive, options);
    const passed = results.filter(({ verdict }) => verdict !== "fail");
    assert.deepEqual(passed.map(nameOf), []);
  });

  test("passes everything else", async () => {
    const others = asked.filter((name) => !NAIVE_FAILS.includes(name));
    const options = { deadlineMs: PATIENCE_MS, servesManyVms: false };
    assert.deepEqual(failuresOf(await play(others, naive, options)), []);
  });
});

const nameOf = ({ scenario }: Result): string => scenario.name;
