/**
 * A real Linux guest on `faultline daemon` whose pagers are killed while it answers, and while its
 * balloon gives memory back. See docs/TESTING.md.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { waitFor } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { Random, TestFolder } from "../support/fixtures.ts";
import {
  GUEST_MEMORY_BYTES,
  type GuestSnapshot,
  LinuxGuest,
} from "../support/linux-guest-machine.ts";
import { GuestOracle } from "../support/linux-guest-oracle.ts";
import {
  mixedQuestions,
  questionsAboutAll,
  wrongAnswers,
} from "../support/linux-guest-questions.ts";
import { requires } from "../support/requires.ts";

const SEED = Number(process.env.FAULTLINE_KILLS_SEED ?? 7);
const KILLS = Number(process.env.FAULTLINE_KILLS ?? 6);
const QUESTIONS_PER_KILL = 25;
/** What the guest has written, and freed again, before it is written down. */
const FREE_MIB = 80;
const BALLOON_BYTES = 64 * 2 ** 20;
const BALLOON_BUDGET_MS = 60_000;
/** Not a wait for anything: the moment of death is what is random. */
const LONGEST_LIFE_MS = 300;
const BUDGET_MS = 30_000;

describe("a Debian guest in QEMU", requires("userfaultfd", "cc", "linux-guest"), () => {
  const folder = new TestFolder();
  const random = new Random(SEED);
  const oracle = new GuestOracle(SEED);
  let snapshot: GuestSnapshot;

  before(async () => {
    await using guest = await LinuxGuest.boot(folder.path, SEED);
    assert.equal(await guest.ask(`fill ${FREE_MIB}`), "0");
    snapshot = await guest.snapshot(folder.path, SEED);
  });

  after(() => folder[Symbol.dispose]());

  test(`answers right though ${KILLS} pagers die (seed ${SEED})`, async (t) => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const { id, socketPath } = await client.createSession({ memory: snapshot.memoryFile });
    await using guest = await LinuxGuest.restore(snapshot, socketPath);
    for (let kill = 0; kill < KILLS; kill++) {
      const balloonBytes = kill % 4 === 1 ? BALLOON_BYTES : 0;
      const [wrong] = await Promise.all([
        wrongAnswers(guest, mixedQuestions(oracle, random, QUESTIONS_PER_KILL)),
        guest.qmp.balloonTo(GUEST_MEMORY_BYTES - balloonBytes, BALLOON_BUDGET_MS),
        killOne(daemon),
      ]);
      assert.deepEqual(wrong, []);
    }
    await guest.qmp.balloonTo(GUEST_MEMORY_BYTES, BALLOON_BUDGET_MS);
    assert.deepEqual(await wrongAnswers(guest, questionsAboutAll(oracle)), []);
    const { vm } = await client.session(id);
    assert.equal(vm?.takeovers, KILLS);
    t.diagnostic(JSON.stringify(vm?.pages));
    await guest.quit();
    const end = async () => (await client.session(id)).end;
    assert.equal((await waitFor("its session ends", end, BUDGET_MS)).reason, "exited");
  });

  async function killOne(daemon: DaemonProcess): Promise<void> {
    if (random.below(3) > 0) await daemon.stoodBy();
    await delay(random.below(LONGEST_LIFE_MS));
    await daemon.killPager();
  }
});
