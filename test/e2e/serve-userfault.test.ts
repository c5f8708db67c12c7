/**
 * VMs with KVM Userfault that `faultline serve` must refuse, or end, and be none the worse. How it
 * serves those that keep to the protocol: `test/conformance/serve`.
 */
import assert from "node:assert/strict";
import { fork } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd, createSealedMemfd } from "../../src/linux/memory.ts";
import { sendWithFds } from "../../src/linux/socket.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { goodParts, introduceVm, type VmParts } from "../support/userfault-vm-program.ts";
import { runVmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGES = 256;
const PROGRAM = join(builtRoot, "test/support/userfault-vm-program.js");

const folder = new TestFolder();
const memory = folder.at("memory");
const socket = folder.at("socket");
let serve: ServeProcess;

before(async () => {
  writeFull(memory, PAGES);
  if (needs.skip !== undefined) return;
  const flags = ["--memory", memory, "--socket", socket, "--async-faults", "--log", "debug"];
  serve = await ServeProcess.start([...flags, "--handshake-timeout", "300"]);
});

after(async () => {
  await serve?.[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

/** Introduces a VM, sends `second` with `fds`, and has it be refused for `reason`. */
async function assertRefused(
  parts: VmParts,
  second: string | null,
  fds: readonly OwnedFd[],
  reason: RegExp,
): Promise<void> {
  const count = serve.lines("Refused a VM").length;
  const connection = introduceVm(socket, PAGES, parts);
  const raw = fds.map(({ fd }) => fd);
  if (second !== null) sendWithFds(connection.fd, Buffer.from(second), raw);
  const line = await serve.logged("Refused a VM", count + 1);
  assert.match(String(line.reason), reason);
  connection.close();
  await runVmm(socket, memory);
}

const NO_RINGS = "no_exitless_apf";

describe("a VM with KVM Userfault is refused", needs, () => {
  test("when its bitmap is too small", async () => {
    const parts = { ...goodParts(PAGES), bitmap: createSealedMemfd("bitmap", 4) };
    await assertRefused(parts, NO_RINGS, [], /bitmap has 4 bytes.* 256 pages.* 32 are needed/);
  });

  test("when its bitmap could be taken away", async () => {
    const parts = { ...goodParts(PAGES), bitmap: createMemfd("loose") };
    await assertRefused(parts, NO_RINGS, [], /bitmap/);
  });

  test("when its vCPU is too short to hold a ring, or no vCPU", async () => {
    const fds = [createMemfd("notify"), createMemfd("complete"), createSealedMemfd("vcpu", 4096)];
    await assertRefused(goodParts(PAGES), "exitless_apf:1", fds, /vCPU 0 is .*neither a vCPU nor/);
  });

  test("when its ring is of another version", async () => {
    const fds = [createMemfd("notify"), createMemfd("complete"), createSealedMemfd("vcpu", 16384)];
    await assertRefused(goodParts(PAGES), "exitless_apf:1", fds, /ring has version 0/);
  });

  test("when its second message does not come, or is none", async () => {
    await assertRefused(goodParts(PAGES), null, [], /about its rings did not come within 300 ms/);
    await assertRefused(goodParts(PAGES), "exitless_apf:1", [], /with 0 descriptors it is/);
  });
});

describe("a VM with KVM Userfault is ended", needs, () => {
  test("when it asks for what it does not have; others are served on", async () => {
    const gpa = PAGES * 4096;
    const vm = fork(PROGRAM, [socket, String(PAGES), String(gpa)]);
    const [, signal] = await within("the VM was killed", once(vm, "exit"));
    assert.equal(signal, "SIGKILL");
    const line = await serve.logged("A VM could not be served on: it was killed");
    assert.match(String(line.reason), /vCPU 3 asked for 0x100000, .*none of the regions/);
    await runVmm(socket, memory);
  });
});

test(
  "a VM that asks for nothing more costs no CPU, without a second socket too",
  needs,
  async () => {
    const count = serve.lines("Attached a VM").length;
    const vm = fork(PROGRAM, [socket, String(PAGES), "0"]);
    try {
      await serve.logged("Attached a VM", count + 1);
      // A worker that looks for more without end never stands still.
      let lastTicks = -1;
      const rests = async (): Promise<boolean> => {
        await delay(300);
        const ticks = cpuTicks(serve.pid);
        const isAtRest = ticks === lastTicks;
        lastTicks = ticks;
        return isAtRest;
      };
      await waitFor("the handler rests", rests, 10_000);
    } finally {
      vm.kill("SIGKILL");
    }
  },
);

test("what cannot be had of such a VM is said when it comes", needs, async () => {
  const ended = folder.at("tracked-socket");
  const flags = ["--memory", memory, "--socket", ended, "--on-error", "poison"];
  await using other = await ServeProcess.start([...flags, "--log", "debug"]);
  const connection = introduceVm(ended, PAGES, goodParts(PAGES));
  sendWithFds(connection.fd, Buffer.from(NO_RINGS), []);
  const line = await other.logged("Refused a VM");
  assert.match(String(line.reason), /guest_memfd.*--on-error poison/);
});

/** Clock ticks of user and kernel time of all threads: fields 14 and 15 of proc_pid_stat(5). */
function cpuTicks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, "latin1").split(") ").at(-1)!.split(" ");
  return Number(fields[11]) + Number(fields[12]);
}
