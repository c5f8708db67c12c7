/** From host addresses to pages and back, and what a VMM must not announce. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import { FaultlineError } from "../../src/base/errors.ts";
import {
  GIB,
  HUGE_PAGE_BYTES,
  hostAddress,
  imageOffset,
  SMALL_PAGE_BYTES,
} from "../../src/base/units.ts";
import { type GuestRegion, MAX_REGIONS, RegionMap } from "../../src/snapshot/regions.ts";

const PAGE = SMALL_PAGE_BYTES;

function region(base: number, sizeBytes: number, offset: number): GuestRegion {
  return { baseHostAddress: hostAddress(base), sizeBytes, imageOffset: imageOffset(offset) };
}

/** Two regions whose order in memory is not their order in the image. */
const swapped = new RegionMap(
  [region(0x9000_0000, 3 * PAGE, 0), region(0x1000_0000, 2 * PAGE, 3 * PAGE)],
  PAGE,
);

/**
 * Up to 8 regions, announced in image order: their places in host memory are shuffled, with gaps of
 * 0 or more pages between them.
 */
const anyLayout = fc
  .record({
    pageSize: fc.constantFrom(PAGE, HUGE_PAGE_BYTES),
    pieces: fc.array(
      fc.record({ pages: fc.integer({ min: 1, max: 50 }), gap: fc.nat({ max: 3 }), key: fc.nat() }),
      { minLength: 1, maxLength: 8 },
    ),
  })
  .map(({ pageSize, pieces }) => {
    const bases = new Map<number, number>();
    let next = 0x7e00_0000_0000;
    for (const [index, piece] of [...pieces.entries()].sort((a, b) => a[1].key - b[1].key)) {
      bases.set(index, next);
      next += (piece.pages + piece.gap) * pageSize;
    }
    let offset = 0;
    const regions = pieces.map((piece, index) => {
      const made = region(bases.get(index)!, piece.pages * pageSize, offset);
      offset += made.sizeBytes;
      return made;
    });
    return new RegionMap(regions, pageSize);
  });

describe("address and page", () => {
  test("are one-to-one over every page of every region", () => {
    fc.assert(
      fc.property(anyLayout, (map) => {
        const seen = new Set<number>();
        for (const [index, { baseHostAddress, sizeBytes }] of map.regions.entries()) {
          for (let offset = 0; offset < sizeBytes; offset += map.pageSizeBytes) {
            const address = baseHostAddress + offset;
            const page = map.pageAt(index, address);
            assert.equal(map.regionAt(address), index);
            assert.equal(map.regionOfPage(page), index);
            assert.equal(map.addressOf(index, page), address);
            seen.add(page);
          }
        }
        assert.equal(seen.size * map.pageSizeBytes, map.totalBytes);
        assert.equal(map.pageLimit, seen.size);
      }),
    );
  });

  test("any byte of a page leads to that page", () => {
    for (const pageSize of [PAGE, HUGE_PAGE_BYTES]) {
      const map = new RegionMap([region(0x7000_0000_0000, 4 * pageSize, 8 * pageSize)], pageSize);
      const start = 0x7000_0000_0000 + 2 * pageSize;
      for (const address of [start, start + 1, start + pageSize - 1]) {
        assert.equal(map.pageAt(0, address), 10);
      }
      assert.equal(map.pageAt(0, start + pageSize), 11);
    }
  });

  test("the image offset is what counts, not the order of announcement", () => {
    assert.equal(swapped.regionOfPage(0), 0);
    assert.equal(swapped.regionOfPage(3), 1);
    assert.equal(swapped.addressOf(1, 4), 0x1000_0000 + PAGE);
    const reversed = new RegionMap([...swapped.regions].reverse(), PAGE);
    assert.equal(reversed.regionOfPage(0), 1);
    assert.equal(reversed.addressOf(0, 4), 0x1000_0000 + PAGE);
  });
});

describe("lookups at the edges", () => {
  test("a region holds its first byte and its last, not those around it", () => {
    for (const [index, { baseHostAddress, sizeBytes }] of swapped.regions.entries()) {
      assert.equal(swapped.regionAt(baseHostAddress), index);
      assert.equal(swapped.regionAt(baseHostAddress + sizeBytes - 1), index);
      assert.equal(swapped.regionAt(baseHostAddress - 1), -1);
      assert.equal(swapped.regionAt(baseHostAddress + sizeBytes), -1);
    }
  });

  test("pages before, between and after regions belong to none", () => {
    const map = new RegionMap([region(PAGE, PAGE, PAGE), region(8 * PAGE, PAGE, 3 * PAGE)], PAGE);
    const owners = [-1, 0, 1, 2, 3, 4].map((page) => map.regionOfPage(page));
    assert.deepEqual(owners, [-1, -1, 0, -1, 1, -1]);
    assert.equal(map.pageLimit, 4);
    assert.equal(map.totalBytes, 2 * PAGE);
  });

  test("regions that touch in host memory stay apart", () => {
    const map = new RegionMap(
      [region(8 * PAGE, 2 * PAGE, 2 * PAGE), region(10 * PAGE, 2 * PAGE, 0)],
      PAGE,
    );
    assert.equal(map.regionAt(10 * PAGE - 1), 0);
    assert.equal(map.regionAt(10 * PAGE), 1);
    assert.equal(map.endOf(0), map.baseOf(1));
    assert.equal(map.pageAt(1, 10 * PAGE), 0);
  });

  test("a terabyte at the top of a 47-bit address space is exact", () => {
    const top = 2 ** 47 - PAGE;
    const map = new RegionMap([region(top - 1024 * GIB, 1024 * GIB, 0)], PAGE);
    const last = 2 ** 28 - 1;
    assert.equal(map.pageAt(0, top - 1), last);
    assert.equal(map.addressOf(0, last), top - PAGE);
    assert.equal(map.regionAt(top), -1);
  });
});

describe("what is refused", () => {
  const cases: readonly (readonly [string, readonly GuestRegion[], number, RegExp])[] = [
    ["no region at all", [], PAGE, /announces 0 memory regions; 1 to 256 can be served/],
    [
      "an address that is no multiple of the page size",
      [region(0x10_1000, HUGE_PAGE_BYTES, 0)],
      HUGE_PAGE_BYTES,
      /region 0 has base_host_virt_addr 0x101000, no multiple of its page size 2 MiB/,
    ],
    [
      "a size that is no multiple of the page size",
      [region(0, PAGE, 0), region(PAGE, PAGE + 1, PAGE)],
      PAGE,
      /region 1 has size 0x1001, no multiple of its page size 4 KiB/,
    ],
    [
      "an offset that is no multiple of the page size",
      [region(0, PAGE, 512)],
      PAGE,
      /region 0 has offset 0x200, no multiple/,
    ],
    ["a size of 0", [region(PAGE, 0, 0)], PAGE, /region 0 has size 0\./],
    [
      "an end beyond 2^53",
      [region(2 ** 53 - PAGE, 2 * PAGE, 0)],
      PAGE,
      /region 0 ends beyond 2\^53/,
    ],
    [
      "regions that share host addresses, in whatever order",
      [region(4 * PAGE, 2 * PAGE, 0), region(3 * PAGE, 2 * PAGE, 2 * PAGE)],
      PAGE,
      /two regions overlap in their host addresses at 0x4000/,
    ],
    [
      "regions that share image offsets",
      [region(0, 2 * PAGE, 0), region(8 * PAGE, PAGE, PAGE)],
      PAGE,
      /two regions overlap in their image offsets at 0x1000/,
    ],
  ];
  for (const [name, regions, pageSize, message] of cases) {
    test(name, () => {
      assert.throws(() => new RegionMap(regions, pageSize), {
        name: "FaultlineError",
        code: "handshake",
        message,
      });
    });
  }

  test("more regions than the bound, and not one fewer", () => {
    const many = (count: number): GuestRegion[] =>
      Array.from({ length: count }, (_, index) => region(2 * index * PAGE, PAGE, index * PAGE));
    assert.equal(new RegionMap(many(MAX_REGIONS), PAGE).regions.length, MAX_REGIONS);
    assert.throws(() => new RegionMap(many(MAX_REGIONS + 1), PAGE), /announces 257/);
  });

  test("every message is a sentence that says whose fault it is", () => {
    for (const [name, regions, pageSize] of cases) {
      try {
        new RegionMap(regions, pageSize);
        assert.fail(`${name} was taken`);
      } catch (error) {
        assert.ok(error instanceof FaultlineError, name);
        assert.match(error.message, /^The handshake cannot be served: [^\n]*\.$/, name);
      }
    }
  });

  test("a page size of 0 is our own bug", () => {
    assert.throws(() => new RegionMap([region(0, PAGE, 0)], 0), { name: "AssertionError" });
  });
});

describe("as plain data", () => {
  test("its host addresses are ranges, in the order of its regions", () => {
    assert.deepEqual(swapped.ranges, [
      { start: 0x9000_0000, lengthBytes: 3 * PAGE },
      { start: 0x1000_0000, lengthBytes: 2 * PAGE },
    ]);
  });

  test("a map comes back as it was, through JSON", () => {
    fc.assert(
      fc.property(anyLayout, (map) => {
        const back = RegionMap.fromJson(JSON.parse(JSON.stringify(map.toJson())));
        assert.deepEqual([back.regions, back.pageSizeBytes], [map.regions, map.pageSizeBytes]);
      }),
    );
  });

  test("what is no map is refused, and not as somebody's handshake", () => {
    const good = swapped.toJson();
    const [first, ...others] = good.regions;
    const bad: readonly (readonly [unknown, RegExp])[] = [
      [null, /null is no list/],
      [undefined, /undefined is no list/],
      ["regions", /is no list of regions/],
      [{ ...good, pageSizeBytes: 0 }, /is no list of regions/],
      [{ ...good, pageSizeBytes: "4096" }, /is no list of regions/],
      [{ ...good, regions: [] }, /there are 0 memory regions/],
      [{ ...good, regions: [first!.slice(1)] }, /is no list of regions/],
      [{ ...good, regions: [[-PAGE, PAGE, 0]] }, /is no list of regions/],
      [{ ...good, regions: [[2 ** 53, PAGE, 0]] }, /is no list of regions/],
      [{ ...good, regions: [[PAGE + 1, PAGE, 0]] }, /region 0 has base 0x1001, no multiple/],
      [{ ...good, regions: [first, first, ...others] }, /two regions overlap/],
    ];
    for (const [json, message] of bad) {
      assert.throws(
        () => RegionMap.fromJson(json),
        (error: FaultlineError) => {
          assert.match(error.message, message);
          assert.match(error.message, /^A list of memory regions cannot be served: [^\n]*\.$/);
          return error.code === "handshake";
        },
        JSON.stringify(json),
      );
    }
  });
});
