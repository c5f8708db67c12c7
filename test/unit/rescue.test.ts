/** How a rescue finds out what a VM's memory is. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { GIB, hostAddress, imageOffset, MIB, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { assertNotContradicted, believe, type Proof } from "../../src/daemon/rescue-proof.ts";
import { possibleRegions, statedRegions } from "../../src/daemon/rescue-regions.ts";
import { parseSmaps, type RegisteredArea } from "../../src/linux/process-areas.ts";
import { parseUserfaultfdInfo } from "../../src/linux/process-fds.ts";
import type { RegionMap } from "../../src/snapshot/regions.ts";

const BASE = 0x7f00_0000_0000;

function area(start: number, sizeBytes: number, more: Partial<RegisteredArea> = {}) {
  const modes = { isMissing: true, isWriteProtect: false, isMinor: false };
  return { start, end: start + sizeBytes, pageSizeBytes: SMALL_PAGE_BYTES, ...modes, ...more };
}

function refuses(reason: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof FaultlineError && error.code === "rescue-refused");
    assert.match(error.message, reason);
    return true;
  };
}

const offsets = (regions: RegionMap): number[] =>
  regions.regions.map(({ baseHostAddress, imageOffset: offset }) => {
    return (baseHostAddress - BASE) * 1000 + offset;
  });

describe("smaps", () => {
  const mapping = (range: string, page: number, flags: string): string =>
    `${range} rw-p 00000000 00:00 0 \nSize: 8 kB\nKernelPageSize: ${page} kB\nVmFlags: ${flags}\n`;

  test("tells registered memory, its page size, and puts together what is alike", () => {
    const text = [
      mapping("1000-3000", 4, "rd wr mr mw me ac um sd"),
      mapping("3000-5000", 4, "rd wr mr mw me ac um nh"),
      mapping("5000-7000", 4, "rd wr mr mw me ac"),
      mapping("7000-9000", 4, "rd wr um uw"),
      mapping("9000-b000", 4, "rd wr um"),
      mapping("200000-400000", 2048, "rd wr ui ht"),
    ].join("");
    assert.deepEqual(parseSmaps(text), [
      area(0x1000, 0x4000),
      area(0x7000, 0x2000, { isWriteProtect: true }),
      area(0x9000, 0x2000),
      area(0x20_0000, 2 * MIB, { pageSizeBytes: 2 * MIB, isMissing: false, isMinor: true }),
    ]);
  });

  test("fdinfo tells what waits, and the features without the kernel's own bit", () => {
    const text = "pos:\t0\nflags:\t02004002\npending:\t1\ntotal:\t4\nAPI:\taa:80000008:1ffff\n";
    assert.deepEqual(parseUserfaultfdInfo(text), { pending: 1, waiting: 4, features: 8 });
  });
});

describe("possible regions", () => {
  test("one area below 3 GiB is one region", () => {
    assert.deepEqual(possibleRegions([area(BASE, GIB)], GIB).map(offsets), [[0]]);
  });

  test("one area above 3 GiB may be two, the low one at the higher address", () => {
    const found = possibleRegions([area(BASE, 4 * GIB)], 4 * GIB);
    const low = 3328 * MIB;
    assert.deepEqual(found.map(offsets), [
      [0],
      [GIB * 1000, 3 * GIB],
      [(4 * GIB - low) * 1000, low],
    ]);
  });

  test("areas may be in any order, above five in address order or its reverse", () => {
    const areas = [area(BASE, MIB), area(BASE + 8 * MIB, 2 * MIB), area(BASE + 16 * MIB, MIB)];
    assert.equal(possibleRegions(areas, 4 * MIB).length, 6);
    const many = Array.from({ length: 7 }, (_, index) => area(BASE + index * 2 * MIB, MIB));
    const [up, down, ...more] = possibleRegions(many, 7 * MIB);
    assert.equal(up!.regions[0]!.baseHostAddress, BASE);
    assert.equal(down!.regions[0]!.baseHostAddress, BASE + 12 * MIB);
    assert.deepEqual(more, []);
  });

  test("what cannot be guest memory is refused, with what was found", () => {
    assert.throws(() => possibleRegions([], MIB), refuses(/No memory of the VM is registered/));
    const half = [area(BASE, MIB)];
    assert.throws(() => possibleRegions(half, 2 * MIB), refuses(/is: 0x7f0000000000:0x100000/));
    const minor = [area(BASE, MIB, { isMinor: true })];
    assert.throws(() => possibleRegions(minor, MIB), refuses(/missing faults alone/));
    const mixed = [area(BASE, 2 * MIB, { pageSizeBytes: 2 * MIB }), area(BASE + GIB, MIB)];
    assert.throws(() => possibleRegions(mixed, 3 * MIB), refuses(/several page sizes/));
    const giant = [area(BASE, GIB, { pageSizeBytes: GIB })];
    assert.throws(() => possibleRegions(giant, GIB), refuses(/Pages of 1 GiB cannot be served/));
    const tracked = [area(BASE, MIB, { isWriteProtect: true }), area(BASE + GIB, MIB)];
    assert.throws(() => possibleRegions(tracked, 2 * MIB), refuses(/some is not/));
  });

  test("stated regions have to be registered, and all that is", () => {
    const areas = [area(BASE, 2 * MIB)];
    const region = (start: number, sizeBytes: number, offset: number) => {
      return { baseHostAddress: hostAddress(start), sizeBytes, imageOffset: imageOffset(offset) };
    };
    const two = [region(BASE, MIB, MIB), region(BASE + MIB, MIB, 0)];
    assert.deepEqual(offsets(statedRegions(two, areas, 2 * MIB)), [MIB, MIB * 1000]);
    const outside = [region(BASE + MIB, 2 * MIB, 0)];
    assert.throws(() => statedRegions(outside, areas, 2 * MIB), refuses(/is not registered/));
    const overlapping = [region(BASE, MIB, 0), region(BASE, MIB, MIB)];
    assert.throws(() => statedRegions(overlapping, areas, 2 * MIB), refuses(/cannot be those/));
    const wider = [area(BASE, 3 * MIB)];
    assert.throws(() => statedRegions(two, wider, 2 * MIB), refuses(/would have no handler/));
  });
});

describe("which way is believed", () => {
  const proof = (samples: number[], matches: number[], totalBytes = GIB): Proof => {
    const region = { baseHostAddress: hostAddress(BASE), sizeBytes: GIB, imageOffset: 0 };
    return { regions: { totalBytes, regions: [region] } as unknown as RegionMap, samples, matches };
  };

  test("the one whose pages are as in the image", () => {
    const right = proof([64, 64], [60, 3]);
    assert.equal(believe([proof([64, 64], [0, 0]), right]), right);
  });

  test("one region of a small VM, even if nothing of it is there", () => {
    const only = proof([0], [0]);
    assert.equal(believe([only]), only);
    const fewWritten = proof([15], [0]);
    assert.equal(believe([fewWritten]), fewWritten);
  });

  test("not one of which too much differs, stated or found", () => {
    const wrong = proof([16], [0]);
    assert.throws(() => believe([wrong]), refuses(/Not one of 16 pages/));
    assert.throws(() => assertNotContradicted(wrong), refuses(/Not one of 16 pages/));
    assert.doesNotThrow(() => assertNotContradicted(proof([64], [1])));
  });

  test("not a large one that proves nothing: it may be two regions", () => {
    const large = 8 * GIB;
    const ways = [proof([0], [0], large), proof([0, 0], [0, 0], large)];
    assert.throws(() => believe(ways), refuses(/regions in 2 ways.*--region 0x7f0000000000:/));
  });

  test("the last of all orders, if one region is still empty", () => {
    const last = proof([64, 0], [64, 0]);
    assert.equal(believe([last, proof([64, 0], [0, 0])]), last);
    const cut = proof([64, 0], [64, 0], 8 * GIB);
    assert.throws(() => believe([cut, proof([64], [0], 8 * GIB)]), refuses(/in 2 ways/));
  });
});
