/** The header of session files: what is written comes back, and damage is refused. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { hostAddress, imageOffset, MIB } from "../../src/base/units.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";
import {
  bitmapBytesOf,
  busyOffset,
  decodeSessionHeader,
  encodeSessionHeader,
  type SessionFacts,
} from "../../src/snapshot/session-file.ts";

const regions = new RegionMap(
  [
    { baseHostAddress: hostAddress(0x7f00_0000_0000), sizeBytes: MIB, imageOffset: imageOffset(0) },
    {
      baseHostAddress: hostAddress(0x7e00_0000_0000),
      sizeBytes: 3 * MIB,
      imageOffset: imageOffset(MIB),
    },
  ],
  4096,
);
const facts: SessionFacts = {
  pid: 4711,
  startTicks: 2 ** 40 + 5,
  bootId: "f7c1",
  regions,
  imageBytes: 4 * MIB,
  served: { kind: "image", store: "dir:/s", name: "web-1", indexSha256: "ab".repeat(32) },
};
const header = encodeSessionHeader(facts);
const fileBytes = header.length + 2 * bitmapBytesOf(1024);

function refusalOf(change: (bytes: Buffer) => Buffer | undefined, size = fileBytes): string {
  const bytes = Buffer.from(header);
  const changed = change(bytes) ?? bytes;
  try {
    decodeSessionHeader(changed, size, "a file");
  } catch (error) {
    assert.ok(error instanceof FaultlineError && error.code === "session-file", String(error));
    return error.message;
  }
  throw new Error("it was taken");
}

describe("session files", () => {
  test("say what they were told", () => {
    const { regions: found, ...rest } = decodeSessionHeader(header, fileBytes, "a file");
    const { regions: given, ...told } = facts;
    assert.deepEqual(found.regions, given.regions);
    assert.equal(found.pageSizeBytes, 4096);
    const layout = { pageCount: 1024, headerBytes: header.length, bitmapBytes: 4096 };
    assert.deepEqual(rest, { ...told, ...layout });
  });

  test("keep their places: docs/FORMAT.md tells them to other programs", () => {
    assert.equal(header.toString("latin1", 0, 8), "FLTSESS\n");
    const words = [8, 12, 16, 20, 56].map((at) => header.readUInt32LE(at));
    assert.deepEqual(words, [1, 4096, 4711, 4096, 2]);
    const numbers = [24, 32, 40, 48].map((at) => Number(header.readBigUInt64LE(at)));
    assert.deepEqual(numbers, [2 ** 40 + 5, 4 * MIB, 1024, 4096]);
    assert.equal(busyOffset, 64);
    const second = [96, 104, 112].map((at) => Number(header.readBigUInt64LE(at)));
    assert.deepEqual(second, [0x7e00_0000_0000, 3 * MIB, MIB]);
    const tail = JSON.parse(header.toString("utf8", 120, 120 + header.readUInt32LE(60))) as unknown;
    assert.deepEqual(tail, { bootId: facts.bootId, served: facts.served });
  });

  test("have room for the files of a deep stack", () => {
    const path = `/${"long/".repeat(40)}`;
    const files = Array.from({ length: 64 }, () => ({ path, sizeBytes: 1, mtimeMs: 1.25 }));
    const large = encodeSessionHeader({ ...facts, served: { kind: "files", files } });
    assert.equal(large.length % 4096, 0);
    const size = large.length + 2 * bitmapBytesOf(1024);
    assert.deepEqual(decodeSessionHeader(large, size, "a file").served, { kind: "files", files });
  });

  const damages: readonly (readonly [string, (bytes: Buffer) => Buffer | undefined, RegExp])[] = [
    ["another magic", (bytes) => void bytes.write("FLTSESX\n"), /does not begin as one/],
    ["nothing", () => Buffer.alloc(0), /does not begin as one/],
    ["another version", (bytes) => void bytes.writeUInt32LE(2, 8), /version 2, we read 1/],
    ["a cut header", (bytes) => bytes.subarray(0, 1000), /cut off/],
    ["a tail beyond the header", (bytes) => void bytes.writeUInt32LE(9999, 60), /cut off/],
    ["too many regions", (bytes) => void bytes.writeUInt32LE(2 ** 31, 56), /cut off/],
    ["no page size", (bytes) => void bytes.writeUInt32LE(0, 20), /pages have 0 bytes/],
    ["another page size", (bytes) => void bytes.writeUInt32LE(8192, 20), /contradict/],
    ["regions that overlap", (bytes) => void bytes.writeBigUInt64LE(0n, 112), /overlap/],
    ["another size", (bytes) => void bytes.writeBigUInt64LE(4096n, 32), /contradict/],
    ["another page count", (bytes) => void bytes.writeBigUInt64LE(9n, 40), /contradict/],
    ["no JSON", (bytes) => void bytes.write("x", 120), /what was served/],
  ];
  for (const [what, change, message] of damages) {
    test(`are refused with ${what}`, () => assert.match(refusalOf(change), message));
  }

  test("are refused when they are cut off behind the header", () => {
    assert.match(
      refusalOf(() => undefined, fileBytes - 4096),
      /contradict/,
    );
  });
});
