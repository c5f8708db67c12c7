/** Slices and priorities of threads, as this kernel has them. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { getPriority, release } from "node:os";
import { test } from "node:test";
import { SCHED_BATCH } from "../../src/linux/abi-posix.ts";
import { lowerPriority, requestSlice, threadIds } from "../../src/linux/scheduling.ts";

const [major = 0, minor = 0] = release().split(".").map(Number);

/** See proc(5), stat: the 41st field. */
function policyOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
  return Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[38]);
}

test("a short slice is granted since Linux 6.12, and leaves the priority alone", () => {
  const before = getPriority();
  assert.equal(requestSlice(100_000), major > 6 || (major === 6 && minor >= 12));
  assert.equal(getPriority(), before);
  // What the kernel does not take as it is, is not granted: it has its own bounds.
  assert.equal(requestSlice(1), false);
});

test("priorities are lowered, down to the lowest there is", () => {
  const child = spawn("sleep", ["60"]);
  try {
    const before = getPriority(child.pid);
    lowerPriority([child.pid!], 3);
    assert.equal(getPriority(child.pid), before + 3);
    assert.equal(policyOf(child.pid!), SCHED_BATCH);
    lowerPriority([child.pid!], 30);
    assert.equal(getPriority(child.pid), 19);
  } finally {
    child.kill("SIGKILL");
  }
});

test("a thread that is gone is no error", () => {
  assert.ok(threadIds().includes(process.pid));
  lowerPriority([2 ** 22 + 1], 1);
});
