/** The schema of a session's specification: every field of it, and no other. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import * as v from "valibot";
import { schemas } from "../../src/daemon/control/schemas.ts";
import type { SessionSpec } from "../../src/daemon/host-service.ts";
import { prefaultModes } from "../../src/daemon/prefault-mode.ts";

/** The compiler wants every field here: one that is new in the interface is new here, too. */
const all: Required<SessionSpec> = {
  id: "web-1",
  memory: "dir:/srv/images/web-1",
  layers: ["/srv/diff.mem"],
  onError: "wait",
  prefault: "all",
  socketPath: "/run/x.sock",
  owner: { uid: 0, gid: 2 ** 32 - 2 },
  allowedUids: [0, 1000],
  connectWithinS: 0.5,
  recordForS: 0,
  asyncFaults: true,
  trace: true,
  labels: { "example.org/tenant": "7", empty: "" },
};

describe("SessionSpec", () => {
  test("takes every field of the interface, and leaves it as it is", () => {
    assert.deepEqual(v.parse(schemas.SessionSpec, all), all);
    assert.deepEqual(Object.keys(schemas.SessionSpec.entries).sort(), Object.keys(all).sort());
  });

  test("takes every mode of prefaulting", () => {
    for (const prefault of prefaultModes) v.parse(schemas.SessionSpec, { ...all, prefault });
    assert.ok(!v.is(schemas.SessionSpec, { ...all, prefault: "some" }));
  });

  test("has bounds for whatever could grow", () => {
    const many = (count: number): string[] => Array.from({ length: count }, (_, n) => `/${n}`);
    const labels = (count: number): Record<string, string> =>
      Object.fromEntries(Array.from({ length: count }, (_, n) => [`l${n}`, ""]));
    const wrong: Partial<Record<keyof SessionSpec, unknown>>[] = [
      { layers: many(65) },
      { allowedUids: Array.from({ length: 65 }, () => 1) },
      { labels: labels(33) },
      { labels: { a: "x".repeat(257) } },
      { labels: { ["x".repeat(64)]: "" } },
      { memory: "x".repeat(4097) },
      { memory: "" },
      { connectWithinS: 86_401 },
      { recordForS: -1 },
      { asyncFaults: 1 },
      { owner: { uid: 2 ** 32 - 1, gid: 0 } },
      { allowedUids: [0.5] },
    ];
    for (const each of wrong) {
      assert.ok(!v.is(schemas.SessionSpec, { ...all, ...each }), JSON.stringify(each).slice(0, 99));
    }
    assert.ok(v.is(schemas.SessionSpec, { ...all, layers: many(64), labels: labels(32) }));
  });
});
