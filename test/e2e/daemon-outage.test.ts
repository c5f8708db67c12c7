/**
 * A store of images that is out of reach for a while, under a daemon: by policy VMs wait or are
 * killed, and nobody else is touched. Longer: FAULTLINE_OUTAGE_S=60.
 */
import assert from "node:assert/strict";
import { cpSync, readdirSync, readFileSync, readlinkSync } from "node:fs";
import { after, before, describe, test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { FaultlineError } from "../../src/base/errors.ts";
import type { ErrorPolicy } from "../../src/engine/wire.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { FaultyProxy, type ProxyOptions } from "../support/faulty-proxy.ts";
import { TestFolder } from "../support/fixtures.ts";
import { ImageStage, writeMemory } from "../support/image-stage.ts";
import { Nginx } from "../support/nginx.ts";
import { requires } from "../support/requires.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

/** The outage lasts at least so long, and until policy has done its work. */
const OUTAGE_S = Number(process.env.FAULTLINE_OUTAGE_S ?? 0);
const PAGE_COUNT = 8192;
/** Of each policy. */
const VMS = 3;
/** Chunks that come before the outage: VMs are in the middle of their restores. */
const CHUNKS_BEFORE = 40;
/** A chunk is given up after 16 attempts, which takes some 12 s, or after 30 s. */
const GIVEN_UP_MS = 60_000;
const BUDGET_MS = 20_000;
const names = Array.from({ length: VMS }, (_, index) => String(index));
const WORKING: ProxyOptions["shares"] = { error: 0, reset: 0, hang: 0 };

const needs = requires("userfaultfd", "cc", "nginx");

/** A web server with two images, reached through a proxy that can be broken. */
class Store implements AsyncDisposable {
  readonly folder = new TestFolder();
  readonly stage = new ImageStage();
  readonly memory = this.stage.path("memory");
  readonly #shares = { ...WORKING };
  #nginx!: Nginx;
  proxy!: FaultyProxy;

  async start(): Promise<void> {
    this.#nginx = await Nginx.start();
    writeMemory(this.memory, PAGE_COUNT, 5);
    for (const name of ["web", "other"]) {
      this.stage.json("pack", this.memory, "--name", name, "--chunk-size", "64K");
    }
    cpSync(this.stage.store, `${this.#nginx.path}/images`, { recursive: true });
    this.proxy = await FaultyProxy.start(this.#nginx.port, { shares: this.#shares });
  }

  async daemon(...args: readonly string[]): Promise<DaemonProcess> {
    const place = `http://127.0.0.1:${this.proxy.port}/images`;
    return await DaemonProcess.start(this.folder, ["--store", place, ...args]);
  }

  /** It goes on for so many requests; then it is out of reach. */
  break(requestsBefore = 0): void {
    this.proxy.script.push(...Array.from({ length: requestsBefore }, () => "none" as const));
    // A hung request costs seconds: there is time for that only in long runs.
    Object.assign(this.#shares, { error: 0.5, reset: 0.5, hang: 0 });
    if (OUTAGE_S > 0) Object.assign(this.#shares, { error: 0.4, reset: 0.4, hang: 0.2 });
  }

  mend(): void {
    this.proxy.script.length = 0;
    Object.assign(this.#shares, WORKING);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.proxy?.[Symbol.asyncDispose]();
    await this.#nginx?.[Symbol.asyncDispose]();
    this.stage[Symbol.dispose]();
    this.folder[Symbol.dispose]();
  }
}

const store = new Store();
if (needs.skip === undefined) before(() => store.start());
after(() => store[Symbol.asyncDispose]());

async function socketOf(daemon: DaemonProcess, id: string, onError: ErrorPolicy): Promise<string> {
  const spec = { memory: "web", id, onError, connectWithinS: 0 };
  return (await daemon.client.createSession(spec)).socketPath;
}

function startVm(socketPath: string): Vmm {
  return new Vmm(socketPath, store.memory, ["--threads", 2, "--linger", 600_000]);
}

function fdCount(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

/** Whether a process has the socket that listens at this path. */
function holdsListener(pid: number, path: string): boolean {
  const listeners = readFileSync("/proc/net/unix", "utf8").split("\n");
  const [inode] =
    listeners
      .find((line) => line.endsWith(` ${path}`))
      ?.split(" ")
      .slice(-2) ?? [];
  const folder = `/proc/${pid}/fd`;
  const isIt = (fd: string): boolean => {
    try {
      return readlinkSync(`${folder}/${fd}`) === `socket:[${inode}]`;
    } catch {
      return false; // Closed meanwhile.
    }
  };
  return readdirSync(folder).some(isIt);
}

async function waitReason(daemon: DaemonProcess, id: string): Promise<string> {
  const look = async () => (await daemon.client.session(id)).vm?.waitsFor;
  return await waitFor("it says what it waits for", look, GIVEN_UP_MS);
}

/** The sessions of killed VMs have ended, with a reason; nothing is wrong with any other. */
async function assertOnlyTheirs(daemon: DaemonProcess): Promise<void> {
  const all = await daemon.client.sessions({ withEnded: true });
  const ended = all.filter(({ end }) => end !== null);
  const ids = ended.map(({ id }) => id).sort();
  assert.deepEqual(
    ids,
    names.map((name) => `kill-${name}`),
  );
  for (const { end } of ended) {
    assert.equal(end?.reason, "failed");
    assert.match(end?.message ?? "", /cannot be had/);
  }
  const live = all.filter(({ vm, end }) => vm !== null && end === null);
  assert.deepEqual(
    live.map(({ vm }) => vm?.waitsFor),
    Array(VMS + 1).fill(null),
  );
  assert.equal(daemon.lines("A VM could not be served on: it was killed").length, VMS);
  assert.equal((await daemon.client.session("idle")).state, "waiting");
}

describe("an outage of the store", needs, () => {
  test("costs the VMs whose policy is to be killed; others wait for its end", async () => {
    // So small a cache that each VM needs the store.
    await using daemon = await store.daemon("--cache-size", "4", "--no-standby");
    await using done = startVm(await socketOf(daemon, "done", "kill"));
    assert.equal((await done.result()).mismatches, 0);
    await socketOf(daemon, "idle", "kill");
    const sockets = async (onError: ErrorPolicy) =>
      await Promise.all(names.map((name) => socketOf(daemon, `${onError}-${name}`, onError)));
    const [toKill, toWait] = [await sockets("kill"), await sockets("wait")];
    store.break(CHUNKS_BEFORE);
    const killed = toKill.map(startVm);
    const waiting = toWait.map(startVm);
    try {
      const long = delay(OUTAGE_S * 1000);
      for (const vm of killed) assert.equal((await vm.ended(GIVEN_UP_MS)).signal, "SIGKILL");
      for (const name of names) assert.match(await waitReason(daemon, `wait-${name}`), /chunk/);
      await long;
      store.mend();
      for (const vm of waiting) assert.equal((await vm.result(GIVEN_UP_MS)).mismatches, 0);
      await assertOnlyTheirs(daemon);
    } finally {
      store.mend();
      for (const vm of [...killed, ...waiting]) await vm[Symbol.asyncDispose]();
    }
  });

  test("refuses new sessions with the reason, and leaves nothing of them", async () => {
    await using daemon = await store.daemon("--no-standby");
    const { client } = daemon;
    const socketPath = await socketOf(daemon, "before", "kill");
    // The last of what is kept of a session: the supervisor reads it a moment later.
    const isKept = () => holdsListener(daemon.pid, socketPath);
    await waitFor("the session is kept", isKept, BUDGET_MS);
    const before = [fdCount(daemon.pid), fdCount(daemon.pager)];
    store.break();
    try {
      const refused = client.createSession({ memory: "other", id: "during" });
      await assert.rejects(refused, (error) => {
        assert.ok(error instanceof FaultlineError && error.code === "store-failed");
        assert.match(error.message, /Cannot read other\.caibx in http.*, after \d+ attempts/);
        return true;
      });
    } finally {
      store.mend();
    }
    const now = () => [fdCount(daemon.pid), fdCount(daemon.pager)];
    const isBack = () => now().every((count, index) => count <= before[index]!);
    await waitFor("all descriptors are given back", isBack, BUDGET_MS);
    const ids = (await client.sessions({ withEnded: true })).map(({ id }) => id);
    assert.deepEqual(ids, ["before"]);
    const again = await client.createSession({ memory: "other", id: "during" });
    await runVmm(again.socketPath, store.memory);
  });

  test("is no matter to a pager that takes over: it has all that was fetched", async () => {
    await using daemon = await store.daemon();
    await using first = startVm(await socketOf(daemon, "first", "kill"));
    assert.equal((await first.result()).mismatches, 0);
    const socketPath = await socketOf(daemon, "second", "kill");
    await daemon.stoodBy();
    store.break();
    const asked = store.proxy.requests;
    try {
      await daemon.killPager();
      assert.equal((await daemon.client.session("first")).vm?.takeovers, 1);
      await runVmm(socketPath, store.memory);
      assert.equal(store.proxy.requests, asked, "the store was not even asked");
    } finally {
      store.mend();
    }
    assert.deepEqual(daemon.lines("A VM could not be taken over"), []);
  });
});
