/** What requests may name: never anything outside of the configured places. */
import assert from "node:assert/strict";
import { mkdirSync, symlinkSync, writeFileSync } from "node:fs";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { allowedMemory, allowedSocket, type Places } from "../../src/daemon/allowed-places.ts";
import { TestFolder } from "../support/fixtures.ts";

function withPlaces(run: (folder: TestFolder, places: Places) => void): void {
  using folder = new TestFolder();
  for (const name of ["memory", "memory/deep", "memory-2", "sockets"]) mkdirSync(folder.at(name));
  for (const name of ["memory/a", "memory/deep/b", "memory-2/secret", "secret"]) {
    writeFileSync(folder.at(name), "x");
  }
  symlinkSync(folder.at("secret"), folder.at("memory/link"));
  symlinkSync(folder.at("memory-2"), folder.at("memory/way-out"));
  symlinkSync(folder.at("memory/deep"), folder.at("memory/inside"));
  run(folder, {
    memoryFolders: [folder.at("memory")],
    stores: ["s3://bucket/images", `dir:${folder.at("store")}`],
    socketFolders: [],
  });
}

function isRefused(error: unknown): boolean {
  assert.ok(error instanceof FaultlineError);
  return ["not-allowed", "bad-request", "bad-option", "memory-missing"].includes(error.code);
}

describe("memory", () => {
  test("may be files in the folders, and links within them", () => {
    withPlaces((folder, places) => {
      const of = (path: string) => allowedMemory(`${folder.path}/${path}`, [], places).memory;
      assert.equal(of("memory/a"), folder.at("memory/a"));
      assert.equal(of("memory/../memory/deep/b"), folder.at("memory/deep/b"));
      assert.equal(of("memory/inside/b"), folder.at("memory/deep/b"));
    });
  });

  for (const path of [
    "secret",
    "memory/../secret",
    "memory/link",
    "memory/way-out/secret",
    "memory-2/secret",
    "memory/nothing",
  ]) {
    test(`may not be ${path}`, () => {
      withPlaces((folder, places) => {
        // Not joined: that would resolve what has to be resolved there.
        const given = `${folder.path}/${path}`;
        assert.throws(() => allowedMemory(given, [], places), isRefused);
        const layers = [given];
        assert.throws(() => allowedMemory(folder.at("memory/a"), layers, places), isRefused);
      });
    });
  }

  test("of files that are not there tells nothing outside of the folders", () => {
    withPlaces((folder, places) => {
      const told = (path: string) => {
        try {
          allowedMemory(`${folder.path}/${path}`, [], places);
          return "allowed";
        } catch (error) {
          return (error as FaultlineError).code;
        }
      };
      assert.equal(told("secret"), told("no-such-secret"));
    });
  });

  test("may be images of the stores", () => {
    withPlaces((folder, places) => {
      const of = (text: string) => allowedMemory(text, [], places).memory;
      assert.equal(of("web-1"), "s3://bucket/images/web-1");
      assert.equal(of("s3://bucket/images/web-1"), "s3://bucket/images/web-1");
      assert.equal(of(`dir:${folder.at("store")}/web-1`), `dir:${folder.at("store")}/web-1`);
      assert.equal(of(`dir:${folder.at("memory/deep")}/x`), `dir:${folder.at("memory/deep")}/x`);
    });
  });

  for (const text of [
    "s3://bucket/other/web-1",
    "s3://bucket/images/deeper/web-1",
    "https://example.com/web-1",
    "dir:/etc/web-1",
    "../web-1",
    "memory/a",
    "",
    "-x",
  ]) {
    test(`may not be ${JSON.stringify(text)}`, () => {
      withPlaces((_folder, places) => {
        assert.throws(() => allowedMemory(text, [], places), isRefused);
      });
    });
  }

  test("an image has no layers", () => {
    withPlaces((folder, places) => {
      assert.throws(() => allowedMemory("web-1", [folder.at("memory/a")], places), isRefused);
    });
  });
});

describe("a socket", () => {
  test("may be made in the folders", () => {
    withPlaces((folder) => {
      const path = folder.at("sockets/a.sock");
      assert.equal(allowedSocket(path, [folder.at("sockets")]), path);
    });
  });

  for (const path of [
    "a.sock",
    "sockets/../a.sock",
    "memory/way-out/a.sock",
    "sockets/..",
    "sockets/.",
    "sockets/",
  ]) {
    test(`may not be made at ${path}`, () => {
      withPlaces((folder) => {
        const given = `${folder.path}/${path}`;
        assert.throws(() => allowedSocket(given, [folder.at("sockets")]), isRefused);
      });
    });
  }
});
