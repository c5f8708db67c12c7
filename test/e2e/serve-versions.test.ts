/**
 * `faultline serve` against a foreign VMM that speaks like every Firecracker release since v1.1.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const VERSIONS = ["v1.1", "v1.7", "v1.11", "v1.12", "head"] as const;
/** 16 MiB: every page is touched by every test here. */
const PAGE_COUNT = 4096;

describe("faultline serve", needs, () => {
  const folder = new TestFolder();
  const memory = folder.at("memory");
  const socket = folder.at("socket");
  let serve: ServeProcess;

  before(async () => {
    writeFull(memory, PAGE_COUNT);
    serve = await ServeProcess.start(["--memory", memory, "--socket", socket]);
  });

  after(async () => {
    await serve[Symbol.asyncDispose]();
    folder[Symbol.dispose]();
  });

  for (const version of VERSIONS) {
    for (const regions of [1, 3, 64]) {
      test(`${version} with ${regions} regions reads every byte right`, async () => {
        const options = ["--version", version, "--regions", regions];
        const { touched } = await runVmm(socket, memory, ...options);
        assert.equal(touched, PAGE_COUNT);
      });
    }

    test(`${version}: kernel and 4 threads fault for the same pages`, async () => {
      const options = ["--version", version, "--kernel-touch", "--threads", 4, "--regions", 3];
      await runVmm(socket, memory, ...options, "--touch", "random:2000");
    });

    test(`${version}: what the balloon took reads as zeroes`, async () => {
      const options = ["--version", version, "--balloon", "--threads", 4, "--regions", 3];
      const result = await runVmm(socket, memory, ...options, "--touch", "random:1500");
      assert.ok(result.removed > 500, `only ${result.removed} pages were given back`);
    });
  }

  test("a handshake in two pieces, wherever it is cut", async () => {
    for (const cut of [1, 17, 60, 100]) {
      await runVmm(socket, memory, "--split-json", cut, "--touch", "stride:64");
    }
    // More than fits into one read of a small buffer, cut late.
    const options = ["--regions", 64, "--split-json", 5000, "--touch", "stride:64"];
    await runVmm(socket, memory, ...options);
  });

  test("keys that no release knows are passed over", async () => {
    for (const version of VERSIONS) {
      const options = ["--version", version, "--extra-keys", "--regions", 3];
      await runVmm(socket, memory, ...options, "--touch", "stride:16");
    }
  });

  test("8 threads race for every page", async () => {
    await runVmm(socket, memory, "--threads", 8, "--touch", `random:${PAGE_COUNT}`);
  });

  test("each VM's end is logged with what it took", async () => {
    await using vmm = new Vmm(socket, memory, ["--touch", "stride:4"]);
    assert.equal((await vmm.ended()).code, 0);
    const line = await serve.loggedFor(vmm.pid, "Detached a VM");
    assert.equal(line.level, "info");
    assert.equal(line.reason, "exited");
    assert.equal(line.installedPages, PAGE_COUNT / 4);
    assert.equal(line.zeroPages, 0);
    assert.equal(line.removedPages, 0);
    assert.equal(line.loaded, "4 MiB of 16 MiB");
    assert.ok(Number(line.faults) >= PAGE_COUNT / 4);
  });

  test("nothing of all this was worth a warning", () => {
    const troubles = serve.log.filter(({ level }) => level === "warn" || level === "error");
    assert.deepEqual(troubles, []);
    assert.equal(serve.errors, "");
  });
});
