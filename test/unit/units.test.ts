/** Page arithmetic beyond 32 bits, and how numbers look in messages. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  alignDown,
  alignUp,
  formatBytes,
  formatHex,
  GIB,
  HUGE_PAGE_BYTES,
  hostAddress,
  imageOffset,
  isAligned,
  KIB,
  MIB,
  pageIndex,
  SMALL_PAGE_BYTES,
} from "../../src/base/units.ts";

/** User-space addresses with five-level page tables: 57 bits hold both halves, 2^52 is enough. */
const anyAddress = fc.nat({ max: Number.MAX_SAFE_INTEGER - HUGE_PAGE_BYTES });
const anyUnit = fc.constantFrom(1, 512, SMALL_PAGE_BYTES, 64 * KIB, HUGE_PAGE_BYTES, GIB);

describe("alignment", () => {
  test("the aligned values beside an address are multiples, less than a unit away", () => {
    fc.assert(
      fc.property(anyAddress, anyUnit, (value, unit) => {
        const down = alignDown(value, unit);
        assert.ok(down <= value && value - down < unit);
        assert.equal(BigInt(down) % BigInt(unit), 0n);
        if (value > Number.MAX_SAFE_INTEGER - 2 * unit) return;
        const up = alignUp(value, unit);
        assert.ok(up >= value && up - value < unit);
        assert.equal(BigInt(up) % BigInt(unit), 0n);
      }),
    );
  });

  test("a multiple stays what it is, and is the only thing that counts as aligned", () => {
    fc.assert(
      fc.property(anyAddress, anyUnit, (value, unit) => {
        const down = alignDown(value, unit);
        assert.equal(alignDown(down, unit), down);
        assert.equal(alignUp(down, unit), down);
        assert.ok(isAligned(down, unit));
        assert.equal(isAligned(value, unit), value === down);
      }),
    );
  });

  test("addresses above 2^32 keep their high bits", () => {
    assert.equal(alignDown(0x7f12_3456_7abc, SMALL_PAGE_BYTES), 0x7f12_3456_7000);
    assert.equal(alignUp(0x7f12_3456_7abc, SMALL_PAGE_BYTES), 0x7f12_3456_8000);
    assert.equal(alignDown(0x7f12_3456_7abc, HUGE_PAGE_BYTES), 0x7f12_3440_0000);
  });

  test("zero is a multiple of everything", () => {
    assert.equal(alignDown(0, GIB), 0);
    assert.equal(alignUp(0, GIB), 0);
    assert.ok(isAligned(0, GIB));
  });
});

describe("formatBytes", () => {
  const cases: readonly (readonly [number, string])[] = [
    [0, "0 B"],
    [1023, "1023 B"],
    [KIB, "1 KiB"],
    [1536, "1.5 KiB"],
    [SMALL_PAGE_BYTES, "4 KiB"],
    [MIB - 1, "1024 KiB"],
    [HUGE_PAGE_BYTES, "2 MiB"],
    [GIB, "1 GiB"],
    [GIB + GIB / 4, "1.3 GiB"],
    [2048 * GIB, "2048 GiB"],
  ];
  for (const [bytes, text] of cases) {
    test(`${bytes} bytes are ${text}`, () => assert.equal(formatBytes(bytes), text));
  }
});

test("formatHex shows addresses as C does", () => {
  assert.equal(formatHex(0), "0x0");
  assert.equal(formatHex(SMALL_PAGE_BYTES), "0x1000");
  assert.equal(formatHex(0x7fff_ffff_f000), "0x7ffffffff000");
});

test("brands are plain numbers at run time", () => {
  assert.equal(hostAddress(0x7000_0000_0000), 0x7000_0000_0000);
  assert.equal(imageOffset(4096), 4096);
  assert.equal(pageIndex(1), 1);
});
