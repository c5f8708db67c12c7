/** Two moments of those who wait, which the simulator comes across in few of its worlds. */
import assert from "node:assert/strict";
import { test } from "node:test";
import type { Outcome } from "../../src/base/outcome.ts";
import { Answers, type Wires } from "../../src/pager/answers.ts";
import { PageState, PageTable } from "../../src/pager/page-table.ts";
import { NO_GPA, WaiterKind, Waiters } from "../../src/pager/waiters.ts";

const PAGE = 5;

test("a thread goes on whose page was given back before it was noted", () => {
  const table = new PageTable(8, new Uint8Array(PageTable.sizeBytes(8)));
  const waiters = new Waiters(new ArrayBuffer(Waiters.sizeBytes));
  const zeroed: number[] = [];
  const wires: Wires = {
    continuePage: () => "badSource",
    zeroPage: (page): Outcome => {
      zeroed.push(page);
      return "installed";
    },
    wakePage() {},
    addReply() {},
    sendReplies: () => true,
    signalCompletions() {},
  };
  const answers = new Answers(waiters, table, [], wires);
  waiters.add(WaiterKind.event, 0, PAGE, 0, NO_GPA, 0);
  table.set(PAGE, PageState.pending);
  answers.announce(PAGE, PAGE + 1);
  assert.deepEqual([zeroed, waiters.length], [[], 1], "not noted yet");
  table.set(PAGE, PageState.installed);
  assert.ok(answers.flush());
  assert.deepEqual([zeroed, waiters.length], [[PAGE], 0]);
});

test("of two waiters a death makes no third", () => {
  for (const column of ["vcpus", "pages", "flags", "gpas", "offsets"] as const) {
    const memory = new ArrayBuffer(Waiters.sizeBytes);
    const waiters = new Waiters(memory);
    waiters.add(WaiterKind.event, 0, 1, 0, NO_GPA, 0);
    waiters.add(WaiterKind.asyncRequest, 3, 2, 0x30, 0x2000, 0);
    const get = (): never => {
      throw new Error("killed");
    };
    Object.defineProperty(waiters, column, { get });
    assert.throws(() => waiters.remove(0), /killed/);
    const found = new Waiters(memory);
    assert.equal(found.length, 2);
    assert.ok(found.isVacant(0), `killed at ${column}`);
    assert.ok(found.has(WaiterKind.asyncRequest, 3, 2));
  }
});
