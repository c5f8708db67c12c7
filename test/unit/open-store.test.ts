/** Stores by their location: what is understood, and what is refused without telling secrets. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { openStore, parseS3Location } from "../../src/source/open-store.ts";

const isBadOption = (error: unknown): boolean => {
  assert.ok(error instanceof FaultlineError);
  assert.doesNotMatch(error.message, /secret/);
  return error.code === "bad-option";
};

describe("a location in S3", () => {
  const good: [location: string, endpoint: string | null, bucket: string, prefix: string][] = [
    ["s3://bucket", null, "bucket", ""],
    ["s3://bucket/", null, "bucket", ""],
    ["s3://bucket/some/prefix", null, "bucket", "some/prefix/"],
    ["s3://bucket/some/prefix/", null, "bucket", "some/prefix/"],
    ["s3+http://127.0.0.1:9000/bucket", "http://127.0.0.1:9000", "bucket", ""],
    ["s3+https://s3.example.com/b.with.dots/p", "https://s3.example.com", "b.with.dots", "p/"],
    ["s3+https://[::1]:9000/bucket/p", "https://[::1]:9000", "bucket", "p/"],
  ];
  for (const [location, endpoint, bucket, prefix] of good) {
    test(location, () => {
      assert.deepEqual(parseS3Location(location), { endpoint, place: { bucket, prefix } });
    });
  }

  const bad = [
    "s3:bucket",
    "s3://",
    "s3:///prefix",
    "s3://b",
    "s3://bucket//prefix",
    "s3://bucket/../up",
    "s3://key:secret@bucket/prefix",
    "s3+https://key:secret@host/bucket",
    "s3+https://host",
    "s3+https:///bucket",
    "s3+ftp://host/bucket",
  ];
  for (const location of bad) {
    test(`${location} is refused`, () => {
      assert.throws(() => parseS3Location(location), isBadOption);
    });
  }
});

describe("openStore", () => {
  test("puts a web server under the request policy", async () => {
    const store = await openStore("https://example.com/images/", { policy: { concurrency: 3 } });
    assert.equal(store.location, "https://example.com/images");
    assert.deepEqual([store.policy.concurrency, store.policy.maxAttempts], [3, 16]);
    await store.close();
  });

  test("opens a place in S3 without asking anybody", async () => {
    const s3 = { region: "eu-west-1", credentials: { accessKeyId: "a", secretAccessKey: "b" } };
    const store = await openStore("s3://bucket/prefix/", { s3 });
    assert.equal(store.location, "s3://bucket/prefix");
    await store.close();
  });

  for (const location of ["", "bucket", "file:///x", "ftp://x", "https://u:secret@x/", "s3://"]) {
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
