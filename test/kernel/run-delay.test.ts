/** What the scheduler tells of threads that wait for a CPU. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { describe, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import { runDelayUs, threadsOf } from "../../src/linux/run-delay.ts";
import { threadId } from "../../src/linux/scheduling.ts";

const BUDGET_MS = 20_000;
/** No process has this number: it is above the kernel's largest. */
const NOBODY = 2 ** 22 + 1;
const counts = existsSync("/proc/self/schedstat");
const skip = counts ? false : "this kernel does not count how long threads wait for a CPU";

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
    const busy = ["-c", "0", process.execPath, "-e", "for (;;);"];
    const children = [1, 2].map(() => spawn("taskset", busy, { stdio: "ignore" }));
    const gone = children.map((child) => once(child, "exit"));
    try {
      const delayOf = (pid: number): number => runDelayUs(pid, pid) ?? 0;
      const grown = () => children.every(({ pid }) => delayOf(pid!) > 100_000);
      await waitFor("each has waited for the other", grown, BUDGET_MS);
    } finally {
      for (const child of children) child.kill("SIGKILL");
      await Promise.all(gone);
    }
  });
});
