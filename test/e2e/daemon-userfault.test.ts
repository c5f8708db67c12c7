/**
 * VMs with KVM Userfault on the daemon: played by a model of VMM and kernel, as no released kernel
 * has the feature. Their pagers are killed while they fault in all ways.
 */
import assert from "node:assert/strict";
import { existsSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { after, describe, type TestContext, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import { BesiegedDaemon } from "../support/besieged-daemon.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { Random, TestFolder, writeFull } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { besiegedUserfault, type ModelCounts, ModelVm } from "../support/userfault-vms.ts";

const needs = requires("userfaultfd", "cc");
const SEED = Number(process.env.FAULTLINE_KILLS_SEED ?? 20_261_124);
const KILLS = Number(process.env.FAULTLINE_USERFAULT_KILLS ?? 6);
const VMS = 4;
const PAGES = 4096;
const BUDGET_MS = 20_000;

const folder = new TestFolder();
const memory = folder.at("memory");
writeFull(memory, PAGES);
after(() => folder[Symbol.dispose]());

describe("a VM with KVM Userfault on the daemon", needs, () => {
  test("faults in all ways, and leaves nothing behind", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { id, socketPath } = await daemon.client.createSession({ memory, asyncFaults: true });
    const own = dirname(socketPath);
    assert.ok(existsSync(join(own, "apf.socket")));
    await using vm = new ModelVm(socketPath, memory, "mixed", 1);
    const { sync, apf, ring, host, repeated } = await vm.counts();
    assert.ok(sync > 0 && apf > 0 && ring > 0 && host === PAGES);
    assert.equal(repeated, 0);
    await waitFor("the session has ended", () => isOver(daemon, id), BUDGET_MS);
    assert.ok(!existsSync(own), "the session's folder is gone");
  });

  test("needs no second socket", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { socketPath } = await daemon.client.createSession({ memory });
    await using vm = new ModelVm(socketPath, memory, "no-apf", 1);
    assert.equal((await vm.counts()).apf, 0);
  });

  for (const scenario of ["glued", "split", "burst", "race"]) {
    test(`is served when it introduces itself as in ${scenario}`, async () => {
      await using daemon = await DaemonProcess.start(folder);
      const { socketPath } = await daemon.client.createSession({ memory, asyncFaults: true });
      await using vm = new ModelVm(socketPath, memory, scenario, 1);
      await vm.finish();
    });
  }

  test("shares its folder with no other that waits, and may follow one that has come", async () => {
    const shared = folder.at("shared");
    mkdirSync(shared);
    await using daemon = await DaemonProcess.start(folder, ["--socket-folder", shared]);
    const create = (name: string) =>
      daemon.client.createSession({ memory, asyncFaults: true, socketPath: join(shared, name) });
    const first = await create("one.sock");
    await assert.rejects(create("two.sock"), {
      code: "socket-in-use",
      message: new RegExp(`belongs to session ${first.id}`),
    });
    await using vm = new ModelVm(first.socketPath, memory, "siege", 1);
    await daemon.attached(first.id);
    const second = await create("two.sock");
    await assert.rejects(daemon.client.detachSession(first.id, true), { code: "conflict" });
    await using other = new ModelVm(second.socketPath, memory, "mixed", 1);
    await other.finish();
    await vm.finish();
  });
});

describe(`pagers that are killed under VMs with KVM Userfault (seed ${SEED})`, needs, () => {
  test(`${KILLS} of them cost no VM a byte, and leave none waiting`, async (t) => {
    await endure(t, memory, KILLS);
  });

  test(`${KILLS} of them lose no VM that comes, and refuse none`, async (t) => {
    // So little that some VM is always about to introduce itself.
    const little = folder.at("little");
    writeFull(little, 256);
    await endure(t, little, KILLS);
  });
});

async function endure(t: TestContext, image: string, kills: number): Promise<void> {
  const ended: ModelCounts[] = [];
  await using daemon = await DaemonProcess.start(folder);
  const siege = new BesiegedDaemon(daemon, new Random(SEED));
  const kind = besiegedUserfault(image, (counts) => void ended.push(counts));
  await siege.endure(
    Array.from({ length: VMS }, () => kind),
    kills,
  );
  assert.deepEqual(daemon.lines("A VM could not be taken over"), []);
  assert.deepEqual(daemon.lines("Refused a VM"), []);
  assert.deepEqual(siege.othersThatEnded, []);
  const isEmpty = async () => (await daemon.client.sessions()).length === 0;
  await waitFor("all sessions have ended", isEmpty, BUDGET_MS);
  const takeovers = daemon.lines("Took a VM over").length;
  assert.ok(takeovers > 0, "pagers died under VMs");
  const sum = (of: (counts: ModelCounts) => number) =>
    ended.reduce((total, each) => total + of(each), 0);
  const { length: vms } = ended;
  const faults = sum(({ sync, apf, ring, host }) => sync + apf + ring + host);
  const repeated = sum((counts) => counts.repeated);
  t.diagnostic(JSON.stringify({ kills, vms, takeovers, faults, repeated }));
  const stallsMs = daemon.lines("Another pager serves").map(({ stallMs }) => Number(stallMs));
  stallsMs.sort((a, b) => a - b);
  const at = (share: number) => stallsMs[Math.floor(share * (stallsMs.length - 1))];
  t.diagnostic(`ms without a pager: ${JSON.stringify({ p50: at(0.5), p90: at(0.9), max: at(1) })}`);
}

async function isOver(daemon: DaemonProcess, id: string): Promise<boolean> {
  return (await daemon.client.session(id)).state === "ended";
}
