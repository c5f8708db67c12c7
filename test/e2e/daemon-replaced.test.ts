/** Pagers that are replaced without having died by themselves, and what may go wrong with that. */
import assert from "node:assert/strict";
import { existsSync, writeFileSync } from "node:fs";
import { after, describe, test } from "node:test";
import type { FaultlineError } from "../../src/base/errors.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { Random, TestFolder } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { VmKinds, type VmLife } from "../support/restored-vms.ts";

const needs = requires("userfaultfd", "cc");
const needsMounts = requires("userfaultfd", "cc", "root");
const SEED = 2;
const VMS = 4;
const BUDGET_MS = 30_000;

const folder = new TestFolder();
const random = new Random(SEED);
const kinds = new VmKinds(folder, random);
after(() => folder[Symbol.dispose]());

/** VMs at work on a daemon. */
class Crowd implements AsyncDisposable {
  readonly vms: VmLife[] = [];

  static async on(daemon: DaemonProcess): Promise<Crowd> {
    const crowd = new Crowd();
    const kind = kinds.file();
    try {
      for (let index = 0; index < VMS; index++) {
        const { id, socketPath } = await daemon.client.createSession(kind.spec);
        crowd.vms.push(kind.start(socketPath, random));
        await daemon.attached(id);
      }
      return crowd;
    } catch (error) {
      await crowd[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Rejects if a byte is wrong. */
  async finish(): Promise<void> {
    await Promise.all(this.vms.map((vm) => vm.finish()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const vm of this.vms) await vm[Symbol.asyncDispose]();
  }
}

// At the same time: both wait for the watchdog.
describe("a pager that hangs", { ...needs, concurrency: true }, () => {
  test("is replaced by the watchdog", async () => {
    await using daemon = await DaemonProcess.start(folder);
    await using crowd = await Crowd.on(daemon);
    const hung = daemon.pager;
    process.kill(hung, "SIGSTOP");
    await daemon.logged("Another pager serves");
    const [ended] = daemon.lines("A pager ended");
    assert.equal(ended?.pid, hung);
    assert.match(String(ended?.killedFor), /^silent for \d+ ms$/);
    await crowd.finish();
  });

  test("while it stands by is replaced, and nobody notices", async () => {
    using other = new TestFolder();
    await using daemon = await DaemonProcess.start(other, ["--memory-folder", folder.path]);
    await using crowd = await Crowd.on(daemon);
    await daemon.stoodBy();
    process.kill(daemon.standby!, "SIGKILL");
    await daemon.logged("A pager stands by", 3);
    process.kill(daemon.standby!, "SIGSTOP");
    await daemon.logged("A pager stands by", 4);
    await crowd.finish();
    assert.equal((await daemon.client.host()).takeovers, 0);
  });
});

describe("a reload", needs, () => {
  test("under load loses no VM and no request, as often as it is asked for", async () => {
    await using daemon = await DaemonProcess.start(folder);
    await using crowd = await Crowd.on(daemon);
    const { client } = daemon;
    const asking = keepAsking(daemon);
    const seen = new Set([daemon.pager]);
    for (let reload = 0; reload < 3; reload++) {
      const { pid, takeovers } = await client.reload();
      assert.equal(takeovers, reload + 1);
      seen.add(pid);
    }
    daemon.signal("SIGHUP");
    await daemon.logged("Another pager serves", 4);
    assert.equal(seen.size, 4, "each time a new one");
    assert.ok((await asking.stop()) > 0);
    await crowd.finish();
  });

  test("with a broken configuration is refused, and the old pager goes on", async () => {
    const config = folder.at("config.json");
    writeFileSync(config, JSON.stringify({ maxSessions: 10 }));
    await using daemon = await DaemonProcess.start(folder, ["--config", config]);
    await using crowd = await Crowd.on(daemon);
    const { client } = daemon;
    const { pid } = await client.host();
    writeFileSync(config, JSON.stringify({ maxSessions: "many" }));
    await assert.rejects(client.reload(), { code: "conflict", message: /exit code 2/ });
    assert.match(daemon.errors, /maxSessions is "many"/);
    assert.equal((await client.host()).pid, pid);
    writeFileSync(config, JSON.stringify({ maxSessions: 20 }));
    const after = await client.reload();
    assert.notEqual(after.pid, pid);
    assert.equal(after.maxSessions, 20);
    await crowd.finish();
  });

  test("with a cache folder of no use is refused; pagers that are needed come up", async () => {
    const config = folder.at("cache.json");
    writeFileSync(config, JSON.stringify({ cacheFolder: folder.at("cache") }));
    await using daemon = await DaemonProcess.start(folder, ["--config", config]);
    await using crowd = await Crowd.on(daemon);
    const { client } = daemon;
    const { pid } = await client.host();
    const cacheFolder = `${config}/cache`;
    writeFileSync(config, JSON.stringify({ cacheFolder, maxSessions: 20 }));
    await assert.rejects(client.reload(), { code: "conflict", message: /exit code 2/ });
    assert.match(daemon.errors, /cacheFolder \S+ cannot be used/);
    assert.equal((await client.host()).pid, pid);
    // The same settings, in one that stands by, and then serves: without it all VMs would stand.
    await daemon.stoodBy();
    process.kill(daemon.standby!, "SIGKILL");
    await daemon.logged("A pager stands by", 3);
    assert.equal((await daemon.killPager()).maxSessions, 20);
    await crowd.finish();
    // Whom nobody needs yet it tells at once.
    using other = new TestFolder();
    const started = DaemonProcess.start(other, ["--cache-dir", cacheFolder]);
    await assert.rejects(started, /cacheFolder \S+ cannot be used/);
  });

  test("does not move the run folder: that takes a new start", async () => {
    const config = folder.at("moved.json");
    const memoryFolders = [folder.path];
    writeFileSync(config, JSON.stringify({ runFolder: folder.at("run"), memoryFolders }));
    await using daemon = await DaemonProcess.start(folder, ["--config", config], {
      isConfigured: true,
    });
    await using crowd = await Crowd.on(daemon);
    const { client } = daemon;
    const { pid } = await client.host();
    // Below a file: whoever tried to move there would fail.
    const moved = { runFolder: `${config}/run`, memoryFolders, maxSessions: 20 };
    writeFileSync(config, JSON.stringify(moved));
    const after = await client.reload();
    assert.notEqual(after.pid, pid);
    assert.deepEqual([after.takeovers, after.maxSessions], [1, 20]);
    const { id, socketPath } = await client.createSession(kinds.file().spec);
    assert.equal(socketPath, `${daemon.runFolder}/sessions/${id}.sock`);
    await crowd.finish();
  });
});

describe("a run folder that is full", needsMounts, () => {
  test("takes no more sessions, and costs nobody anything", async () => {
    // The folder, the lock, the control socket, the folder of sockets, and two sockets.
    const mounting = 'mkdir -p "$1"; mount -t tmpfs -o size=4k,nr_inodes=6 none "$1"';
    await using daemon = await DaemonProcess.start(folder, [], { mounting });
    const { client } = daemon;
    const { spec, start } = kinds.file();
    const one = await client.createSession({ ...spec, id: "one" });
    const two = await client.createSession({ ...spec, id: "two" });
    await assert.rejects(client.createSession(spec), { code: "socket-failed" });
    await using first = start(daemon.reach(one.socketPath), random);
    await daemon.attached("one");
    await daemon.stoodBy();
    const { sessions } = await daemon.killPager();
    assert.deepEqual(sessions, { waiting: 1, attached: 1 });
    await using second = start(daemon.reach(two.socketPath), random);
    await daemon.attached("two");
    for (const vm of [first, second]) await vm.finish();
    // The connection of a VM keeps the inode of the socket that it came through.
    const hasEnded = async (): Promise<boolean> => (await client.sessions()).length === 0;
    await waitFor("the sessions end", hasEnded, BUDGET_MS);
    // Reports of both try to have what is free.
    await daemon.logged("Restore reports cannot be kept");
    const isThere = async (): Promise<boolean> => {
      try {
        await client.createSession({ ...spec, id: "three" });
        return true;
      } catch (error) {
        assert.equal((error as FaultlineError).code, "socket-failed");
        return false;
      }
    };
    await waitFor("there is room for a session", isThere, BUDGET_MS);
    const reports = daemon.reach(`${daemon.runFolder}/reports`);
    await waitFor("reports leave nothing", () => !existsSync(reports), BUDGET_MS);
  });
});

/** Requests of all kinds, one after the other, until it is stopped: how many were answered. */
function keepAsking({ client }: DaemonProcess): { stop(): Promise<number> } {
  let isOver = false;
  let answered = 0;
  const spec = kinds.file().spec;
  const ask = async (): Promise<void> => {
    while (!isOver) {
      const { id } = await client.createSession(spec);
      await client.host();
      assert.ok((await client.sessions()).some((session) => session.id === id));
      await client.session(id);
      answered += 4;
    }
  };
  const asking = [ask(), ask()];
  for (const each of asking) each.catch(() => undefined);
  const stop = async (): Promise<number> => {
    const atLeast = answered + 4;
    await waitFor("it answers", () => answered >= atLeast, BUDGET_MS).catch(() => undefined);
    isOver = true;
    await Promise.all(asking);
    return answered;
  };
  return { stop };
}
