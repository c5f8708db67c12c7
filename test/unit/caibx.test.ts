/** The index format: bytes that the real casync wrote, and everything that must be refused. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { decodeIndex, encodeIndex, MAX_CHUNK_BYTES } from "../../src/snapshot/caibx.ts";
import { type ChunkId, digests } from "../../src/snapshot/chunk-id.ts";
import { fixedIndex, ImageIndex } from "../../src/snapshot/image-index.ts";

const hex = (...lines: readonly string[]): Buffer => Buffer.from(lines.join(""), "hex");
const sha = (algorithm: string, size: number): string =>
  createHash(algorithm).update("a".repeat(size)).digest("hex");

/** casync 2 on 100 times "a": `casync make --digest=sha512-256 --chunk-size=64`. */
const byContent512 = hex(
  "3000000000000000f99f127b9c4d8296", // header: size, type
  "00000000000000b0", // feature flags: SHA-512/256, and two about archives
  "100000000000000040000000000000000001000000000000", // 16, 64, 256
  "ffffffffffffffff7d41172f119e5be7", // table: size, type
  "6400000000000000", // the only chunk ends at 100
  "edf1cb93f88192e0ac89fcec0522ecd7686c6b7067f5bb4884fd2c230b98e406",
  "00000000000000000000000000000000", // tail
  "30000000000000006000000000000000d1ec49550e054f4b",
);
/** The same with `--digest=sha256`. */
const byContent256 = hex(
  "3000000000000000f99f127b9c4d8296",
  "0000000000000090",
  "100000000000000040000000000000000001000000000000",
  "ffffffffffffffff7d41172f119e5be7",
  "6400000000000000",
  "2816597888e4a0d3a36b82b83316ab32680eb8f00f8cd3b904d681246d285a0e",
  "00000000000000000000000000000000",
  "30000000000000006000000000000000d1ec49550e054f4b",
);
/** casync 2 on the same, with `--chunk-size=64:64:64`. */
const fixed512 = hex(
  "3000000000000000f99f127b9c4d829600000000000000b040000000000000004000000000000000",
  "4000000000000000ffffffffffffffff7d41172f119e5be740000000000000002c3fa8f196f2aac6",
  "5f15166666ecc77bd9fe195bae83ef06bb75c7857c163db96400000000000000caff4338bc2c49ca",
  "84b31a116f6000e7168c951131df97e2cadc15fc81f6180100000000000000000000000000000000",
  "30000000000000008800000000000000d1ec49550e054f4b",
);
/** casync 2 on an empty file. */
const empty = hex(
  "3000000000000000f99f127b9c4d829600000000000000b0",
  "004000000000000000000100000000000000040000000000",
  "ffffffffffffffff7d41172f119e5be7",
  "00000000000000000000000000000000",
  "30000000000000003800000000000000d1ec49550e054f4b",
);

const at = (bytes: Buffer, offset: number, value: bigint): Buffer => {
  const changed = Buffer.from(bytes);
  changed.writeBigUInt64LE(value, offset);
  return changed;
};

describe("an index that casync wrote", () => {
  test("with boundaries by content and SHA-512/256", () => {
    const index = decodeIndex(byContent512, "golden");
    assert.equal(index.digest, "sha512-256");
    assert.deepEqual(index.chunkSizes, { min: 16, average: 64, max: 256 });
    assert.equal(index.isFixed, false);
    assert.deepEqual([index.chunkCount, index.sizeBytes], [1, 100]);
    assert.equal(index.id(0), sha("sha512-256", 100));
  });

  test("with SHA-256", () => {
    const index = decodeIndex(byContent256, "golden");
    assert.equal(index.digest, "sha256");
    assert.equal(index.id(0), sha("sha256", 100));
  });

  test("with chunks of one size", () => {
    const index = decodeIndex(fixed512, "golden");
    assert.equal(index.isFixed, true);
    assert.deepEqual([...index.ends], [64, 100]);
    assert.equal(index.id(0), sha("sha512-256", 64));
    assert.equal(index.id(1), sha("sha512-256", 36));
  });

  test("of an empty file", () => {
    const index = decodeIndex(empty, "golden");
    assert.deepEqual([index.chunkCount, index.sizeBytes], [0, 0]);
  });
});

describe("an index of ours", () => {
  test("has casync's bytes, but for the flags that are about archives", () => {
    const ids = [sha("sha512-256", 64), sha("sha512-256", 36)] as ChunkId[];
    const wanted = Buffer.from(fixed512);
    wanted[23] = 0x20;
    const encoded = encodeIndex(fixedIndex("sha512-256", 100, 64, ids));
    assert.equal(Buffer.from(encoded).toString("hex"), wanted.toString("hex"));
  });

  test("with SHA-256 has no flag at all", () => {
    const encoded = encodeIndex(fixedIndex("sha256", 36, 64, [sha("sha256", 36) as ChunkId]));
    assert.equal(Buffer.from(encoded).readBigUInt64LE(16), 0n);
  });
});

/** Any index that can be: sizes by content or fixed, ids at random. */
const anyIndex = fc
  .record({
    digest: fc.constantFrom(...digests),
    bounds: fc.tuple(fc.nat(5000), fc.nat(5000), fc.nat(5000)),
    isFixed: fc.boolean(),
    sizes: fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { maxLength: 40 }),
    seed: fc.nat(),
  })
  .map(({ digest, bounds, isFixed, sizes, seed }) => {
    const [min, average, max] = bounds.map((each) => each + 1).sort((a, b) => a - b);
    const chunkSizes = isFixed
      ? { min: max!, average: max!, max: max! }
      : { min: min!, average: average!, max: max! };
    let end = 0;
    const ends = sizes.map((share, chunk) => {
      const isLast = chunk === sizes.length - 1;
      end += isFixed && !isLast ? max! : 1 + Math.floor(share * (max! - 1));
      return end;
    });
    const ids = Buffer.alloc(32 * ends.length);
    for (let chunk = 0; chunk < ends.length; chunk++) {
      createHash("sha256")
        .update(`${seed} ${chunk}`)
        .digest()
        .copy(ids, chunk * 32);
    }
    return new ImageIndex(digest, chunkSizes, Float64Array.from(ends), ids);
  });

describe("every index", () => {
  test("comes back as it was", () => {
    fc.assert(
      fc.property(anyIndex, (index) => {
        const decoded = decodeIndex(encodeIndex(index), "round trip");
        assert.equal(decoded.digest, index.digest);
        assert.deepEqual(decoded.chunkSizes, index.chunkSizes);
        assert.deepEqual(decoded.ends, index.ends);
        assert.deepEqual(Buffer.from(decoded.ids), Buffer.from(index.ids));
      }),
    );
  });

  test("finds the chunk of every byte", () => {
    fc.assert(
      fc.property(
        anyIndex,
        fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true }),
        (index, share) => {
          if (index.sizeBytes === 0) return;
          const offset = Math.floor(share * index.sizeBytes);
          const chunk = index.chunkAt(offset);
          assert.ok(index.start(chunk) <= offset && offset < index.end(chunk));
        },
      ),
    );
  });

  test("with any byte changed is refused, or means something that an index can mean", () => {
    fc.assert(
      fc.property(anyIndex, fc.nat(), fc.integer({ min: 1, max: 255 }), (index, at, change) => {
        const bytes = Buffer.from(encodeIndex(index));
        bytes[at % bytes.length]! ^= change;
        try {
          const decoded = decodeIndex(bytes, "changed");
          let start = 0;
          for (const end of decoded.ends) {
            assert.ok(end > start && end - start <= decoded.chunkSizes.max);
            start = end;
          }
        } catch (error) {
          assert.equal((error as { code?: string }).code, "image-corrupt");
        }
      }),
    );
  });
});

describe("an index is refused, by offset and what was expected there, if", () => {
  const tail = fixed512.length - 40;
  const refusals: [what: string, bytes: Buffer, message: RegExp][] = [
    ["it is empty", Buffer.alloc(0), /at byte 0: expected 104 bytes and 40 for each chunk/],
    [
      "it is cut",
      fixed512.subarray(0, -1),
      /at byte 183: expected 104 bytes and 40 for each chunk/,
    ],
    [
      "it is some other file",
      Buffer.alloc(104, 7),
      /at byte 0: expected the size of the header, 48/,
    ],
    [
      "it has another type",
      at(fixed512, 8, 1n),
      /at byte 8: expected the type of an index, 0x9682/,
    ],
    ["its chunks are too large", at(fixed512, 40, 1n << 40n), /at byte 40: expected the largest/],
    ["min exceeds average", at(fixed512, 24, 65n), /at byte 24: expected the smallest chunk size/],
    ["average exceeds max", at(fixed512, 32, 65n), /at byte 32: expected the average chunk size/],
    ["a size is 0", at(fixed512, 24, 0n), /at byte 24: expected .* from 1 to 64, found 0/],
    ["its table has a size", at(fixed512, 48, 16n), /at byte 48: expected a table of unknown size/],
    [
      "its table has another type",
      at(fixed512, 56, 1n),
      /at byte 56: expected the type of a table/,
    ],
    ["a chunk is too large", at(fixed512, 64, 65n), /at byte 64: expected the end of chunk 0/],
    ["a fixed chunk is short", at(fixed512, 64, 63n), /at byte 64: .* from 64 to 64, found 63/],
    ["ends do not ascend", at(fixed512, 104, 64n), /at byte 104: .* chunk 1 from 65 to 128, found/],
    [
      "an end is beyond 2^53",
      at(fixed512, 104, 1n << 60n),
      /at byte 104: .* found 1152921504606846/,
    ],
    ["its tail is not zero", at(fixed512, tail, 1n), /at byte 144: expected the end of the table/],
    ["its tail is not zero (2)", at(fixed512, tail + 8, 1n), /at byte 152: expected the end/],
    ["it names another header", at(fixed512, tail + 16, 1n), /at byte 160: .* the header, 48/],
    [
      "its size is wrong",
      at(fixed512, tail + 24, 1n),
      /at byte 168: .* the size of the table, 136/,
    ],
    [
      "its mark is missing",
      at(fixed512, tail + 32, 1n),
      /at byte 176: expected the mark that ends/,
    ],
  ];
  for (const [what, bytes, message] of refusals) {
    test(what, () => {
      const isRefused = { code: "image-corrupt", message };
      assert.throws(() => decodeIndex(bytes, "web-1.caibx"), isRefused);
      assert.throws(() => decodeIndex(bytes, "web-1.caibx"), /^FaultlineError: The index web-1\.c/);
    });
  }

  test("nothing but a chunk of casync's largest size passes the bound on sizes", () => {
    const ok = at(at(at(byContent512, 40, BigInt(MAX_CHUNK_BYTES)), 32, 64n), 24, 16n);
    assert.equal(decodeIndex(ok, "large").chunkSizes.max, MAX_CHUNK_BYTES);
  });
});
