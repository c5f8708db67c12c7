/**
 * KVM Userfault: the model of the VMM and the kernel, proven against a plain C handler and the
 * mistakes that it makes when told to; and our own layers, proven against the model.
 */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { userfaultScenarios } from "../../src/conformance/userfault/scenarios.ts";
import { compile } from "../../src/kit/compile.ts";
import { HandlerCommand, shellWord } from "../../src/kit/handler-command.ts";
import { builtRoot, repositoryRoot } from "../../src/kit/paths.ts";
import { requires } from "../support/requires.ts";
import { failuresOf, IMPATIENCE_MS, PATIENCE_MS, play } from "./kit.ts";

const needs = requires("userfaultfd", "cc");
const names = userfaultScenarios.map(({ name }) => name);

function reference(mistake = ""): HandlerCommand {
  const program = compile(join(repositoryRoot, "bench/reference/userfault-handler.c"));
  return new HandlerCommand(`${shellWord(program)} {socket} {memory} ${mistake}`);
}

/** What benchmarks compare with: it is worth that only if it is right. */
function benchReference(): HandlerCommand {
  const program = compile(join(repositoryRoot, "bench/reference/userfault-fast-handler.c"));
  return new HandlerCommand(`${shellWord(program)} {socket} {memory}`);
}

function prefaultingBenchReference(): HandlerCommand {
  return new HandlerCommand(`${benchReference().template} --prefault`);
}

function ours(): HandlerCommand {
  const program = join(builtRoot, "test/support/userfault-handler.js");
  return new HandlerCommand(
    `${shellWord(process.execPath)} ${shellWord(program)} {socket} {memory}`,
  );
}

describe("a VM with KVM Userfault is served right", needs, () => {
  for (const [who, command] of [
    ["the C handler", reference],
    ["the C handler of the benchmarks", benchReference],
    ["the same, installing all ahead", prefaultingBenchReference],
    ["a handler of our own layers", ours],
  ] as const) {
    test(`by ${who}`, async () => {
      const options = { deadlineMs: PATIENCE_MS, servesManyVms: false };
      const results = await play(["kvm-userfault"], command(), options);
      assert.deepEqual(failuresOf(results), []);
      assert.deepEqual(
        results.map(({ scenario }) => scenario.name),
        names,
      );
    });
  }
});

test("faultline conformance asks for it only by name", needs, () => {
  const main = join(builtRoot, "src/cli/main.js");
  const run = (...args: readonly string[]) =>
    spawnSync(process.execPath, [main, "conformance", ...args], { encoding: "utf8" });
  assert.doesNotMatch(run("--list").stdout, /userfault-/);
  const { stdout } = run("--list", "kvm-userfault");
  assert.deepEqual(
    [...stdout.matchAll(/^ {2}(userfault-\S+)/gm)].map((match) => match[1]),
    names,
  );
  // Without a compiler the whole run is refused, not one scenario after the other.
  const environment = { ...process.env, PATH: "/nowhere" };
  const args = ["conformance", "--handler", reference().template, "userfault-sync"];
  const child = spawnSync(process.execPath, [main, ...args], {
    encoding: "utf8",
    env: environment,
  });
  assert.equal(child.status, ExitCode.noAccess);
  assert.match(child.stderr, /The model of KVM Userfault .* no cc or gcc on PATH/);
});

/** [mistake, the scenarios that find it, what they say]. */
const planted: readonly (readonly [string, readonly string[], RegExp])[] = [
  ["clear-first", ["sync", "apf", "ring"], /wrong bytes as soon as its bit is clear/],
  ["keep-bit", ["sync", "ring", "apf"], /The bit of page \d+ is still set with the answer/],
  ["no-duplicate", ["duplicate"], /No answer within .* asked for by sync/],
  ["no-wake", ["race"], /No answer within .* page of its own mapping/],
  ["no-recheck", ["ring", "mixed"], /No answer within .* asked for by ring/],
  ["no-kick", ["ring"], /No answer within .* asked for by ring/],
  ["wrong-vcpu", ["sync"], /An answer by sync for vCPU 0 .* has not asked for it/],
  ["drop-glued", ["glued"], /No answer within .* page 0, asked for by sync/],
  ["skip-apf", ["apf", "burst"], /No answer within .* asked for by apf/],
  ["no-minor", ["host"], /No answer within .* page of its own mapping/],
  ["whole-frames", ["split"], /The handler has closed the stream|No answer within/],
  ["await-apf", ["no-apf"], /No answer within .* asked for by sync/],
  ["ignore-end", ["vm-killed"], /still holds 1 userfaultfd/],
  ["wide", ["sync"], /A reply that is not in the canonical form/],
];

describe("a mistake in a handler of VMs with KVM Userfault", { ...needs, concurrency: 3 }, () => {
  for (const [mistake, by, saying] of planted) {
    test(`${mistake}: found by ${by.join(", ")}`, async () => {
      const isHang = /No answer|still holds/.test(saying.source);
      const results = await play(
        by.map((name) => `userfault-${name}`),
        reference(mistake),
        { deadlineMs: isHang ? IMPATIENCE_MS : PATIENCE_MS, servesManyVms: false },
      );
      assert.equal(results.length, by.length);
      for (const { scenario, verdict, message } of results) {
        assert.equal(verdict, "fail", scenario.name);
        assert.match(message, saying, scenario.name);
      }
    });
  }
});

test("every scenario of KVM Userfault finds some mistake", () => {
  const proven = new Set(planted.flatMap(([, by]) => by.map((name) => `userfault-${name}`)));
  assert.deepEqual(
    names.filter((name) => !proven.has(name)),
    [],
  );
});
