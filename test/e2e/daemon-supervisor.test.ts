/** `faultline daemon` when its supervisor dies too, and daemons beside each other. */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { FdStore } from "../support/fd-store.ts";
import { Random, TestFolder, writeFull } from "../support/fixtures.ts";
import { frozen, startRescue } from "../support/orphans.ts";
import { requires } from "../support/requires.ts";
import { type VmKind, VmKinds } from "../support/restored-vms.ts";
import { Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const SEED = 1;
const PAGE_COUNT = 16_384;

const folder = new TestFolder();
after(() => folder[Symbol.dispose]());

describe("a supervisor that is killed", needs, () => {
  const random = new Random(SEED);
  const kinds = new VmKinds(folder, random);

  test("costs no VM a byte where its descriptors are stored", async () => {
    using manager = new FdStore(folder.at("notify"));
    const environment = { NOTIFY_SOCKET: manager.path, FDSTORE: "1000" };
    const [file, image] = [kinds.file(), kinds.image()];
    const args = ["--store", kinds.store];
    const vms = [];
    let waiting = "";
    try {
      {
        await using first = await DaemonProcess.start(folder, args, { environment });
        const { client } = first;
        for (const kind of [file, image, kinds.layers()] satisfies VmKind[]) {
          const { id, socketPath } = await client.createSession(kind.spec);
          vms.push(kind.start(socketPath, random));
          await first.attached(id);
        }
        waiting = (await client.createSession({ ...file.spec, id: "waiting" })).socketPath;
        // What the supervisor had no time to pass on ends with it (LIMITS.md). This comes last.
        const isStored = ({ name }: { name: string }): boolean => name === "s.waiting.listener";
        await waitFor("all is stored", () => manager.stored.some(isStored));
        first.signal("SIGKILL");
        await first.ended();
      }
      for (const { pid } of vms) await frozen(pid);
      const { stored } = manager;
      await using second = await DaemonProcess.start(folder, args, { environment, stored });
      const { sessions } = await second.client.host();
      assert.deepEqual(sessions, { waiting: 1, attached: vms.length });
      await using late = file.start(waiting, random);
      await second.attached("waiting");
      // What it has got back, it keeps for the next one, too.
      await second.killPager();
      for (const vm of [...vms, late]) await vm.finish();
      assert.deepEqual(second.lines("A VM could not be taken over"), []);
    } finally {
      for (const vm of vms) await vm[Symbol.asyncDispose]();
    }
  });

  test("leaves VMs that can be rescued where they are not", async () => {
    const memory = folder.at("full");
    writeFull(memory, PAGE_COUNT);
    await using daemon = await DaemonProcess.start(folder);
    const { id, socketPath } = await daemon.client.createSession({ memory });
    const threads = 4;
    const random16k = `random:${PAGE_COUNT}`;
    await using vmm = new Vmm(socketPath, memory, ["--threads", threads, "--touch", random16k]);
    await daemon.attached(id);
    daemon.signal("SIGKILL");
    await daemon.ended();
    await frozen(vmm.pid, threads);
    await using _rescue = await startRescue(vmm.pid, memory, "--no-balloon");
    const { mismatches, touched } = await vmm.result();
    assert.deepEqual({ mismatches, touched }, { mismatches: 0, touched: PAGE_COUNT });
  });
});

describe("daemons", needs, () => {
  test("run one at a time in a run folder, and one after the other", async () => {
    const memory = folder.at("small");
    writeFull(memory, 256);
    {
      await using first = await DaemonProcess.start(folder);
      await assert.rejects(DaemonProcess.start(folder), /A daemon runs in .* already, as process/);
      assert.equal((await first.client.host()).takeovers, 0);
    }
    // The first was killed: its sockets lie there still.
    await using second = await DaemonProcess.start(folder);
    const { socketPath } = await second.client.createSession({ memory });
    await using vmm = new Vmm(socketPath, memory);
    assert.equal((await vmm.result()).mismatches, 0);
  });
});
