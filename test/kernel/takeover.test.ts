/**
 * Handlers that are killed at any moment, and others that take their VMs over: four threads fault
 * and two give memory back meanwhile, and the VM itself compares every page with what it may hold.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Random, randomRuns, TestFolder, writeSparse } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { KeptVm } from "../support/takeover.ts";
import type { TakeoverMistake } from "../support/takeover-program.ts";

const needs = requires("userfaultfd", "cc");
const needsHugePages = requires("userfaultfd", "cc", "hugepages");
const SEED = Number(process.env.FAULTLINE_TAKEOVER_SEED ?? 20_261_123);
const KILLS = Number(process.env.FAULTLINE_TAKEOVER_KILLS ?? 66);
/** To see that it is seen: what handlers get wrong when they take over. */
const MISTAKE = (process.env.FAULTLINE_TAKEOVER_MISTAKE ?? null) as TakeoverMistake | null;
/** Soon every page of a VM has been given back once, and nothing can go wrong any more. */
const KILLS_PER_VM = 6;
const PAGE_COUNT = 16_384;
const READERS = 4;
/** How long a handler lives. */
const LONGEST_LIFE_MS = 40;

async function churnThroughKills(random: Random, flags: readonly string[]): Promise<void> {
  using folder = new TestFolder();
  const pageCount = flags.length > 0 ? PAGE_COUNT / 2 : PAGE_COUNT;
  const runs = randomRuns(random, pageCount, 40);
  writeSparse(folder.at("memory"), pageCount, runs, random.next());
  await using vm = await KeptVm.start({
    ...{ socketPath: folder.at("socket"), memoryPath: folder.at("memory") },
    ...{ readers: READERS, seed: random.below(2 ** 20), flags },
  });
  await vm.startHandler();
  await vm.serve();
  for (let kill = 0; kill < KILLS_PER_VM; kill++) {
    // Not a wait for anything: the moment of death is what is random.
    await delay(random.below(LONGEST_LIFE_MS));
    await vm.killHandler();
    const next = random.below(4);
    if (next === 0) await vm.startInVain(random.below(300));
    if (next === 1) await vm.startDoomed(MISTAKE);
    await vm.startHandler(MISTAKE);
    await vm.serve();
  }
  const { reads, removes, wrong } = await vm.finish();
  assert.equal(wrong, 0, `wrong bytes: ${vm.peer.errors}`);
  assert.ok(reads > pageCount && removes > 0, "the VM was at work");
}

describe(`handlers that are killed (seed ${SEED})`, () => {
  for (let vm = 0; vm * KILLS_PER_VM < KILLS; vm++) {
    test(`VM ${vm} reads no wrong byte`, needs, async () => {
      await churnThroughKills(new Random(SEED + vm), []);
    });
  }

  test("a VM of huge pages reads no wrong byte", needsHugePages, async () => {
    await churnThroughKills(new Random(SEED), ["--huge"]);
  });
});
