/** How a daemon begins and ends: one at a time, by signals, by SIGKILL, under systemd. */
import assert from "node:assert/strict";
import { existsSync, openSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import { OwnedFd } from "../../src/linux/fd.ts";
import { processTimes } from "../../src/linux/process.ts";
import { FdStore } from "../support/fd-store.ts";
import { RunFolder, SupervisorProcess } from "../support/supervisor-process.ts";

const isDead = (pid: number): boolean => processTimes(pid) === null;

describe("one daemon at a time", () => {
  test("a second one is refused, with the number of the first", async () => {
    using folder = new RunFolder();
    await using first = new SupervisorProcess(folder);
    await first.serving(1);
    await using second = new SupervisorProcess(folder);
    assert.equal(await second.ended(), 1);
    assert.match(second.errors, new RegExp(`^conflict: .* as process ${first.pid}\\. Stop it`));
  });

  test("with its supervisor killed, its pagers die at once, and another can start", async () => {
    using folder = new RunFolder();
    await using first = new SupervisorProcess(folder);
    const pid = await first.serving(1);
    await waitFor("a standby is there", () => first.pagers.length === 2, 20_000);
    const pagers = first.pagers;
    void first.tell(pid, { do: "hang" }).catch(() => undefined);
    first.kill("SIGKILL");
    await first.ended();
    await using second = new SupervisorProcess(folder);
    await second.serving(1);
    assert.deepEqual(pagers.map(isDead), [true, true]);
  });
});

describe("a pager that outlives its supervisor", () => {
  test("keeps others from starting, as it may still read from VMs", async () => {
    using folder = new RunFolder();
    folder.script({ outlives: true });
    await using first = new SupervisorProcess(folder);
    const note = folder.file("outlives");
    const pid = Number(
      await waitFor("it is there", () => existsSync(note) && readFileSync(note, "utf8"), 20_000),
    );
    try {
      first.kill("SIGKILL");
      await waitFor("the supervisor is dead", () => isDead(first.pid));
      folder.script({});
      await using second = new SupervisorProcess(folder);
      assert.equal(await second.ended(), 1);
      assert.match(second.errors, /^conflict: A pager of a daemon that died still runs/);
    } finally {
      process.kill(pid, "SIGKILL");
    }
    await using third = new SupervisorProcess(folder);
    await third.serving(1);
  });
});

describe("SIGTERM", () => {
  test("asks the pager to finish, and ends with all of them", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    await supervisor.serving(1);
    await waitFor("a standby is there", () => supervisor.pagers.length === 2, 20_000);
    const pagers = supervisor.pagers;
    supervisor.kill("SIGTERM");
    assert.equal(await supervisor.ended(), 0);
    assert.deepEqual(pagers.map(isDead), [true, true]);
  });

  test("waits for the pager no longer than the deadline", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder, { stopTimeoutMs: 300 });
    await supervisor.tell(await supervisor.serving(1), { do: "ignoreStop" });
    supervisor.kill("SIGTERM");
    assert.equal(await supervisor.ended(), 0);
    assert.equal(supervisor.lines("The pager did not finish in time").length, 1);
  });

  test("a second time does not wait at all", async () => {
    using folder = new RunFolder();
    await using supervisor = new SupervisorProcess(folder);
    const pid = await supervisor.serving(1);
    await supervisor.tell(pid, { do: "ignoreStop" });
    supervisor.kill("SIGTERM");
    const stops = () => supervisor.tell<unknown[]>(pid, { do: "stops" });
    await waitFor("the pager was told", async () => (await stops()).length > 0, 10_000);
    assert.deepEqual(await stops(), [{ isStored: false, deadlineMs: 30_000 }]);
    supervisor.kill("SIGINT");
    assert.equal(await supervisor.ended(), 0);
    assert.equal(supervisor.lines("The pager did not finish in time").length, 0);
  });

  test("before any pager serves ends it too", async () => {
    using folder = new RunFolder();
    folder.script({ hangsAtStart: true });
    await using supervisor = new SupervisorProcess(folder);
    await waitFor("a pager starts", () => supervisor.pagers.length === 1, 20_000);
    supervisor.kill("SIGTERM");
    assert.equal(await supervisor.ended(), 0);
  });
});

describe("a service manager", () => {
  test("is told what goes on", async () => {
    using folder = new RunFolder();
    using manager = new FdStore(folder.file("notify"));
    const environment = { NOTIFY_SOCKET: manager.path, WATCHDOG_USEC: "200000" };
    await using supervisor = new SupervisorProcess(folder, { environment });
    const first = await supervisor.serving(1);
    await manager.told("READY=1");
    await manager.told("WATCHDOG=1", 5);
    await supervisor.tell(first, { do: "reload" });
    await manager.told("READY=1", 2);
    assert.match((await manager.told("RELOADING=1")) ?? "", /\nMONOTONIC_USEC=\d+$/);
    folder.script({ exitAtStart: 3 });
    await supervisor.tell(await supervisor.serving(2), { do: "reload" });
    await manager.told("READY=1", 3);
    supervisor.kill("SIGTERM");
    await manager.told("STOPPING=1");
    assert.equal(await supervisor.ended(), 0);
  });

  test("stores entries, which survive supervisor and pagers", async () => {
    using folder = new RunFolder();
    using manager = new FdStore(folder.file("notify"));
    const environment = { NOTIFY_SOCKET: manager.path, FDSTORE: "100" };
    {
      await using first = new SupervisorProcess(folder, { environment });
      const pid = await first.serving(1);
      await first.tell(pid, { do: "keep", name: "one", contents: ["old", "too"] });
      await first.tell(pid, { do: "keep", name: "one", contents: ["1"] });
      await first.tell(pid, { do: "keep", name: "s.7.vm", contents: ["a", "b", "c"] });
      await first.tell(pid, { do: "keep", name: "gone", contents: ["x", "y"] });
      await first.tell(pid, { do: "drop", name: "gone" });
      await manager.holds(["one", "s.7.vm/0/3", "s.7.vm/1/3", "s.7.vm/2/3"]);
      first.kill("SIGKILL");
      await first.ended();
    }
    // In another order, and with one entry of which a part is missing.
    const stored = [...manager.stored].reverse();
    using part = new OwnedFd(openSync("/dev/null", "r"));
    stored.push({ name: "torn/1/2", fd: part.fd });
    await using second = new SupervisorProcess(folder, { environment, stored });
    const pid = await second.serving(1);
    const inherited = await second.inherited(pid);
    assert.deepEqual(inherited.get("one"), ["1"]);
    assert.deepEqual(inherited.get("s.7.vm"), ["a", "b", "c"]);
    assert.equal(inherited.size, 2);
    assert.equal((await second.logged("A stored entry is not whole")).entry, "torn");
    await second.tell(pid, { do: "ignoreStop" });
    second.kill("SIGTERM");
    const stops = () => second.tell<unknown[]>(pid, { do: "stops" });
    await waitFor("the pager was told", async () => (await stops()).length > 0, 10_000);
    assert.deepEqual(await stops(), [{ isStored: true, deadlineMs: 2000 }]);
    assert.equal(await second.ended(), 0);
    await manager.holds(["one", "s.7.vm/0/3", "s.7.vm/1/3", "s.7.vm/2/3"]);
  });

  test("keeps no more than it can store: the pager is told", async () => {
    using folder = new RunFolder();
    using manager = new FdStore(folder.file("notify"));
    const environment = { NOTIFY_SOCKET: manager.path, FDSTORE: "5" };
    await using supervisor = new SupervisorProcess(folder, { environment });
    const pid = await supervisor.serving(1);
    const fill = { do: "fill", fdsEach: 2 } as const;
    const { count, reason } = await supervisor.tell<{ count: number; reason: string }>(pid, fill);
    assert.equal(count, 2);
    assert.match(reason, /FileDescriptorStoreMax/);
  });

  test("is not asked again by daemons that it did not start", async () => {
    using folder = new RunFolder();
    const environment = { LISTEN_PID: "1", LISTEN_FDS: "1", LISTEN_FDNAMES: "one" };
    await using supervisor = new SupervisorProcess(folder, { environment });
    assert.equal((await supervisor.inherited(await supervisor.serving(1))).size, 0);
  });
});
