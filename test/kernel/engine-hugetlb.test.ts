/**
 * The pool of 2 MiB pages runs empty under a VM: the engine gives up in time, and says what to do.
 */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { createLogger } from "../../src/daemon/log.ts";
import { type ServeOptions, Server } from "../../src/daemon/server.ts";
import type { Session } from "../../src/engine/session.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { occupyPool } from "../support/huge-pool.ts";
import { requires } from "../support/requires.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc", "hugepages");
/** What a guest of these tests has, and what they leave in the pool for it. */
const GUEST_PAGES = 12;
const POOL_PAGES = 4;
/** The engine waits a second for the pool to be refilled. */
const GIVE_UP_BUDGET_MS = 10_000;

describe("a pool of huge pages that is too small", needs, () => {
  const folder = new TestFolder();
  const memory = folder.at("memory");

  before(() => {
    writeFull(memory, GUEST_PAGES * 512);
  });

  after(() => folder[Symbol.dispose]());

  async function start(options: Partial<ServeOptions> = {}): Promise<Server> {
    return await Server.start({
      memory,
      socketPath: folder.at("socket"),
      logger: createLogger("silent", "json"),
      ...options,
    });
  }

  function nextSession(server: Server): Promise<Session> {
    return new Promise((resolve) => {
      server.onSession = resolve;
    });
  }

  for (const threads of [1, 8]) {
    test(`${threads} threads wait: the VM is killed, and the reason names the cure`, async () => {
      using _occupied = occupyPool(POOL_PAGES);
      const server = await start();
      try {
        const attached = nextSession(server);
        await using vmm = new Vmm(server.socketPath, memory, ["--huge", "--threads", threads]);
        const session = await attached;
        const end = await within("the VM was given up", session.ended, GIVE_UP_BUDGET_MS);
        assert.equal(end.reason, "exited");
        assert.match(String(end.failure), /pool of 2 MiB pages is empty\. Raise vm\.nr_hugepages/);
        assert.equal((await vmm.ended()).signal, "SIGKILL");
        assert.equal(server.failedSessions, 1);
        assert.ok(session.stats.counters().installedPages < GUEST_PAGES);
      } finally {
        await server.close();
      }
    });
  }

  test("with the policy poison, the VM gets SIGBUS", async (t) => {
    if (!Userfaultfd.supportedFeatures().has("poison")) return t.skip("this kernel has no poison");
    using _occupied = occupyPool(POOL_PAGES);
    const server = await start({ onError: "poison" });
    try {
      await using vmm = new Vmm(server.socketPath, memory, ["--huge"]);
      assert.equal((await vmm.ended(GIVE_UP_BUDGET_MS)).signal, "SIGBUS");
      assert.equal(server.failedSessions, 0);
    } finally {
      await server.close();
    }
  });

  test("a pool that is refilled in time is worth the wait", async () => {
    const occupied = occupyPool(POOL_PAGES);
    const server = await start();
    try {
      const attached = nextSession(server);
      await using vmm = new Vmm(server.socketPath, memory, ["--huge", "--threads", 4]);
      const session = await attached;
      // On hugetlb an empty pool answers EEXIST, as a page does that is there.
      const isStuck = () => session.stats.counters().alreadyPresent > 16;
      await waitFor("the VM had waited for the pool a while", isStuck);
      occupied.unmap();
      assert.equal((await vmm.result()).mismatches, 0);
      assert.equal((await vmm.ended()).code, 0);
      assert.equal(server.failedSessions, 0);
    } finally {
      occupied.unmap();
      await server.close();
    }
  });

  test("other VMs are served all the while", async () => {
    using _occupied = occupyPool(POOL_PAGES);
    const server = await start({ workers: 1 });
    try {
      const attached = nextSession(server);
      await using hungry = new Vmm(server.socketPath, memory, ["--huge", "--threads", 2]);
      const session = await attached;
      await waitFor("its pool was empty", () => session.stats.counters().alreadyPresent > 10);
      await runVmm(server.socketPath, memory, "--threads", 2);
      assert.equal((await hungry.ended(GIVE_UP_BUDGET_MS)).signal, "SIGKILL");
      await session.ended;
      assert.equal(server.failedSessions, 1);
    } finally {
      await server.close();
    }
  });
});
