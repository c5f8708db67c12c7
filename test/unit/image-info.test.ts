/** The companion of an index: what is kept, what is ignored, what is refused. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { decodeImageInfo, encodeImageInfo } from "../../src/snapshot/image-info.ts";

const info = {
  indexSha256: "ab".repeat(32),
  created: "2026-01-02T03:04:05.678Z",
  memorySizeBytes: 1 << 30,
  pageSizeBytes: 4096,
  chunkSizeBytes: 1 << 18,
  digest: "sha256",
  parent: "web-1",
  state: { sizeBytes: 17, sha256: "cd".repeat(32) },
} as const;

function withChange(change: object): Uint8Array {
  const json = JSON.parse(Buffer.from(encodeImageInfo(info)).toString()) as object;
  return Buffer.from(JSON.stringify({ ...json, ...change }));
}

describe("an image's companion", () => {
  test("comes back as it was", () => {
    assert.deepEqual(decodeImageInfo(encodeImageInfo(info), "a"), { version: 1, ...info });
  });

  test("may have keys that a newer version added", () => {
    const decoded = decodeImageInfo(withChange({ workingSets: [1, 2] }), "a");
    assert.deepEqual(decoded, { version: 1, ...info });
  });

  test("needs neither parent nor state", () => {
    const { parent: _parent, state: _state, ...less } = info;
    assert.deepEqual(decodeImageInfo(encodeImageInfo(less), "a"), { version: 1, ...less });
  });

  const refusals: [what: string, bytes: Uint8Array, reason: RegExp][] = [
    ["no JSON", Buffer.from("{"), /it is no JSON/],
    ["another version", withChange({ version: 2 }), /version: .*1/],
    ["a digest that nobody knows", withChange({ digest: "md5" }), /digest: .*sha256/],
    ["a hash that is none", withChange({ indexSha256: "xyz" }), /indexSha256: .*64 hexadecimal/],
    ["a negative size", withChange({ memorySizeBytes: -1 }), /memorySizeBytes/],
    ["a time that is none", withChange({ created: "yesterday" }), /created/],
    ["a list", Buffer.from("[]"), /version/],
  ];
  for (const [what, bytes, reason] of refusals) {
    test(`is refused with ${what}`, () => {
      assert.throws(
        () => decodeImageInfo(bytes, "web-1.json in dir:/images"),
        (error: Error) => {
          assert.equal((error as { code?: string }).code, "image-corrupt");
          assert.match(error.message, /^web-1\.json in dir:\/images does not describe an image/);
          assert.match(error.message, reason);
          return true;
        },
      );
    });
  }
});
