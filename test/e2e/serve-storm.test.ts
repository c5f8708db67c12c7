/**
 * A storm of handshakes that cannot be taken (test/peer/storm.c): each is refused and counted, none
 * leaves anything behind, VMs are served meanwhile, and signals are heard.
 *
 * `FAULTLINE_STORM_SEED=N FAULTLINE_STORM_COUNT=N` repeat a run and make it longer; the program
 * names the number of a handshake that was not refused, which `storm … 1 SEED --first NUMBER`
 * repeats alone. `npm run bench -- handshakes` sends 100,000.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { CPeer } from "../support/c-peer.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

const PAGE_COUNT = 1024;
const SEED = Number(process.env.FAULTLINE_STORM_SEED ?? 20_261_123);
const COUNT = Number(process.env.FAULTLINE_STORM_COUNT ?? 2000);
const ENDLESS = 1e9;
const CLEAN_EXIT = { code: ExitCode.ok, signal: null };
/** Within this serve has to end while handshakes keep raining; it takes a moment. */
const END_BUDGET_MS = 10_000;

describe(`a storm of bad handshakes (seed ${SEED})`, requires("userfaultfd", "cc"), () => {
  const folder = new TestFolder();
  const memory = folder.at("memory");
  const socket = folder.at("socket");
  const flags = ["--memory", memory, "--socket", socket, "--handshake-timeout", "200"];

  before(() => {
    writeFull(memory, PAGE_COUNT);
  });

  after(() => folder[Symbol.dispose]());

  test(`${COUNT} of them, each refused and counted, while VMs come and go`, async () => {
    await using serve = await ServeProcess.start(flags);
    await using settled = new Vmm(socket, memory, ["--touch", "stride:64", "--linger", 600_000]);
    await settled.result();
    const fds = serve.fdCount;
    await using storm = new CPeer("storm", [socket, memory, COUNT, SEED, "--slow-every", 200]);
    let isOver = false;
    const result = storm.result<{ sent: number; unanswered: number }>().finally(() => {
      isOver = true;
    });
    result.catch(() => undefined); // told below
    let vms = 0;
    for (; vms === 0 || !isOver; vms++) await runVmm(socket, memory, "--threads", 2);
    assert.equal((await result).sent, COUNT);
    await runVmm(socket, memory, "--balloon", "--touch", "random:300");
    await serve.fdsBackTo(fds);
    settled.kill();
    serve.kill("SIGTERM");
    assert.deepEqual(await serve.ended(END_BUDGET_MS), CLEAN_EXIT);
    assert.equal(serve.refusals, COUNT);
    assert.ok(serve.lines("Refused a VM").length < 500, "a flood of lines");
    assert.equal(serve.lines("Attached a VM").length, vms + 2);
    assert.deepEqual(serve.lines("Detached a VM").length, vms + 2);
    const errors = serve.log.filter(({ level }) => level === "error");
    assert.deepEqual(errors, []);
    assert.equal(serve.errors, "");
  });

  test("SIGTERM is heard in the middle of it, and VMs that run are waited for", async () => {
    await using serve = await ServeProcess.start([...flags, "--drain-timeout", "60"]);
    await using vmm = new Vmm(socket, memory, ["--touch", "stride:64", "--linger", 600_000]);
    await vmm.result();
    await using storm = new CPeer("storm", [socket, memory, ENDLESS, SEED, "--threads", 200]);
    await serve.logged("Refused a VM", 200);
    serve.kill("SIGTERM");
    await serve.logged("SIGTERM: waits for the attached VMs to end; a second signal ends at once");
    assert.equal((await storm.exited).code, 2, storm.errors);
    assert.match(storm.errors, /connect .*: (No such file|Connection refused)/);
    vmm.kill();
    assert.deepEqual(await serve.ended(END_BUDGET_MS), CLEAN_EXIT);
  });
});
