/** Each scenario finds the mistake that it is for, and no fault with a handler that makes none. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { scenarios } from "../../src/conformance/scenarios/all.ts";
import { requires } from "../support/requires.ts";
import { IMPATIENCE_MS, PATIENCE_MS, plantedHandler, play } from "./kit.ts";
import { type Mistake, mistakes, waits } from "./mistakes.ts";

const needs = requires("userfaultfd", "hugepages");

describe("a handler that makes one mistake", { ...needs, concurrency: 3 }, () => {
  for (const [mistake, { by, saying }] of Object.entries(mistakes)) {
    test(`${mistake}: found by ${by.join(", ")}`, async () => {
      const results = await play(by, plantedHandler(mistake as Mistake), {
        deadlineMs: waits.includes(saying) ? IMPATIENCE_MS : PATIENCE_MS,
        servesManyVms: true,
      });
      assert.equal(results.length, by.length);
      for (const { scenario, verdict, message } of results) {
        assert.equal(verdict, "fail", scenario.name);
        assert.match(message, saying, scenario.name);
      }
    });
  }
});

test("every scenario finds some mistake", () => {
  const proven = new Set<string>(Object.values(mistakes).flatMap(({ by }) => by));
  const unproven = scenarios.map(({ name }) => name).filter((name) => !proven.has(name));
  assert.deepEqual(unproven, []);
});
