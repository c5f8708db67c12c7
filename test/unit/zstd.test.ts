/** The binding of libzstd: what comes out again, what is refused, and what a frame carries. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, test } from "node:test";
import { MappedRegion } from "../../src/linux/memory.ts";
import { compressBound, ZstdCompressor, ZstdDecompressor, zstd } from "../../src/linux/zstd.ts";
import { Random } from "../../src/sim/random.ts";

const SIZE = 100_000;

function sample(seed: number): Buffer {
  const random = new Random(seed);
  return Buffer.from(Uint8Array.from({ length: SIZE }, () => random.below(8)));
}

function compress(bytes: Uint8Array, level = 1): Buffer {
  using compressor = new ZstdCompressor(level);
  const target = new Uint8Array(compressBound(bytes.length));
  return Buffer.from(target.subarray(0, compressor.compress(bytes, target)));
}

describe("zstd", () => {
  for (const level of [-7, 1, 19]) {
    test(`gives back what went in, at level ${level}`, () => {
      const bytes = sample(level + 10);
      const frame = compress(bytes, level);
      assert.ok(frame.length < SIZE);
      const target = Buffer.alloc(SIZE);
      using decompressor = new ZstdDecompressor();
      assert.deepEqual(decompressor.decompress(frame, target), { sizeBytes: SIZE });
      assert.ok(target.equals(bytes));
    });
  }

  test("writes one frame with the content's size and checksum", () => {
    const frame = compress(sample(1));
    assert.equal(frame.readUInt32LE(0), 0xfd2fb528, "the magic number of a frame");
    const descriptor = frame[4]!;
    // RFC 8878, 3.1.1.1.1: bit 2 is the checksum flag, bits 6 and 7 the size of the size's field.
    assert.equal(descriptor & 0b100, 0b100, "a checksum");
    assert.equal(descriptor >> 6, 2, "a content size of four bytes");
  });

  test("decompresses into memory that is not V8's", () => {
    const bytes = sample(2);
    using region = MappedRegion.anonymous(1 << 20);
    using decompressor = new ZstdDecompressor();
    const area = { address: region.address + 4096, sizeBytes: SIZE };
    assert.deepEqual(decompressor.decompress(compress(bytes), area), { sizeBytes: SIZE });
    assert.ok(Buffer.from(region.view(), 4096, SIZE).equals(bytes));
  });

  test("never writes beyond the target's end", () => {
    const frame = compress(sample(3));
    using decompressor = new ZstdDecompressor();
    const target = Buffer.alloc(SIZE, 0xaa);
    const outcome = decompressor.decompress(frame, target.subarray(0, SIZE - 4096));
    assert.ok("failure" in outcome && /too small/.test(outcome.failure), JSON.stringify(outcome));
    assert.ok(target.subarray(SIZE - 4096).every((byte) => byte === 0xaa));
  });

  test("a flipped bit, a cut frame and no frame at all are failures", () => {
    const bytes = sample(4);
    const frame = compress(bytes);
    using decompressor = new ZstdDecompressor();
    const target = Buffer.alloc(SIZE);
    const random = new Random(4);
    for (let round = 0; round < 200; round++) {
      const damaged = Buffer.from(frame);
      const bit = random.below(frame.length * 8);
      damaged[bit >> 3]! ^= 1 << (bit & 7);
      const outcome = decompressor.decompress(damaged, target);
      // A bit that means nothing (the window's size, unused flags) may be let through unharmed.
      const isSame = "sizeBytes" in outcome && target.subarray(0, outcome.sizeBytes).equals(bytes);
      assert.ok("failure" in outcome || isSame, `bit ${bit}`);
    }
    for (const cut of [0, 3, 10, frame.length - 1]) {
      const outcome = decompressor.decompress(frame.subarray(0, cut), target);
      // Nothing at all is zero frames.
      if (cut === 0) assert.deepEqual(outcome, { sizeBytes: 0 });
      else assert.ok("failure" in outcome, `cut at ${cut}`);
    }
    assert.ok("failure" in decompressor.decompress(createHash("sha256").digest(), target));
  });

  test("goes on after a failure with the same context", () => {
    using decompressor = new ZstdDecompressor();
    const target = Buffer.alloc(SIZE);
    assert.ok("failure" in decompressor.decompress(Buffer.alloc(100, 1), target));
    const bytes = sample(5);
    assert.deepEqual(decompressor.decompress(compress(bytes), target), { sizeBytes: SIZE });
    assert.ok(target.equals(bytes));
  });

  test("asserts that the target has room for any frame", () => {
    using compressor = new ZstdCompressor(1);
    assert.throws(() => compressor.compress(sample(6), new Uint8Array(SIZE)), /too little room/);
  });

  test("where there is no libzstd, the error says how to get it", () => {
    assert.throws(() => zstd(["libnothing.so.7"]), {
      code: "unsupported",
      message: /libzstd\.so\.1 cannot be loaded\. Install it .* or run on Node 22\.15/,
    });
  });

  test("the system's libzstd and the one inside of Node are told apart", () => {
    const system = zstd(["libzstd.so.1"]);
    assert.match(system.ZSTD_versionString(), /^1\.\d+\.\d+$/);
    const [major, minor] = process.versions.node.split(".").map(Number) as [number, number];
    const hasOwn = major > 22 || (major === 22 && minor >= 15);
    if (hasOwn) assert.match(zstd([null]).ZSTD_versionString(), /^1\.\d+\.\d+$/);
    else assert.throws(() => zstd([null]), { code: "unsupported" });
  });
});
