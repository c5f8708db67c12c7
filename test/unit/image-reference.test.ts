/** How stores and images are named on the command line. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, describe, test } from "node:test";
import {
  defaultStore,
  openStore,
  parseImageReference,
  STORE_VARIABLE,
} from "../../src/source/image-reference.ts";

describe("an image reference", () => {
  const good: [text: string, store: string | null, name: string][] = [
    ["web-1", null, "web-1"],
    ["Web_1.2", null, "Web_1.2"],
    ["dir:/var/lib/images/web-1", "dir:/var/lib/images", "web-1"],
    ["dir:images/web-1", "dir:images", "web-1"],
    ["dir:./a b/web-1", "dir:./a b", "web-1"],
    ["dir:/web-1", "dir:/", "web-1"],
  ];
  for (const [text, store, name] of good) {
    test(text, () => assert.deepEqual(parseImageReference(text), { store, name }));
  }

  const bad = [
    ...["", ".", "..", ".a", "-a", "a b", "a/b", "./a", "/a", "ä", "a".repeat(129)],
    ...["dir:", "dir:a", "dir:/", "dir:/a/", "dir:/a/.b", "dir:a/b c"],
  ];
  for (const text of bad) {
    test(`not ${JSON.stringify(text.slice(0, 20))}`, () => {
      assert.throws(() => parseImageReference(text), {
        code: "bad-option",
        message: /names no image: give NAME or dir:PATH\/NAME, where NAME has letters/,
      });
    });
  }
});

describe("a store", () => {
  const folder = mkdtempSync(join(tmpdir(), "faultline-reference-"));
  after(() => rmSync(folder, { recursive: true }));

  test("is a folder, with or without dir:", () => {
    assert.equal(openStore(folder).location, `dir:${folder}`);
    assert.equal(openStore(`dir:${folder}`).location, `dir:${folder}`);
  });

  test("of a kind that nobody knows is refused", () => {
    for (const text of ["", "dir:", "ftp://host/images"]) {
      assert.throws(() => openStore(text), {
        code: "bad-option",
        message: /cannot be used: give a folder, or one of dir:/,
      });
    }
  });

  test("comes from the option, else from the environment, else there is none", () => {
    const before = process.env[STORE_VARIABLE];
    try {
      process.env[STORE_VARIABLE] = "/from/environment";
      assert.equal(defaultStore("/from/option"), "/from/option");
      assert.equal(defaultStore(undefined), "/from/environment");
      delete process.env[STORE_VARIABLE];
      assert.throws(() => defaultStore(undefined), { code: "bad-option", message: /--store DIR/ });
    } finally {
      if (before !== undefined) process.env[STORE_VARIABLE] = before;
    }
  });
});
