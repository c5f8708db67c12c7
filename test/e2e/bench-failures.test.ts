/** `faultline bench` where nothing can be measured: handlers that are wrong, and command lines. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { runBench, tinyReferenceRun } from "../support/bench-run.ts";
import { requires } from "../support/requires.ts";

const needs = requires("userfaultfd", "cc");

describe("faultline bench fails", () => {
  const folder = mkdtempSync(join(tmpdir(), "faultline-bench-test-"));
  let handler = "";
  before(() => {
    if (needs.skip === undefined) {
      handler = compile(join(repositoryRoot, "bench", "reference", "handler.c"));
    }
  });
  after(() => rmSync(folder, { recursive: true }));

  test("wrong bytes fail the run: their numbers are worthless", needs, () => {
    const other = join(folder, "other.mem");
    writeFileSync(other, "");
    truncateSync(other, 2 * 2 ** 20);
    const command = `${handler} {socket} ${other} # {memory}`;
    const { status, error } = runBench(["random", ...tinyReferenceRun, "--handler", command]);
    assert.equal(status, 1, error);
    assert.match(error, /gave a VM 512 pages with wrong bytes/);
  });

  test("… also of VMs that replay a trace", needs, () => {
    const other = join(folder, "other.mem");
    writeFileSync(other, "");
    truncateSync(other, 8 * 2 ** 20);
    const few = ["--quick", "--backends", "file", "--contenders", "mapping"];
    const command = `${handler} {socket} ${other} # {memory}`;
    const { status, error } = runBench(["restore", ...few, "--handler", command]);
    assert.equal(status, 1, error);
    assert.match(error, /gave a VM 512 pages with wrong bytes/);
  });

  test("a handler that ends before its VM fails the run, with what it wrote", needs, () => {
    const short = join(folder, "short.mem");
    writeFileSync(short, new Uint8Array(4096));
    const command = `${handler} {socket} ${short} # {memory}`;
    const { status, error } = runBench(["random", ...tinyReferenceRun, "--handler", command]);
    assert.equal(status, 1, error);
    assert.match(error, /left a VM without an answer/);
    assert.match(error, /ended with code 1\. It wrote:\n.*handler: /s);
  });

  test("a handler that never listens fails the run", needs, () => {
    const command = "echo no {socket} {memory}; exit 7";
    const { status, error } = runBench(["random", ...tinyReferenceRun, "--handler", command]);
    assert.equal(status, 1, error);
    assert.match(error, /ended with code 7 before it listened\. It wrote:\nno /);
  });

  test("without a compiler nothing runs, and the cure is named", requires("userfaultfd"), () => {
    const { status, error } = runBench(["--quick"], { PATH: folder });
    assert.equal(status, 5, error);
    assert.match(error, /no cc or gcc on PATH: install one \(apt-get install gcc/);
  });

  test("a damaged trace is refused, with the cure", needs, () => {
    const damaged = join(folder, "damaged.trace");
    writeFileSync(damaged, "FLTRCE\r\n");
    const { status, error } = runBench(["restore", "--quick", "--traces", damaged]);
    assert.equal(status, 3, error);
    assert.match(error, /damaged\.trace holds no trace .*it has only 8 bytes.*Record it anew/);
  });

  const refusals: [args: string[], message: RegExp][] = [
    [
      ["latency"],
      /no scenario latency: give random, threads, sequential, crowd, restore, userfault, or none/,
    ],
    [["ring"], /no scenario ring, it is a part of one: give userfault ring/],
    [
      ["userfault", "--contenders", "mapping"],
      /--contenders mapping leaves nobody for userfault sync: it has reference/,
    ],
    [["--rounds", "0"], /--rounds 0 cannot be used: give a whole number from 1 to 1000/],
    [["--memory", "1.5"], /--memory 1\.5 cannot be used/],
    [["--threads", "257"], /--threads 257 cannot be used: give a whole number from 1 to 256/],
    [["--vms", "-1"], /--vms -1 cannot be used/],
    [["--contenders", "c"], /--contenders c cannot be used: give some of reference,auto,off/],
    [["--handler", "x {socket}"], /--handler x \{socket\} cannot be used/],
    [["--many-vms"], /--many-vms says how the commands of --handler work: give --handler/],
    [["crowd", "--contenders", "mapping"], /--contenders mapping leaves nobody for crowd/],
    [
      ["restore", "--contenders", "auto"],
      /--contenders auto leaves nobody for restore: it has ref/,
    ],
    [["--backends", "disk"], /--backends disk cannot be used: give some of file,cached,cold,far/],
    [["--page-sizes", "1G"], /--page-sizes 1G cannot be used: give some of 4K,2M/],
    [["--restores", "0"], /--restores 0 cannot be used: give a whole number from 1 to 1000/],
    [
      ["restore", "--traces", "/no/trace"],
      /--traces \/no\/trace cannot be used: give linux, synth/,
    ],
  ];
  for (const [args, message] of refusals) {
    test(`${args.join(" ")} is refused`, needs, () => {
      const { status, error } = runBench(args);
      assert.equal(status, 2, error);
      assert.match(error, message);
    });
  }
});
