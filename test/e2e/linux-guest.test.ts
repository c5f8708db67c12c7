/**
 * A real Linux guest, booted, written down, and restored lazily by `faultline serve`: in QEMU, with
 * a service in it whose answers are right only if its memory is. See docs/TESTING.md.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import type { PackReport } from "../../src/image/pack.ts";
import { PAGE_BYTES, Random, TestFolder } from "../support/fixtures.ts";
import { ImageStage } from "../support/image-stage.ts";
import {
  GUEST_MEMORY_BYTES,
  type GuestSnapshot,
  LinuxGuest,
} from "../support/linux-guest-machine.ts";
import {
  damagePages,
  findFilledPages,
  findWordPages,
  isFilled,
  WORDS_PER_PAGE,
} from "../support/linux-guest-memory.ts";
import { GuestOracle, WORD_COUNT } from "../support/linux-guest-oracle.ts";
import {
  askSum,
  mixedQuestions,
  questionsAboutAll,
  wrongAnswers,
} from "../support/linux-guest-questions.ts";
import { frozen, startRescue } from "../support/orphans.ts";
import { requires } from "../support/requires.ts";
import { type LogLine, ServeProcess } from "../support/serve-process.ts";
import { assertSameMemory } from "../support/tracked-vm.ts";

const SEED = 7;
const MIB = 2 ** 20;
const BALLOON_MIB = 64;
/** What the guest has written, and freed again, before it is written down. */
const FREE_MIB = 80;
const PAGES_PER_MIB = MIB / PAGE_BYTES;
const SAMPLES = 200;
/** For 16,384 pages each way. */
const BALLOON_BUDGET_MS = 40_000;

describe("a Debian guest in QEMU", requires("userfaultfd", "cc", "linux-guest"), () => {
  const folder = new TestFolder();
  const socket = folder.at("socket");
  const random = new Random(SEED);
  const oracle = new GuestOracle(SEED);
  let snapshot: GuestSnapshot;
  let bootId: string;
  let uptime: number;

  before(async () => {
    await using guest = await LinuxGuest.boot(folder.path, SEED);
    assert.deepEqual(await wrongAnswers(guest, mixedQuestions(oracle, random, 30)), []);
    assert.equal(await guest.ask(`fill ${FREE_MIB}`), "0");
    bootId = await guest.ask("boot-id");
    uptime = Number(await guest.ask("uptime"));
    snapshot = await guest.snapshot(folder.path, SEED);
  });

  after(() => folder[Symbol.dispose]());

  async function serve(): Promise<ServeProcess> {
    return await ServeProcess.start(["--memory", snapshot.memoryFile, "--socket", socket]);
  }

  test("goes on where it was, and loads what it needs", async (t) => {
    await using handler = await serve();
    await using guest = await LinuxGuest.restore(snapshot, socket);
    assert.equal(await guest.ask("boot-id"), bootId);
    const uptimeNow = Number(await guest.ask("uptime"));
    assert.ok(uptimeNow >= uptime, `up for ${uptime / 100} s before, ${uptimeNow / 100} s now`);
    assert.deepEqual(await wrongAnswers(guest, mixedQuestions(oracle.copy(), random, 200)), []);
    const report = await quit(guest, handler);
    t.diagnostic(`loaded ${report.loaded}, ${report.zeroPages} zero pages`);
    const loadedBytes = Number(report.installedPages) * PAGE_BYTES;
    assert.ok(loadedBytes < GUEST_MEMORY_BYTES / 2, `loaded ${report.loaded}`);
  });

  test("gives memory back through its balloon while it answers, and takes it again", async (t) => {
    await using handler = await serve();
    await using guest = await LinuxGuest.restore(snapshot, socket);
    const mine = oracle.copy();
    const balloonWhileAsking = async (sizeBytes: number): Promise<void> => {
      const [wrong] = await Promise.all([
        wrongAnswers(guest, mixedQuestions(mine, random, 100)),
        guest.qmp.balloonTo(sizeBytes, BALLOON_BUDGET_MS),
      ]);
      assert.deepEqual(wrong, []);
    };
    // Of what it gives back, it shall have loaded a part.
    assert.equal(await guest.ask(`fill ${BALLOON_MIB / 4}`), "0");
    await balloonWhileAsking(GUEST_MEMORY_BYTES - BALLOON_MIB * MIB);
    await assertGivenBack(guest);
    await balloonWhileAsking(GUEST_MEMORY_BYTES);
    assert.equal(await guest.ask(`fill ${BALLOON_MIB}`), "0", "words of the memory taken again");
    assert.deepEqual(await wrongAnswers(guest, questionsAboutAll(mine)), []);
    const report = await quit(guest, handler);
    t.diagnostic(`${report.removedPages} pages removed, ${report.faults} faults`);
    assert.ok(Number(report.removedPages) > 0.9 * BALLOON_MIB * PAGES_PER_MIB);
  });

  /**
   * The balloon took pages that the guest had free, most of which lay written in the snapshot and
   * were never loaded. Those must be zeroes now: the snapshot must not show through.
   */
  async function assertGivenBack(guest: LinuxGuest): Promise<void> {
    const places = findFilledPages(snapshot.memoryFile);
    assert.ok(places.length > 0.9 * FREE_MIB * PAGES_PER_MIB, `${places.length} pages filled`);
    const counts = { zero: 0, filled: 0, other: 0 };
    for (let sample = 0; sample < SAMPLES; sample++) {
      const words = await guest.qmp.readWords(random.pick(places));
      const isZero = words.every((word) => word === 0);
      counts[isZero ? "zero" : isFilled(words) ? "filled" : "other"] += 1;
    }
    // The guest is free in its choice, but it has not much else to give.
    assert.ok(counts.zero > SAMPLES / 2, `pages after the balloon: ${JSON.stringify(counts)}`);
  }

  test("goes on after its handler was killed while it answered, and another came", async (t) => {
    await using handler = await serve();
    await using guest = await LinuxGuest.restore(snapshot, socket);
    const mine = oracle.copy();
    assert.deepEqual(await wrongAnswers(guest, mixedQuestions(mine, random, 20)), []);
    const answers = wrongAnswers(guest, mixedQuestions(mine, random, 200));
    handler.kill("SIGKILL");
    await handler.exited;
    await frozen(guest.pid);
    const flags = ["--no-balloon"];
    await using rescue = await startRescue(guest.pid, snapshot.memoryFile, ...flags);
    assert.deepEqual(await answers, []);
    assert.deepEqual(await wrongAnswers(guest, questionsAboutAll(mine)), []);
    const [attached] = rescue.lines("Attached a VM", guest.pid);
    t.diagnostic(`it had ${attached?.present}, unchanged ${attached?.unchanged}`);
    await quit(guest, rescue);
  });

  test("is restored twice at once, and each goes its own way", async () => {
    await using handler = await serve();
    await using one = await LinuxGuest.restore(snapshot, socket);
    await using other = await LinuxGuest.restore(snapshot, socket);
    const oracles = [oracle.copy(), oracle.copy()] as const;
    const wrong = await Promise.all([
      wrongAnswers(one, mixedQuestions(oracles[0], new Random(1), 60)),
      wrongAnswers(other, mixedQuestions(oracles[1], new Random(2), 60)),
    ]);
    assert.deepEqual(wrong, [[], []]);
    process.kill(one.pid, "SIGKILL");
    await handler.loggedFor(one.pid, "Detached a VM");
    assert.deepEqual(await wrongAnswers(other, mixedQuestions(oracles[1], random, 60)), []);
  });

  test("is packed while it is paused: only what it has written comes from it", async (t) => {
    using stage = new ImageStage();
    mkdirSync(stage.path("sessions"));
    stage.json("pack", snapshot.memoryFile, "--name", "warm");
    const image = ["--memory", `dir:${stage.store}/warm`];
    const tracking = ["--track-dirty", stage.path("sessions")];
    await using _handler = await ServeProcess.start([...image, "--socket", socket, ...tracking]);
    await using guest = await LinuxGuest.restore(snapshot, socket);
    const mine = oracle.copy();
    assert.deepEqual(await wrongAnswers(guest, mixedQuestions(mine, random, 60)), []);
    await guest.qmp.execute("stop");
    const session = stage.path(`sessions/${guest.pid}.session`);
    const what = ["pack", "--from-session", session, "--parent", "warm", "--name", "live"];
    const report = stage.json<PackReport>(...what);
    stage.json("extract", "live", stage.path("live"));
    // QEMU's memory is a memfd: its holes were never loaded.
    const expected = readFileSync(snapshot.memoryFile);
    const loadedBytes = guest.copyLoadedMemory(expected);
    assertSameMemory(readFileSync(stage.path("live")), expected);
    await guest.qmp.execute("cont");
    assert.deepEqual(await wrongAnswers(guest, mixedQuestions(mine, random, 30)), []);
    const { processBytes, dirtyBytes } = report.session!;
    t.diagnostic(`${dirtyBytes / MIB} MiB dirty of ${loadedBytes / MIB} MiB loaded`);
    assert.ok(processBytes > 0 && processBytes <= dirtyBytes && dirtyBytes < loadedBytes);
  });

  // The last one: it spoils the snapshot.
  test("answers wrong where its memory was damaged, and only there", async () => {
    const places = findWordPages(snapshot.memoryFile, oracle);
    assert.equal(places.filter(Number.isInteger).length, WORD_COUNT / WORDS_PER_PAGE);
    const damaged = [1000, 2000, 3000] as const;
    damagePages(snapshot.memoryFile, [places[1000]!, places[2000]!, places[3000]!]);
    await using _handler = await serve();
    await using guest = await LinuxGuest.restore(snapshot, socket);
    const pages = [999, 1000, 1001, 1999, 2000, 2001, 2999, 3000, 3001];
    const questions = pages.map((page) =>
      askSum(oracle, page * WORDS_PER_PAGE, (page + 1) * WORDS_PER_PAGE),
    );
    const wrong = await wrongAnswers(guest, questions);
    const asked = wrong.map((sentence) => Number(/^sum (\d+) /.exec(sentence)![1]));
    assert.deepEqual(
      asked,
      damaged.map((page) => page * WORDS_PER_PAGE),
    );
  });
});

/** What the handler has to say about it in the end. */
async function quit(guest: LinuxGuest, handler: ServeProcess): Promise<LogLine> {
  await guest.quit();
  return await handler.loggedFor(guest.pid, "Detached a VM");
}
