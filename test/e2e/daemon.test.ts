/** `faultline daemon`: sessions from their creation to their end, and under pagers that die. */
import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 16_384;
const BUDGET_MS = 20_000;

const folder = new TestFolder();
const memory = folder.at("memory");

before(() => {
  writeFull(memory, PAGE_COUNT);
});

after(() => folder[Symbol.dispose]());

async function finishes(vmm: Vmm): Promise<void> {
  const { mismatches, nonzero_after_remove } = await vmm.result();
  assert.deepEqual(
    { mismatches, nonzero_after_remove },
    { mismatches: 0, nonzero_after_remove: 0 },
  );
}

function fails(code: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof FaultlineError, String(error));
    assert.equal(error.code, code, error.message);
    return true;
  };
}

describe("a session", needs, () => {
  test("serves one VM, and ends with it", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const created = await client.createSession({ memory, id: "one", labels: { job: "test" } });
    assert.equal(created.state, "waiting");
    assert.equal(created.sizeBytes, PAGE_COUNT * 4096);
    await using vmm = new Vmm(created.socketPath, memory, ["--linger", 60_000]);
    await finishes(vmm);
    const view = await client.session("one");
    assert.equal(view.state, "attached");
    assert.equal(view.vm?.pid, vmm.pid);
    assert.equal(view.vm?.pages.missing, 0);
    assert.equal(existsSync(created.socketPath), false, "a socket is for one VM");
    await client.killSession("one");
    const ended = await client.session("one");
    assert.deepEqual([ended.state, ended.end?.reason], ["ended", "killed"]);
    assert.deepEqual(await client.sessions(), []);
    assert.equal((await client.sessions({ withEnded: true })).length, 1);
  });

  test("that no VM connects to ends by itself", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const { id } = await client.createSession({ memory, connectWithinS: 1 });
    const expired = async () => (await client.session(id)).end;
    const end = await waitFor("the session expires", expired, BUDGET_MS);
    assert.equal(end.reason, "expired");
  });

  test("whose VM's handshake is refused waits for a better one", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const other = folder.at("other");
    writeFull(other, 64);
    const { id, socketPath } = await client.createSession({ memory });
    await using _wrong = new Vmm(socketPath, other);
    const refusal = async () => (await client.session(id)).lastRefusal;
    assert.match(await waitFor("it is refused", refusal, BUDGET_MS), /has 262144 bytes of memory/);
    await using right = new Vmm(socketPath, memory, ["--touch", "random:500"]);
    await finishes(right);
  });

  test("is refused what the daemon's configuration does not allow", async () => {
    await using daemon = await DaemonProcess.start(folder, ["--max-sessions", "1"]);
    const { client } = daemon;
    await assert.rejects(client.createSession({ memory: "/etc/passwd" }), fails("not-allowed"));
    const socketPath = "/tmp/elsewhere.sock";
    await assert.rejects(client.createSession({ memory, socketPath }), fails("not-allowed"));
    await assert.rejects(client.session("none"), fails("no-session"));
    await client.createSession({ memory, id: "only" });
    await assert.rejects(client.createSession({ memory }), fails("limit"));
    await assert.rejects(client.completeSession("only"), fails("conflict"));
    await client.killSession("only");
    await client.drain(true);
    await assert.rejects(client.createSession({ memory }), fails("limit"));
  });

  test("is completed, and its VM needs nobody any more", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const { id, socketPath } = await client.createSession({ memory });
    const options = ["--touch", "random:100", "--linger", 60_000];
    await using vmm = new Vmm(socketPath, memory, options);
    await finishes(vmm);
    await assert.rejects(client.detachSession(id), fails("conflict"));
    await client.completeSession(id);
    const completed = async () => (await client.session(id)).end;
    assert.equal((await waitFor("it is complete", completed, BUDGET_MS)).reason, "complete");
  });
});

describe("a pager that dies", needs, () => {
  test("costs no VM a byte", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const options = ["--threads", 4, "--balloon", "--touch", "random:16000"];
    const vms: Vmm[] = [];
    try {
      for (let index = 0; index < 4; index++) {
        const { socketPath } = await client.createSession({ memory, id: `vm-${index}` });
        vms.push(new Vmm(socketPath, memory, options));
      }
      for (let kill = 0; kill < 4; kill++) {
        await daemon.stoodBy();
        const host = await daemon.killPager();
        assert.equal(host.takeovers, kill + 1);
      }
      for (const vmm of vms) await finishes(vmm);
      assert.deepEqual(daemon.lines("A VM could not be taken over"), []);
    } finally {
      for (const vmm of vms) await vmm[Symbol.asyncDispose]();
    }
  });

  test("is replaced on request, and everything goes on", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const { id, socketPath } = await client.createSession({ memory });
    const waiting = await client.createSession({ memory, id: "waiting" });
    await using vmm = new Vmm(socketPath, memory, ["--linger", 60_000]);
    await daemon.attached(id);
    const before = daemon.pager;
    const host = await client.reload();
    assert.notEqual(host.pid, before);
    await finishes(vmm);
    assert.equal((await client.session(id)).vm?.takeovers, 1);
    assert.equal((await client.session("waiting")).state, "waiting");
    await client.createSession({ memory });
    assert.equal((await client.images()).length, 1, "one memory, whoever has opened it");
    await using late = new Vmm(waiting.socketPath, memory, ["--touch", "random:500"]);
    await finishes(late);
  });
});
