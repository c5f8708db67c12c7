/** The file of a working set: its bytes, and everything that must be refused. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { MAX_WORKING_SET_IMAGE_BYTES, MAX_WORKING_SET_PAGES } from "../../src/base/working-set.ts";
import {
  beginsAsWorkingSet,
  decodeWorkingSet,
  encodeWorkingSet,
  MAX_WORKING_SET_FILE_BYTES,
} from "../../src/snapshot/working-set-file.ts";
import { anySet, setOf } from "../support/working-sets.ts";

const indexSha256 = "ab".repeat(32);
const set = setOf(
  [
    [3, 255, 1000],
    [4, 254, 1010],
    [5, 16, 900],
    [200, 1, 2 ** 32 - 1],
  ],
  1000,
  17,
);
/** Written by hand, from docs/FORMAT.md. */
const golden = Buffer.from(
  [
    "464c575345540d0a", // FLWSET
    "0100000011000000", // version 1, 17 restores
    "00803e0000000000", // 4,096,000 bytes of memory
    indexSha256,
    "7b00000000000000", // 123 bytes in all
    "0400000002000000", // 4 pages in 2 runs
    "0302", // three pages from 3 on
    "c20100", // 194 more are left out, then one
    "fffe1001", // needs
    "d00f", // +1000
    "14", // +10
    "db01", // -110
    "f6f1ffff1f", // +4,294,966,395
  ].join(""),
  "hex",
);

const withDigest = (bytes: Uint8Array): Buffer =>
  Buffer.concat([bytes, createHash("sha256").update(bytes).digest()]);

describe("a working set", () => {
  test("has exactly these bytes", () => {
    const bytes = encodeWorkingSet({ set, indexSha256 });
    assert.equal(Buffer.from(bytes).toString("hex"), withDigest(golden).toString("hex"));
    assert.deepEqual(decodeWorkingSet(bytes, "golden"), { set, indexSha256 });
  });

  test("of a memory file belongs to no index", () => {
    const bytes = encodeWorkingSet({ set, indexSha256: null });
    assert.ok(bytes.subarray(24, 56).every((byte) => byte === 0));
    assert.equal(decodeWorkingSet(bytes, "file").indexSha256, null);
  });

  test("may be empty", () => {
    const empty = { set: setOf([], 1, 0), indexSha256 };
    assert.deepEqual(decodeWorkingSet(encodeWorkingSet(empty), "empty"), empty);
    assert.equal(encodeWorkingSet(empty).length, 104);
  });

  test("comes back as it was, whatever is in it", () => {
    fc.assert(
      fc.property(anySet(2 ** 32 - 1), (random) => {
        const file = { set: random, indexSha256 };
        assert.deepEqual(decodeWorkingSet(encodeWorkingSet(file), "random"), file);
      }),
    );
  });

  test("as large as it may be stays within the bound of the file", () => {
    // Runs of one page, far apart, with times that go up and down.
    const rows = MAX_WORKING_SET_PAGES;
    const large = {
      sizeBytes: MAX_WORKING_SET_IMAGE_BYTES,
      restores: 2 ** 32 - 1,
      pages: Uint32Array.from({ length: rows }, (_, page) => page * 16_000),
      needs: new Uint8Array(rows).fill(1),
      timesUs: Uint32Array.from({ length: rows }, (_, page) => (page % 2) * (2 ** 32 - 1)),
    };
    const bytes = encodeWorkingSet({ set: large, indexSha256 });
    assert.ok(bytes.length <= MAX_WORKING_SET_FILE_BYTES);
    assert.deepEqual(decodeWorkingSet(bytes, "large").set, large);
  });

  test("is known by how it begins", () => {
    assert.ok(beginsAsWorkingSet(golden.subarray(0, 8)));
    assert.ok(!beginsAsWorkingSet(golden.subarray(0, 7)));
    assert.ok(!beginsAsWorkingSet(Buffer.alloc(8)));
  });
});

describe("damage is found", () => {
  const whole = withDigest(golden);
  const isRefused = { code: "image-corrupt", message: /^web\.workingset holds no working set of/ };

  test("at every length that it may be cut to, and if something is added", () => {
    for (let length = 0; length < whole.length; length++) {
      assert.throws(() => decodeWorkingSet(whole.subarray(0, length), "web.workingset"), isRefused);
    }
    const longer = Buffer.concat([whole, Buffer.alloc(1)]);
    assert.throws(() => decodeWorkingSet(longer, "web.workingset"), isRefused);
  });

  test("wherever a single bit is flipped", () => {
    for (let bit = 0; bit < whole.length * 8; bit++) {
      const flipped = Buffer.from(whole);
      flipped[bit >> 3]! ^= 1 << (bit & 7);
      assert.throws(() => decodeWorkingSet(flipped, "web.workingset"), isRefused, `bit ${bit}`);
    }
  });
});

describe("a file with a right digest is refused if", () => {
  /** Bytes put in the place of others, all else made to fit. */
  const forged = (at: number, take: number, put: string): Buffer => {
    const bytes = Buffer.concat([
      golden.subarray(0, at),
      Buffer.from(put, "hex"),
      golden.subarray(at + take),
    ]);
    bytes.writeBigUInt64LE(BigInt(bytes.length + 32), 56);
    return withDigest(bytes);
  };
  const wrong: [what: string, bytes: Buffer, reason: RegExp][] = [
    ["it is another file", forged(0, 1, "47"), /it does not begin as one/],
    ["it is of a newer version", forged(8, 1, "02"), /it has version 2, not 1/],
    ["its image has no bytes", forged(16, 8, "0000000000000000"), /an image of 0 bytes/],
    ["its image is too large", forged(16, 8, "0100000000100000"), /image of 175921860444/],
    ["it has too many pages", forged(64, 4, "01000400"), /it has 262145 pages/],
    ["it has fewer pages", forged(64, 1, "05"), /its runs have fewer pages than it says/],
    ["it has more pages", forged(64, 1, "02"), /its runs have more pages than it says/],
    ["it has more runs", forged(68, 1, "03"), /its runs have more pages than it says/],
    ["a page lies outside", forged(16, 8, "0080060000000000"), /lies outside of the image/],
    ["two runs touch", forged(74, 2, "00"), /two runs of it touch/],
    ["a number is too long", forged(72, 1, "8300"), /a number in it is longer than it need be/],
    ["a number is too large", forged(72, 1, "ffffffffff01"), /a number in it is too large/],
    ["a page is never needed", forged(77, 1, "00"), /a page in it is never needed/],
    ["a time is before the first", forged(81, 2, "01"), /a time in it cannot be/],
    ["a time is too late", forged(86, 5, "ffffffff7f"), /a time in it cannot be/],
    ["it ends in its needs", forged(77, 14, "ff"), /it ends too early/],
    ["it ends in its times", forged(90, 1, ""), /it ends too early/],
    ["something follows", forged(91, 0, "00"), /something is behind its last page/],
  ];
  for (const [what, bytes, message] of wrong) {
    test(what, () => {
      assert.throws(() => decodeWorkingSet(bytes, "x"), { code: "image-corrupt", message });
    });
  }

  test("it is larger than any may be", () => {
    const bytes = Buffer.alloc(MAX_WORKING_SET_FILE_BYTES + 1);
    assert.throws(() => decodeWorkingSet(bytes, "x"), /it has 4 MiB/);
  });
});
