/** How stores and images are named on the command line. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import {
  defaultStore,
  parseImageReference,
  parseStoreReference,
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
    ["https://example.com/web-1", "https://example.com", "web-1"],
    ["http://127.0.0.1:8080/vm/images/web-1", "http://127.0.0.1:8080/vm/images", "web-1"],
    ["s3://bucket/web-1", "s3://bucket", "web-1"],
    ["s3://bucket/some/prefix/web-1", "s3://bucket/some/prefix", "web-1"],
    ["s3+http://127.0.0.1:9000/bucket/web-1", "s3+http://127.0.0.1:9000/bucket", "web-1"],
  ];
  for (const [text, store, name] of good) {
    test(text, () => assert.deepEqual(parseImageReference(text), { store, name }));
  }

  const bad = [
    ...["", ".", "..", ".a", "-a", "a b", "a/b", "./a", "/a", "ä", "a".repeat(129)],
    ...["dir:", "dir:a", "dir:/", "dir:/a/", "dir:/a/.b", "dir:a/b c"],
    ...["https:", "https://", "https://web-1", "https://host/", "s3://web-1", "s3:web-1"],
    ...["https://host/web-1?version=2", "https://host/web-1#top", "s3://bucket/a b"],
  ];
  for (const text of bad) {
    test(`not ${JSON.stringify(text.slice(0, 20))}`, () => {
      assert.throws(() => parseImageReference(text), {
        code: "bad-option",
        message: /names no image: give NAME or dir:PATH\/NAME, https.* where NAME has letters/,
      });
    });
  }
});

describe("a store", () => {
  const folders: [text: string, path: string][] = [
    ["/var/lib/images", "/var/lib/images"],
    ["dir:/var/lib/images", "/var/lib/images"],
    ["dir:images", "images"],
    ["C:images", "C:images"],
  ];
  for (const [text, path] of folders) {
    test(`${text} is a folder`, () => {
      assert.deepEqual(parseStoreReference(text), { kind: "directory", path });
    });
  }

  test("https://… is a web server", () => {
    for (const url of ["http://127.0.0.1:1/x", "https://example.com"]) {
      assert.deepEqual(parseStoreReference(url), { kind: "http", url });
    }
  });

  const inS3: [location: string, endpoint: string | null, bucket: string, prefix: string][] = [
    ["s3://bucket", null, "bucket", ""],
    ["s3://bucket/", null, "bucket", ""],
    ["s3://bucket/some/prefix", null, "bucket", "some/prefix/"],
    ["s3://bucket/some/prefix/", null, "bucket", "some/prefix/"],
    ["s3+http://127.0.0.1:9000/bucket", "http://127.0.0.1:9000", "bucket", ""],
    ["s3+https://s3.example.com/b.with.dots/p", "https://s3.example.com", "b.with.dots", "p/"],
    ["s3+https://[::1]:9000/bucket/p", "https://[::1]:9000", "bucket", "p/"],
  ];
  for (const [location, endpoint, bucket, prefix] of inS3) {
    test(`${location} is in S3`, () => {
      const place = { bucket, prefix };
      assert.deepEqual(parseStoreReference(location), { kind: "s3", endpoint, place });
    });
  }

  const bad = [
    ...["", "dir:", "ftp://host/images", "file:///x", "https:", "https://", "https:host"],
    ...["s3:bucket", "s3://", "s3:///prefix", "s3://b", "s3://bucket//prefix", "s3://bucket/../up"],
    ...["s3://key:secret@bucket/prefix", "s3+https://key:secret@host/bucket", "s3+https://host"],
    ...["s3+https:///bucket", "s3+ftp://host/bucket", "ftp://key:secret@host/images?secret=1"],
  ];
  for (const text of bad) {
    test(`not ${JSON.stringify(text)}; no secret is told`, () => {
      assert.throws(() => parseStoreReference(text), isBadOption);
      assert.throws(() => parseImageReference(`${text}/a b`), isBadOption);
    });
  }

  test("comes from the option, else from the environment, else there is none", () => {
    const before = process.env[STORE_VARIABLE];
    try {
      process.env[STORE_VARIABLE] = "/from/environment";
      assert.equal(defaultStore("/from/option"), "/from/option");
      assert.equal(defaultStore(undefined), "/from/environment");
      delete process.env[STORE_VARIABLE];
      assert.throws(() => defaultStore(undefined), {
        code: "bad-option",
        message: /--store STORE/,
      });
    } finally {
      if (before !== undefined) process.env[STORE_VARIABLE] = before;
    }
  });
});

function isBadOption(error: unknown): boolean {
  assert.ok(error instanceof FaultlineError);
  assert.doesNotMatch(error.message, /secret/);
  return error.code === "bad-option";
}
