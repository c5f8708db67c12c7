/** The kit's own VM: what it must do so that a scenario means what it says. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { runLanes } from "../../src/conformance/lanes.ts";
import { Stage } from "../../src/conformance/stage.ts";
import { VmPool } from "../../src/conformance/vm-process.ts";
import { requires } from "../support/requires.ts";
import { PATIENCE_MS, plantedHandler } from "./kit.ts";

const needs = requires("userfaultfd");

function openStage(pool: VmPool, deadlineMs = PATIENCE_MS): Stage {
  return new Stage({ command: plantedHandler(), deadlineMs, hasHotplug: false, pool });
}

test(
  "when the handler is killed its threads stay blocked, also if they are woken",
  needs,
  async () => {
    await using pool = new VmPool();
    await using stage = openStage(pool, 500);
    const [vm, handler] = await stage.attachFrozen();
    const pages = [3, 5, 8];
    const reading = vm.read(pages, pages.length);
    await vm.untilBlocked(pages.length, true);
    handler.kill();
    await handler.ended(PATIENCE_MS);
    await vm.wake();
    await vm.untilBlocked(pages.length, true);
    assert.equal((await reading).found, "???");
    await assert.rejects(vm.expect([9], "file"), /^Finding: No answer for page 9 within 0\.5 s\.$/);
  },
);

test("plays again in the same process, with new memory", needs, async () => {
  await using pool = new VmPool();
  const pids: number[] = [];
  for (let round = 0; round < 2; round++) {
    await using stage = openStage(pool);
    const vm = await stage.attach();
    await vm.write([1], "file");
    await vm.remove([{ first: 2, count: 1 }]);
    await vm.expect([1], "written");
    pids.push(vm.pid);
  }
  assert.equal(pids[0], pids[1]);
  await using stage = openStage(pool);
  const vm = await stage.attach();
  await vm.expect([1, 2], "file");
});

test("lanes give up when nothing moves, and tell how far they came", async () => {
  const never = new Promise<void>(() => {});
  const done = await runLanes(4, 2, 50, async (index) => {
    if (index === 1) await never;
  });
  assert.equal(done, 3);
  assert.equal(await runLanes(3, 8, 1000, async () => {}), 3);
});
