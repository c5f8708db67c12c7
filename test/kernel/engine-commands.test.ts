/** What an engine is told while VMs run: complete one, and say whether you are there. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { Engine } from "../../src/engine/engine.ts";
import type { Session } from "../../src/engine/session.ts";
import { SessionMemory } from "../../src/engine/session-memory.ts";
import { within } from "../../src/kit/wait.ts";
import { duplicateFd } from "../../src/linux/fd.ts";
import { openPidfd } from "../../src/linux/process.ts";
import { PageState } from "../../src/pager/page-table.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import { MemoryFiles } from "../../src/source/memory-files.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { MemoryPeer } from "../support/memory-peer.ts";
import { requires } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";

const needs = requires("userfaultfd");
const PAGES = 16;
const RESPONSE_BUDGET_MS = 20_000;
/** Long enough for one that hangs. */
const HUNG_MS = 50;

/** An engine that serves a peer's memory from a file, in session memory of a memfd. */
class EngineStage {
  readonly bytes: Buffer;
  readonly peer: MemoryPeer;
  readonly engine: Engine;
  readonly session: Session;
  readonly #folder: TestFolder;
  readonly #files: MemoryFiles;

  private constructor(
    folder: TestFolder,
    bytes: Buffer,
    peer: MemoryPeer,
    engine: Engine,
    sourceAddress: number | undefined,
  ) {
    this.#folder = folder;
    this.bytes = bytes;
    this.peer = peer;
    this.engine = engine;
    this.#files = MemoryFiles.open(folder.at("memory"));
    const region = { baseHostAddress: peer.address, sizeBytes: peer.sizeBytes, imageOffset: 0 };
    const { layers } = this.#files;
    const { memory, fd } = SessionMemory.inMemfd(PAGES, new Uint8Array());
    fd.close();
    this.session = engine.attach({
      pid: peer.process.pid!,
      userfaultfd: Userfaultfd.fromFd(duplicateFd(peer.uffd.fd)),
      pidfd: openPidfd(peer.process.pid!),
      socket: null,
      regions: new RegionMap([region as never], PAGE),
      image: { ...layers, addresses: [sourceAddress ?? layers.addresses[0]!] },
      onError: "kill",
      memory,
    });
  }

  /** `sourceAddress`: where to copy from instead of from the file. */
  static async start(sourceAddress?: number): Promise<EngineStage> {
    const folder = new TestFolder();
    const bytes = writeFull(folder.at("memory"), PAGES);
    const supply = { demand: async () => {}, hurry: () => {}, release: () => {} };
    const engine = await Engine.start({ workers: 2, spin: "off", supply });
    const peer = await MemoryPeer.start({ features: ["eventRemove"] });
    return new EngineStage(folder, bytes, peer, engine, sourceAddress);
  }

  /** The first byte of a page, as the peer reads it. */
  async read(page: number): Promise<number> {
    this.peer.say(`read ${page * PAGE}`);
    return Number(await this.peer.answer());
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.peer[Symbol.asyncDispose]();
    await this.engine.close();
    this.#files.close();
    this.#folder[Symbol.dispose]();
  }
}

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
    await using stage = await EngineStage.start(source.memory.address);
    stage.peer.say("read 0");
    await source.pendingFaults(1);
    assert.equal(await stage.engine.isResponsive(HUNG_MS), false);
    source.uffd.zeropage(source.memory.address, source.memory.sizeBytes);
    assert.equal(await stage.peer.answer(), "0");
    assert.equal(await stage.engine.isResponsive(RESPONSE_BUDGET_MS), true);
  });
});
