/** What the scheduler tells of threads that wait for a CPU. */
import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { describe, test } from "node:test";
import { RunDelayWatch } from "../../src/daemon/reports/run-delays.ts";
import type { Session } from "../../src/engine/session.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { monotonicUs } from "../../src/linux/clock.ts";
import { runDelayUs, threadsOf } from "../../src/linux/run-delay.ts";
import { threadId } from "../../src/linux/scheduling.ts";

const BUDGET_MS = 20_000;
const LONG_US = 50_000;
/** No process has this number: it is above the kernel's largest. */
const NOBODY = 2 ** 22 + 1;
const counts = existsSync("/proc/self/schedstat");
const skip = counts ? false : "this kernel does not count how long threads wait for a CPU";

/** Two processes that want the same CPU all the time. */
class Rivals {
  readonly pids: readonly number[];
  readonly #children: readonly ChildProcess[];

  constructor() {
    const busy = ["-c", "0", process.execPath, "-e", "for (;;);"];
    this.#children = [1, 2].map(() => spawn("taskset", busy, { stdio: "ignore" }));
    this.pids = this.#children.map(({ pid }) => pid!);
  }

  /** It has waited for the other, for a while more. */
  async waited(pid: number): Promise<void> {
    const before = runDelayUs(pid, pid) ?? 0;
    const hasGrown = () => (runDelayUs(pid, pid) ?? 0) > before + LONG_US;
    await waitFor("one has waited for the other", hasGrown, BUDGET_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const gone = this.#children.map((child) => once(child, "exit"));
    for (const child of this.#children) child.kill("SIGKILL");
    await Promise.all(gone);
  }
}

describe("run delays", () => {
  test("are told of threads that there are", { skip }, () => {
    const own = runDelayUs("self", threadId());
    assert.ok(own !== null && own >= 0);
    assert.equal(runDelayUs("self", NOBODY), null);
    assert.equal(runDelayUs(NOBODY, NOBODY), null);
  });

  test("threads are those of the process", () => {
    assert.ok(threadsOf("self").includes(threadId()));
    assert.deepEqual(threadsOf(process.pid), threadsOf("self"));
    assert.deepEqual(threadsOf(NOBODY), []);
  });

  test("grow while two processes want the same CPU", { skip }, async () => {
    await using rivals = new Rivals();
    for (const pid of rivals.pids) await rivals.waited(pid);
  });
});

/** All of a session that is looked at. */
function sessionOf(pid: number): { account: { markUs: number }; faults: number; session: Session } {
  const looked = { account: { markUs: 0 }, faults: 0 };
  const stats = { counters: () => ({ faults: looked.faults }) };
  const session = { pid, workerThreadId: threadId(), account: looked.account, stats };
  return Object.assign(looked, { session: session as unknown as Session });
}

describe("a watch of one VM's threads", { skip }, () => {
  const moment = (ofWorker = 0) => ({
    nowUs: monotonicUs(),
    faultsOfWorkers: new Map([[threadId(), ofWorker]]),
  });

  test("counts what they waited until somebody waited last, and no more", async () => {
    await using rivals = new Rivals();
    const [pid] = rivals.pids as [number];
    const vm = sessionOf(pid);
    await rivals.waited(pid);
    const watch = new RunDelayWatch(vm.session, moment());
    assert.equal(watch.untilMark.guestUs, 0, "what was before is not counted");
    await rivals.waited(pid);
    watch.sample(moment());
    assert.equal(watch.untilMark.guestUs, 0, "nobody has waited yet");
    await rivals.waited(pid);
    vm.account.markUs = monotonicUs();
    watch.sample(moment());
    const { guestUs } = watch.untilMark;
    assert.ok(guestUs !== null && guestUs > 2 * LONG_US, `${guestUs} µs`);
    await rivals.waited(pid);
    watch.sample(moment());
    assert.equal(watch.untilMark.guestUs, guestUs, "it waits for no memory any more");
  });

  test("gives each VM its share of their fault worker's", () => {
    const vm = sessionOf(process.pid);
    const watch = new RunDelayWatch(vm.session, moment(0));
    vm.account.markUs = monotonicUs();
    watch.sample(moment(100));
    assert.equal(watch.untilMark.workerUs, 0, "all of these faults were others'");
  });

  test("keeps what it knows of a VM that is gone", async () => {
    const vm = sessionOf(NOBODY);
    const watch = new RunDelayWatch(vm.session, moment());
    assert.equal(watch.untilMark.guestUs, null);
    const rivals = new Rivals();
    const [pid] = rivals.pids as [number];
    const other = sessionOf(pid);
    const seen = new RunDelayWatch(other.session, moment());
    await rivals.waited(pid);
    other.account.markUs = monotonicUs();
    seen.sample(moment());
    const { guestUs } = seen.untilMark;
    await rivals[Symbol.asyncDispose]();
    other.account.markUs = monotonicUs();
    seen.sample(moment());
    assert.ok(guestUs! > 0 && seen.untilMark.guestUs! >= guestUs!);
  });
});
