/** The handler in which mistakes are planted makes none by itself. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { requires } from "../support/requires.ts";
import { failuresOf, PATIENCE_MS, plantedHandler, play } from "./kit.ts";

test("a handler without mistakes passes", requires("userfaultfd", "hugepages"), async () => {
  const options = { deadlineMs: PATIENCE_MS, servesManyVms: true };
  assert.deepEqual(failuresOf(await play([], plantedHandler(), options)), []);
});
