/** The file of a trace: its bytes, and everything that must be refused; the traces we bring. */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { describe, test } from "node:test";
import fc from "fast-check";
import { FaultlineError } from "../../src/base/errors.ts";
import { MIB } from "../../src/base/units.ts";
import { decodeTrace, encodeTrace, type Trace } from "../../src/bench/trace-file.ts";
import { loadTrace, syntheticTrace } from "../../src/bench/traces.ts";

const trace: Trace = {
  sizeBytes: 2 * MIB,
  pages: Uint32Array.from([7, 8, 511, 3]),
  thinkUs: Uint32Array.from([0, 300, 1, 0]),
};
/** Written by hand, from docs/FORMAT.md. */
const golden = Buffer.from(
  [
    "464c545243450d0a", // FLTRCE
    "0100000004000000", // version 1, 4 touches
    "0000200000000000", // 2 MiB of memory
    "4b00000000000000", // 75 bytes in all
    "0e00", // page 7, at once
    "00ac02", // the next one, after 300 µs
    "ec0701", // 502 pages further, after 1 µs
    "f90700", // 509 back, at once
  ].join(""),
  "hex",
);

const withDigest = (bytes: Uint8Array): Buffer =>
  Buffer.concat([bytes, createHash("sha256").update(bytes).digest()]);

function assertRefused(bytes: Uint8Array, reason: RegExp): void {
  assert.throws(
    () => decodeTrace(bytes, "bad.trace"),
    (error) => {
      assert.ok(error instanceof FaultlineError && error.code === "trace-corrupt", String(error));
      assert.match(error.message, reason);
      assert.match(error.message, /^bad\.trace holds no trace .*Record it anew/);
      return true;
    },
  );
}

describe("a trace", () => {
  test("has exactly these bytes", () => {
    const bytes = encodeTrace(trace);
    assert.equal(Buffer.from(bytes).toString("hex"), withDigest(golden).toString("hex"));
    assert.deepEqual(decodeTrace(bytes, "golden"), trace);
  });

  test("comes back as it was, whatever is in it", () => {
    const touches = fc.uniqueArray(fc.tuple(fc.nat(2 ** 32 - 1), fc.nat(2 ** 32 - 1)), {
      minLength: 1,
      selector: ([page]) => page,
    });
    fc.assert(
      fc.property(touches, (rows) => {
        const random = {
          sizeBytes: 2 ** 44,
          pages: Uint32Array.from(rows, ([page]) => page),
          thinkUs: Uint32Array.from(rows, ([, us]) => us),
        };
        assert.deepEqual(decodeTrace(encodeTrace(random), "random"), random);
      }),
    );
  });

  test("cut anywhere, or with any bit flipped, is refused", () => {
    const bytes = encodeTrace(trace);
    for (let length = 0; length < bytes.length; length++) {
      assertRefused(bytes.subarray(0, length), /only|length/);
    }
    for (let bit = 0; bit < bytes.length * 8; bit++) {
      const damaged = Uint8Array.from(bytes);
      damaged[bit >> 3]! ^= 1 << (bit & 7);
      assertRefused(damaged, /begin|version|length|digest/);
    }
  });

  const changes: [what: string, at: number, hex: string, reason: RegExp][] = [
    ["of another version", 8, "02000000", /it has version 2, not 1/],
    ["without touches", 12, "00000000", /it has 0 touches/],
    ["with more touches than it has", 12, "05000000", /it ends too early/],
    ["with fewer touches than it has", 12, "03000000", /something is behind its last touch/],
    ["with more touches than may be", 12, "01001000", /it has 1048577 touches/],
    ["of no memory", 16, "0000000000000000", /it is for 0 bytes of memory/],
    ["of half a page", 16, "0008200000000000", /it is for 2099200 bytes of memory/],
    ["of more memory than may be", 16, "0010000000100000", /bytes of memory/],
    ["with a page beyond the memory", 32 + 5, "ee07", /lies outside of the memory/],
    ["with a page before the memory", 32, "0d", /lies outside of the memory/],
    ["with a page that comes twice", 32 + 2, "01", /touches a page twice/],
    ["with a number that is too long", 32, "8e00", /longer than it need be/],
  ];
  for (const [what, at, hex, reason] of changes) {
    test(`${what} is refused, also with the right digest`, () => {
      const bytes = Buffer.from(golden);
      bytes.write(hex, at, "hex");
      assertRefused(withDigest(bytes), reason);
    });
  }
});

describe("the traces we bring", () => {
  test("synthetic: 65,536 pages of 1 GiB in runs of eight, the same each time", () => {
    const { sizeBytes, pages, thinkUs } = loadTrace("synthetic", false).trace;
    assert.deepEqual([sizeBytes, pages.length], [1024 * MIB, 65_536]);
    assert.equal(new Set(pages).size, pages.length);
    assert.ok(thinkUs.every((us) => us === 0));
    const runs = pages.reduce((sum, page, touch) => {
      return sum + (page === pages[touch - 1]! + 1 ? 0 : 1);
    }, 0);
    const mean = pages.length / runs;
    assert.ok(mean > 6 && mean < 8.5, `runs of ${mean} pages`);
    assert.deepEqual(syntheticTrace(8 * MIB, 5), syntheticTrace(8 * MIB, 5));
    assert.notDeepEqual(syntheticTrace(8 * MIB, 5), syntheticTrace(8 * MIB, 6));
  });

  test("linux: a few thousand pages of 256 MiB, with think times", () => {
    const { sizeBytes, pages, thinkUs } = loadTrace("linux", false).trace;
    assert.equal(sizeBytes, 256 * MIB);
    assert.ok(pages.length > 500 && pages.length < 20_000);
    assert.ok(thinkUs.some((us) => us > 0));
  });
});
