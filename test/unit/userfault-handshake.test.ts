/** The first message of VMs with KVM Userfault, and how it is told from all others. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { GIB } from "../../src/base/units.ts";
import { parseAnyHandshake } from "../../src/protocol/userfault-handshake.ts";

const first = {
  base_host_virt_addr: 0x7f8d_8800_0000,
  size: 3 * GIB,
  offset: 0,
  gpa_start: 0,
  page_size: 4096,
  is_guest_memfd: true,
  page_size_kib: 4096,
};
const second = {
  ...first,
  base_host_virt_addr: 0x7f3d_0460_0000,
  size: GIB,
  offset: 3 * GIB,
  gpa_start: 4 * GIB,
};
const parse = (regions: readonly object[], fdCount: number) =>
  parseAnyHandshake(new TextEncoder().encode(JSON.stringify(regions)), fdCount, 4096);

/** A region without some of its fields. */
function without(region: object, ...names: readonly string[]): object {
  return Object.fromEntries(Object.entries(region).filter(([name]) => !names.includes(name)));
}

describe("which protocol it is", () => {
  test("with a guest_memfd: three descriptors, and the fields", () => {
    const parsed = parse([first, second], 3);
    assert.ok(parsed.protocol === "userfault" && parsed.isGuestMemfd);
    assert.equal(parsed.regions.totalBytes, 4 * GIB);
    const { guestAddresses } = parsed;
    assert.equal(guestAddresses.pageAt(0), 0);
    assert.equal(guestAddresses.pageAt(3 * GIB - 1), 3 * 2 ** 18 - 1);
    assert.equal(guestAddresses.pageAt(3 * GIB), -1);
    assert.equal(guestAddresses.pageAt(4 * GIB - 1), -1);
    assert.equal(guestAddresses.pageAt(4 * GIB), 3 * 2 ** 18);
    assert.equal(guestAddresses.pageAt(4 * GIB + 0x5678), 3 * 2 ** 18 + 5);
    assert.equal(guestAddresses.pageAt(5 * GIB), -1);
    for (const page of [0, 1, 3 * 2 ** 18 - 1, 3 * 2 ** 18, 2 ** 20 - 1]) {
      assert.equal(guestAddresses.pageAt(guestAddresses.addressOf(page)), page);
    }
    assert.equal(guestAddresses.addressOf(2 ** 20), -1);
  });

  test("with ordinary memory, of a VMM that knows the protocol: one descriptor", () => {
    const parsed = parse([{ ...first, is_guest_memfd: false }], 1);
    assert.ok(parsed.protocol === "userfault" && !parsed.isGuestMemfd);
  });

  test("of any other VMM: one descriptor, and no field", () => {
    const parsed = parse([without(first, "gpa_start", "is_guest_memfd")], 1);
    assert.equal(parsed.protocol, "userfaultfd");
    assert.equal(parsed.regions.totalBytes, 3 * GIB);
  });
});

describe("is refused:", () => {
  const plain = without(first, "gpa_start", "is_guest_memfd");
  const refused: readonly (readonly [string, readonly object[], number, RegExp])[] = [
    ["a guest_memfd that does not come along", [first], 1, /carries 1 descriptors.* sends 3/],
    ["descriptors that nobody announced", [plain], 3, /carries 3 descriptors.* sends 1/],
    ["two descriptors", [first], 2, /carries 2 descriptors/],
    ["none", [plain], 0, /carries 0 descriptors/],
    [
      "memory of both kinds",
      [first, { ...second, is_guest_memfd: false }],
      3,
      /some of its regions are of a guest_memfd/,
    ],
    ["a region without guest address", [first, without(second, "gpa_start")], 3, /region 1 has no/],
    ["large pages", [{ ...first, page_size: 2 ** 21 }], 3, /pages of 2097152 bytes/],
    ["guest addresses inside of a page", [{ ...first, gpa_start: 1 }], 3, /gpa_start 0x1, no mul/],
    ["overlaps", [first, { ...second, gpa_start: 2 * GIB }], 3, /overlap in their guest addresses/],
    ["the end of numbers", [{ ...first, gpa_start: 2 ** 53 - 4096 }], 3, /ends beyond 2\^53/],
    ["a flag that is none", [{ ...first, is_guest_memfd: 1 }], 3, /Expected boolean/],
  ];
  for (const [name, regions, fdCount, message] of refused) {
    test(name, () => {
      assert.throws(() => parse(regions, fdCount), { code: "handshake", message });
    });
  }
});
