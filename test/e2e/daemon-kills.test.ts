/**
 * Pagers that are killed at random moments while twenty VMs of all kinds fault as fast as they can.
 * No VM is lost, no byte is wrong. Also prints what the deaths cost the guests.
 */
import assert from "node:assert/strict";
import { after, describe, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import { BesiegedDaemon } from "../support/besieged-daemon.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { Random, TestFolder, writeFull } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { type VmKind, VmKinds } from "../support/restored-vms.ts";
import { summarize } from "../support/stalls.ts";
import { bootTinyvm } from "../support/tinyvm.ts";
import { Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const SEED = Number(process.env.FAULTLINE_KILLS_SEED ?? 20_261_123);
const KILLS = Number(process.env.FAULTLINE_KILLS ?? 14);
const HANDSHAKE_KILLS = Math.ceil(KILLS / 3);
const BUDGET_MS = 20_000;
const TINYVM = { memoryMib: 16, fill: 50, workingSet: 30 };

const folder = new TestFolder();
const random = new Random(SEED);
const kinds = new VmKinds(folder, random);
after(() => folder[Symbol.dispose]());

async function twentyKinds(): Promise<readonly VmKind[]> {
  const has = (capability: "kvm" | "hugepages"): boolean => requires(capability).skip === undefined;
  const guest = has("kvm") ? "kvm" : "process";
  const [file, hasty] = [kinds.file(), kinds.hasty()];
  const [layers, image] = [kinds.layers(), kinds.image()];
  return [
    ...[file, file, hasty, hasty, hasty, layers, layers, layers, image, image, image, image],
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
    const all = await twentyKinds();
    await using daemon = await DaemonProcess.start(folder, ["--store", kinds.store]);
    const siege = new BesiegedDaemon(daemon, random);
    await siege.endure(all, KILLS);
    await assertWellEnded(daemon, siege);
    t.diagnostic(`lives: ${JSON.stringify(Object.fromEntries(siege.lives))}`);
    t.diagnostic(`stalls with a standby: ${JSON.stringify(summarize(siege.stalls(true)))}`);
    t.diagnostic(`stalls without: ${JSON.stringify(summarize(siege.stalls(false)))}`);
  });
});

describe(`pagers that are killed while VMs connect (seed ${SEED})`, needs, () => {
  test(`${HANDSHAKE_KILLS} of them lose no VM, and refuse none`, async (t) => {
    // Some take their time in the middle of a handshake, some are gone right after it.
    const kind = (index: number): VmKind =>
      kinds.passing(
        random.pick(["v1.1", "v1.7", "v1.12", "head"]),
        1 + (index % 3),
        ...[
          ...(index % 2 === 0 ? ["--split-json", 1 + random.below(60)] : []),
          ...(index % 3 === 0 ? ["--extra-keys"] : []),
        ],
      );
    await using daemon = await DaemonProcess.start(folder);
    const siege = new BesiegedDaemon(daemon, random);
    await siege.endure(
      Array.from({ length: 6 }, (_, index) => kind(index)),
      HANDSHAKE_KILLS,
    );
    await assertWellEnded(daemon, siege);
    t.diagnostic(`VMs: ${JSON.stringify(Object.fromEntries(siege.lives))}`);
  });

  test("as soon as they have taken a handshake lose no VM", requires("root"), async () => {
    const memory = folder.at("taken");
    writeFull(memory, 256);
    await using daemon = await DaemonProcess.start(folder);
    for (let round = 0; round < HANDSHAKE_KILLS; round++) {
      await daemon.stoodBy();
      const { socketPath } = await daemon.client.createSession({ memory });
      const options = ["--regions", 4, "--extra-keys", "--kill-when-read", daemon.pager];
      await using vmm = new Vmm(socketPath, memory, options);
      assert.equal((await vmm.result()).mismatches, 0);
      await daemon.logged("Another pager serves", round + 1);
    }
  });
});

/** No VM was lost or refused, and no pager died but those that were killed. */
async function assertWellEnded(daemon: DaemonProcess, siege: BesiegedDaemon): Promise<void> {
  assert.deepEqual(daemon.lines("A VM could not be taken over"), []);
  assert.deepEqual(daemon.lines("Refused a VM"), []);
  assert.deepEqual(siege.othersThatEnded, []);
  await waitFor(
    "all sessions have ended",
    async () => (await daemon.client.sessions()).length === 0,
    BUDGET_MS,
  );
}
