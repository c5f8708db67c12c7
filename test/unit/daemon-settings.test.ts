/** The daemon's configuration: defaults, both of its sources, and what is refused. */
import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { loadSettings } from "../../src/daemon/settings.ts";
import { TestFolder } from "../support/fixtures.ts";

type Overrides = Parameters<typeof loadSettings>[0]["overrides"];

function load(fromFile: unknown, overrides: Overrides = {}) {
  using folder = new TestFolder();
  const file = folder.at("daemon.json");
  writeFileSync(file, typeof fromFile === "string" ? fromFile : JSON.stringify(fromFile));
  return loadSettings({ file, overrides });
}

function refuses(reason: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof FaultlineError && error.code === "bad-request");
    assert.match(error.message, reason);
    return true;
  };
}

describe("the configuration", () => {
  test("has a default for everything but the places of memory", () => {
    const settings = loadSettings({
      file: null,
      overrides: { runFolder: "/run/x", memoryFolders: ["/m"] },
    });
    assert.equal(settings.maxSessions, 1024);
    assert.equal(settings.onError, "kill");
    assert.deepEqual(settings.stores, []);
  });

  test("is a file, and options win over it", () => {
    const file = { runFolder: "/run/x", memoryFolders: ["/a"], workers: 3, maxSessions: 5 };
    const settings = load(file, { maxSessions: 7 });
    assert.equal(settings.workers, 3);
    assert.equal(settings.maxSessions, 7);
    assert.deepEqual(settings.memoryFolders, ["/a"]);
  });

  const places = { runFolder: "/run/x", memoryFolders: ["/a"] };
  for (const [what, file, reason] of [
    ["an unknown name", { ...places, memoryFolder: "/a" }, /no setting memoryFolder/],
    ["a wrong type", { ...places, workers: "two" }, /workers is "two"/],
    ["a number out of range", { ...places, workers: 65 }, /workers is 65/],
    [
      "a relative folder",
      { ...places, memoryFolders: ["a"] },
      /memoryFolders.0 is "a", must be an/,
    ],
    ["a mode that is none", { ...places, controlMode: "660" }, /controlMode is "660"/],
    ["no place of memory", { runFolder: "/run/x" }, /names no place of memory/],
    ["a list", [], /is no JSON object/],
    ["no JSON", "{", /is no JSON/],
  ] as const) {
    test(`is refused with ${what}`, () => {
      assert.throws(() => load(file), refuses(reason));
    });
  }

  test("is refused if the file cannot be read", () => {
    const source = { file: "/nowhere/daemon.json", overrides: {} };
    assert.throws(() => loadSettings(source), refuses(/\/nowhere\/daemon.json cannot be read/));
  });
});
