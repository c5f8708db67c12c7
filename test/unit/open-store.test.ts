/** Stores by their location: what is understood, and what is refused without telling secrets. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { DirectoryStore } from "../../src/source/directory-store.ts";
import { openStore } from "../../src/source/open-store.ts";
import { PolicyStore } from "../../src/source/store-policy.ts";
import { TestFolder } from "../support/fixtures.ts";

const isBadOption = (error: unknown): boolean => {
  assert.ok(error instanceof FaultlineError);
  assert.doesNotMatch(error.message, /secret/);
  return error.code === "bad-option";
};

describe("openStore", () => {
  test("puts a web server under the request policy", async () => {
    const store = await openStore("https://example.com/images/", { policy: { concurrency: 3 } });
    assert.equal(store.location, "https://example.com/images");
    assert.ok(store instanceof PolicyStore);
    assert.deepEqual([store.policy.concurrency, store.policy.maxAttempts], [3, 16]);
    await store.close();
  });

  test("opens a place in S3 without asking anybody", async () => {
    const s3 = { region: "eu-west-1", credentials: { accessKeyId: "a", secretAccessKey: "b" } };
    const store = await openStore("s3://bucket/prefix/", { s3 });
    assert.equal(store.location, "s3://bucket/prefix");
    await store.close();
  });

  test("opens a folder, with or without dir:, and makes one to write to", async () => {
    using folder = new TestFolder();
    for (const location of [folder.path, `dir:${folder.path}`]) {
      const store = await openStore(location);
      assert.ok(store instanceof DirectoryStore);
      assert.equal(store.location, `dir:${folder.path}`);
    }
    const missing = folder.at("none");
    await assert.rejects(openStore(missing), {
      code: "store-failed",
      message: /create the folder/,
    });
    assert.equal((await openStore(missing, { create: true })).location, `dir:${missing}`);
  });

  for (const location of ["", "file:///x", "ftp://x", "https://u:secret@x/", "s3://"]) {
    test(`refuses ${location === "" ? "nothing" : location}`, async () => {
      await assert.rejects(openStore(location), isBadOption);
    });
  }

  test("loads nothing of AWS's until a store in S3 is opened", () => {
    const index = new URL("../../src/index.js", import.meta.url);
    const program = `
      await import(${JSON.stringify(index.href)});
      const { createRequire } = await import("node:module");
      const loaded = Object.keys(createRequire(import.meta.url).cache);
      const ofAws = loaded.filter((path) => /@aws-sdk|@smithy/.test(path));
      console.info(ofAws.length, loaded.length > 0);
    `;
    const argv = ["--input-type=module", "-e", program];
    const { stdout, stderr } = spawnSync(process.execPath, argv, { encoding: "utf8" });
    assert.equal(stdout.trim(), "0 true", stderr);
  });
});
