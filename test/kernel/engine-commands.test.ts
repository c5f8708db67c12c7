/** What an engine is told while VMs run: complete one, and say whether you are there. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { within } from "../../src/kit/wait.ts";
import { PageState } from "../../src/pager/page-table.ts";
import { EngineStage, PAGES } from "../support/engine-stage.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd");
const RESPONSE_BUDGET_MS = 20_000;
/** Long enough for one that hangs. */
const HUNG_MS = 50;

describe("an engine", needs, () => {
  test("completes a VM that runs, and lets it go", async () => {
    await using stage = await EngineStage.start();
    const { engine, peer, session, bytes } = stage;
    assert.equal(await stage.read(3), bytes[3 * PAGE]);
    peer.say(`drop ${5 * PAGE}`);
    assert.equal(await peer.answer(), "dropped");
    engine.complete(session);
    engine.complete(session);
    const end = await within("the VM was complete", session.ended, RESPONSE_BUDGET_MS);
    assert.deepEqual(end, { reason: "complete" });
    const { installedPages, prefaultedPages, removedPages } = session.stats.counters();
    assert.deepEqual([installedPages, prefaultedPages, removedPages], [15, 14, 1]);
    for (let page = 0; page < PAGES; page++) {
      assert.equal(await stage.read(page), page === 5 ? 0 : bytes[page * PAGE], `page ${page}`);
    }
    engine.complete(session);
  });

  test("leaves numbers and page states to be read when a session has ended", async () => {
    await using stage = await EngineStage.start();
    const { engine, session, bytes } = stage;
    const { stats, pageTable } = session;
    for (const page of [1, 8]) assert.equal(await stage.read(page), bytes[page * PAGE]);
    engine.detach(session);
    assert.deepEqual(await session.ended, { reason: "detached" });
    assert.equal(stats.counters().installedPages, 2);
    for (const stage of ["fault", "queue", "install"] as const) {
      assert.equal(
        stats.buckets(stage).reduce((sum, count) => sum + count),
        2,
        stage,
      );
      assert.ok(stats.totalUs(stage) > 0, stage);
    }
    assert.ok(stats.totalUs("queue") + stats.totalUs("install") <= stats.totalUs("fault") * 1.001);
    assert.equal(pageTable.get(8), PageState.installed);
    assert.equal(pageTable.get(9), PageState.missing);
  });

  test("says that its workers are there, and when one is not", async () => {
    await using stage = await EngineStage.start();
    assert.equal(await stage.engine.isResponsive(RESPONSE_BUDGET_MS), true);
    assert.equal(await stage.engine.isResponsive(RESPONSE_BUDGET_MS), true, "again");
  });

  test("says when one of its workers is not there", async () => {
    // Copying from memory that nobody serves blocks the worker in the kernel.
    await using source = new Stage();
    await using stage = await EngineStage.start({ sourceAddress: source.memory.address });
    stage.peer.say("read 0");
    await source.pendingFaults(1);
    assert.equal(await stage.engine.isResponsive(HUNG_MS), false);
    source.uffd.zeropage(source.memory.address, source.memory.sizeBytes);
    assert.equal(await stage.peer.answer(), "0");
    assert.equal(await stage.engine.isResponsive(RESPONSE_BUDGET_MS), true);
  });
});
