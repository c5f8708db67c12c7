/** What passes between a supervisor and its pagers, and what does not. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { EntryBudget, MAX_ENTRIES } from "../../src/supervisor/entry-budget.ts";
import {
  batchLength,
  parsePagerMessage,
  parseSupervisorMessage,
} from "../../src/supervisor/messages.ts";

const LONGEST_NAME = "a".repeat(128);

describe("a message of a pager", () => {
  const right: [message: object, fdCount: number][] = [
    [{ type: "standingBy" }, 0],
    [{ type: "next" }, 0],
    [{ type: "serving" }, 0],
    [{ type: "keep", name: "s.a-1_B.vm" }, 1],
    [{ type: "keep", name: LONGEST_NAME }, 101],
    [{ type: "drop", name: "a" }, 0],
    [{ type: "accept", listener: "a", connection: "b" }, 0],
    [{ type: "alive" }, 0],
    [{ type: "reload" }, 0],
    [{ type: "finished" }, 0],
  ];
  for (const [message, fdCount] of right) {
    const text = JSON.stringify(message);
    test(`is ${text} with ${fdCount} descriptors`, () => {
      assert.deepEqual(parsePagerMessage(text, fdCount), message);
    });
  }

  const wrong: [text: string, fdCount: number, problem: string][] = [
    ["", 0, "not JSON"],
    ["null", 0, "not an object"],
    ["[]", 0, "not an object"],
    ['"alive"', 0, "not an object"],
    ["{}", 0, "unknown type"],
    ['{"type":"toString"}', 0, "unknown type"],
    ['{"type":"takeOver","maxFds":1}', 0, "unknown type"],
    ['{"type":"alive","more":1}', 0, "fields of alive"],
    ['{"type":"drop"}', 0, "fields of drop"],
    ['{"type":"drop","toString":"a"}', 0, "fields of drop"],
    ['{"type":"drop","name":7}', 0, "fields of drop"],
    ['{"type":"drop","name":""}', 0, "fields of drop"],
    ['{"type":"drop","name":"a/b"}', 0, "fields of drop"],
    ['{"type":"drop","name":"a\\n"}', 0, "fields of drop"],
    [`{"type":"drop","name":"${LONGEST_NAME}a"}`, 0, "fields of drop"],
    ['{"type":"accept","listener":"a"}', 0, "fields of accept"],
    ['{"type":"keep","name":"a"}', 0, "keep with 0 descriptors"],
    ['{"type":"keep","name":"a"}', 102, "keep with 102 descriptors"],
    ['{"type":"alive"}', 1, "alive with 1 descriptors instead of 0"],
  ];
  for (const [text, fdCount, problem] of wrong) {
    test(`is not ${text} with ${fdCount} descriptors`, () => {
      assert.deepEqual(parsePagerMessage(text, fdCount), { type: "malformed", problem });
    });
  }
});

describe("a message of a supervisor", () => {
  const two = [
    { name: "a", fdCount: 1 },
    { name: "b", fdCount: 3 },
  ];
  const right: [message: object, fdCount: number][] = [
    [{ type: "takeOver", maxFds: 0 }, 0],
    [{ type: "entries", entries: [], isLast: true }, 0],
    [{ type: "entries", entries: two, isLast: false }, 4],
    [{ type: "accepted", connection: "a" }, 1],
    [{ type: "reloadFailed", reason: "" }, 0],
    [{ type: "stop", isStored: false, deadlineMs: 5 }, 0],
  ];
  for (const [message, fdCount] of right) {
    const text = JSON.stringify(message);
    test(`is ${text} with ${fdCount} descriptors`, () => {
      assert.deepEqual(parseSupervisorMessage(text, fdCount), message);
    });
  }

  const wrong: [message: object, fdCount: number][] = [
    [{ type: "takeOver", maxFds: -1 }, 0],
    [{ type: "entries", entries: two, isLast: false }, 3],
    [{ type: "entries", entries: [{ name: "a", fdCount: 0 }], isLast: true }, 0],
    [{ type: "entries", entries: [{ name: "a", fdCount: 102 }], isLast: true }, 102],
    [{ type: "entries", entries: [null], isLast: true }, 0],
    [{ type: "entries", entries: {}, isLast: true }, 0],
    [{ type: "accepted", connection: "a" }, 0],
    [{ type: "stop", isStored: 1, deadlineMs: 5 }, 0],
    [{ type: "keep", name: "a" }, 1],
  ];
  for (const [message, fdCount] of wrong) {
    const text = JSON.stringify(message);
    test(`is not ${text} with ${fdCount} descriptors`, () => {
      assert.equal(parseSupervisorMessage(text, fdCount).type, "malformed");
    });
  }
});

test("a batch has as many entries as fit into 128 descriptors", () => {
  const heads = (count: number, fdCount: number) =>
    Array.from({ length: count }, (_, index) => ({ name: `${index}`, fdCount }));
  assert.equal(batchLength([]), 0);
  assert.equal(batchLength(heads(3, 8)), 3);
  assert.equal(batchLength(heads(100, 101)), 1);
  assert.equal(batchLength(heads(100, 8)), 16);
  assert.equal(batchLength(heads(100, 3)), 42);
});

describe("the budget of entries", () => {
  const refusal = (take: () => void): FaultlineError => {
    try {
      take();
    } catch (error) {
      if (error instanceof FaultlineError) return error;
      throw error;
    }
    throw new Error("It was taken.");
  };

  test("counts what is replaced and released", () => {
    const budget = new EntryBudget(10);
    budget.take("a", 8);
    budget.take("a", 3);
    budget.take("b", 7);
    assert.deepEqual([budget.entryCount, budget.fdCount], [2, 10]);
    assert.equal(refusal(() => budget.take("a", 4)).code, "limit");
    assert.deepEqual([budget.entryCount, budget.fdCount], [2, 10]);
    budget.release("b");
    budget.release("b");
    assert.deepEqual([budget.entryCount, budget.fdCount], [1, 3]);
  });

  test("ends at so many entries", () => {
    const budget = new EntryBudget(MAX_ENTRIES * 2);
    for (let index = 0; index < MAX_ENTRIES; index++) budget.take(`e${index}`, 1);
    assert.match(refusal(() => budget.take("more", 1)).message, /more cannot be kept: .* 8192/);
    budget.take("e0", 2);
    budget.release("e1");
    budget.take("more", 1);
  });
});
