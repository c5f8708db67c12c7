/**
 * Pagers that are killed at random moments while twenty VMs of all kinds fault as fast as they can.
 * No VM is lost, no byte is wrong. Also prints what the deaths cost the guests.
 */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { BesiegedDaemon } from "../support/besieged-daemon.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { Random, TestFolder } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { type VmKind, VmKinds } from "../support/restored-vms.ts";
import { summarize } from "../support/stalls.ts";
import { bootTinyvm } from "../support/tinyvm.ts";

const needs = requires("userfaultfd", "cc");
const SEED = Number(process.env.FAULTLINE_KILLS_SEED ?? 20_261_123);
const KILLS = Number(process.env.FAULTLINE_KILLS ?? 24);
const TINYVM = { memoryMib: 16, fill: 50, workingSet: 30 };

const folder = new TestFolder();
after(() => folder[Symbol.dispose]());

async function twentyKinds(kinds: VmKinds): Promise<readonly VmKind[]> {
  const has = (capability: "kvm" | "hugepages"): boolean => requires(capability).skip === undefined;
  const guest = has("kvm") ? "kvm" : "process";
  const [file, layers, image] = [kinds.file(), kinds.layers(), kinds.image()];
  return [
    ...[file, file, file, file, file, layers, layers, layers, image, image, image, image],
    kinds.file({ prefault: "all" }),
    kinds.file({ prefault: "before-resume" }),
    has("hugepages") ? kinds.huge() : file,
    ...[kinds.passing("v1.1", 1), kinds.passing("v1.7", 3), kinds.passing("head", 2)],
    kinds.passing("v1.12", 5),
    kinds.tinyvm(await bootTinyvm(kinds.tinyvmFolder, guest, TINYVM), guest),
  ];
}

describe(`pagers that are killed under twenty VMs (seed ${SEED})`, needs, () => {
  test(`${KILLS} of them cost no VM a byte`, async (t) => {
    const random = new Random(SEED);
    const kinds = new VmKinds(folder, random);
    const all = await twentyKinds(kinds);
    await using daemon = await DaemonProcess.start(folder, ["--store", kinds.store]);
    const siege = new BesiegedDaemon(daemon, random);
    await siege.endure(all, KILLS);
    assert.deepEqual(daemon.lines("A VM could not be taken over"), []);
    assert.deepEqual(daemon.lines("Refused a VM"), []);
    assert.deepEqual(siege.othersThatEnded, []);
    assert.equal((await daemon.client.host()).sessions.attached, 0);
    t.diagnostic(`lives: ${JSON.stringify(Object.fromEntries(siege.lives))}`);
    t.diagnostic(`stalls with a standby: ${JSON.stringify(summarize(siege.stalls(true)))}`);
    t.diagnostic(`stalls without: ${JSON.stringify(summarize(siege.stalls(false)))}`);
  });
});
