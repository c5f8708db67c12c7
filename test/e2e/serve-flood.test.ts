/**
 * VMs that do nothing but give pages back and touch them again (test/peer/flood.c), and VMs whose
 * VMM is stopped: others on the same fault worker are served all the while.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import { CPeer } from "../support/c-peer.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm } from "../support/vmm-process.ts";

const PAGE_COUNT = 1024;
const FLOOD_MS = 3000;
const THREADS = 4;
/** VMs that come one after the other while it floods, each of which has to find all it needs. */
const QUIET_VMS = 10;
const SEED = Number(process.env.FAULTLINE_CHURN_SEED ?? 20_261_123);
/** A page of 4 KiB kept for each REMOVE would be far more than this. */
const GROWTH_LIMIT_KIB = 32 * 1024;

interface FloodResult {
  readonly removes: number;
  readonly wrong: number;
}

describe(`a VM that floods REMOVEs (seed ${SEED})`, requires("userfaultfd", "cc"), () => {
  const folder = new TestFolder();
  const memory = folder.at("memory");
  const socket = folder.at("socket");
  const flags = ["--memory", memory, "--socket", socket, "--workers", "1"];

  before(() => {
    writeFull(memory, PAGE_COUNT);
  });

  after(() => folder[Symbol.dispose]());

  test("its own pages are right, and so are those of its neighbours", async () => {
    await using serve = await ServeProcess.start(flags);
    await runVmm(socket, memory);
    const before = serve.privateKib;
    await using flood = new CPeer("flood", [socket, memory, FLOOD_MS, THREADS, SEED]);
    assert.equal(await flood.line(), "flooding");
    for (let vm = 0; vm < QUIET_VMS; vm++) await runVmm(socket, memory, "--touch", "random:200");
    const { removes, wrong } = await flood.result<FloodResult>();
    assert.equal(wrong, 0);
    assert.ok(removes > 1000, `only ${removes} pages were given back`);
    const line = await serve.loggedFor(flood.pid, "Detached a VM");
    assert.equal(line.removedPages, removes);
    assert.equal(line.overflowed, undefined);
    assert.ok(serve.privateKib - before < GROWTH_LIMIT_KIB, `${serve.privateKib - before} KiB`);
  });

  test("a stopped VMM keeps nobody waiting, and goes on where it was", async () => {
    await using serve = await ServeProcess.start(flags);
    await using flood = new CPeer("flood", [socket, memory, FLOOD_MS, THREADS, SEED]);
    assert.equal(await flood.line(), "flooding");
    for (let round = 0; round < 5; round++) {
      flood.kill("SIGSTOP");
      await runVmm(socket, memory, "--threads", 2, "--touch", "random:200");
      flood.kill("SIGCONT");
      await runVmm(socket, memory, "--touch", "random:50");
    }
    flood.kill("SIGSTOP");
    await waitFor("serve rested beside a stopped VMM", async () => {
      const ticks = serve.cpuTicks;
      await new Promise((resolve) => setTimeout(resolve, 200));
      return serve.cpuTicks - ticks <= 1;
    });
    flood.kill("SIGCONT");
    assert.equal((await flood.result<FloodResult>()).wrong, 0);
  });
});
