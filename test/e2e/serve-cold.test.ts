/**
 * Memory files that are not in the page cache: fault workers do not wait for the disk, they have
 * the blocks read elsewhere, and what the VMs get is right all the same.
 */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, writeFileSync } from "node:fs";
import { after, before, describe, type TestContext, test } from "node:test";
import { cachedOf, cool } from "../support/cold-files.ts";
import {
  overlay,
  Random,
  randomRuns,
  TestFolder,
  writeFull,
  writeSparse,
} from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm } from "../support/vmm-process.ts";

const PAGE_COUNT = 4096;

describe("cold memory files", requires("userfaultfd", "cc"), () => {
  const folder = new TestFolder();
  const base = folder.at("base");
  const diff = folder.at("diff");
  const expected = folder.at("expected");
  const layered = folder.at("layered");
  const socket = folder.at("socket");

  before(() => {
    const random = new Random(5);
    const content = writeFull(base, PAGE_COUNT, 1);
    copyFileSync(base, expected);
    const runs = randomRuns(random, PAGE_COUNT, 9);
    overlay(content, writeSparse(diff, PAGE_COUNT, runs, 2), runs);
    writeFileSync(layered, content);
  });

  after(() => folder[Symbol.dispose]());

  async function restore(
    t: TestContext,
    flags: readonly string[],
    options: string[],
    file: string,
  ) {
    for (const path of [base, diff]) {
      if (!cool(path)) {
        t.skip("this file system, or this kernel, does not let go of cached pages");
        return null;
      }
    }
    await using serve = await ServeProcess.start(["--memory", base, "--socket", socket, ...flags]);
    await runVmm(socket, file, ...options);
    return await serve.logged("Detached a VM");
  }

  test("are read block by block, and served right", async (t) => {
    const line = await restore(t, [], ["--threads", "4", "--touch", "random:2000"], expected);
    if (line === null) return;
    assert.ok(Number(line.awaitedPages) > 50, `${line.awaitedPages} pages waited for the disk`);
    assert.ok(cachedOf(base) > 0);
  });

  test("with a diff above them, of which pages are assembled", async (t) => {
    const line = await restore(
      t,
      ["--layer", diff],
      ["--threads", "3", "--touch", "random:2000"],
      layered,
    );
    if (line !== null) assert.ok(Number(line.awaitedPages) > 50, `${line.awaitedPages} waited`);
  });

  test("while the VM gives memory back", async (t) => {
    const options = ["--threads", "2", "--balloon", "--touch", "random:2000"];
    const line = await restore(t, [], options, expected);
    if (line !== null) assert.ok(Number(line.awaitedPages) > 50, `${line.awaitedPages} waited`);
  });

  test("but warm ones are never waited for", async () => {
    await using serve = await ServeProcess.start(["--memory", base, "--socket", socket]);
    execFileSync("cat", [base], { stdio: ["ignore", "ignore", "inherit"] });
    await runVmm(socket, expected, "--threads", "2");
    assert.equal((await serve.logged("Detached a VM")).awaitedPages, 0);
  });
});
