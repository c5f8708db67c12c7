/** What one pager writes down of a session's VM, and the next one reads. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { hostAddress, imageOffset, SMALL_PAGE_BYTES } from "../../src/base/units.ts";
import { decodeAttachment, encodeAttachment } from "../../src/daemon/session-record.ts";
import { RegionMap } from "../../src/snapshot/regions.ts";

const PAGE = SMALL_PAGE_BYTES;
const region = {
  baseHostAddress: hostAddress(0x7e00_0000_0000),
  sizeBytes: 4 * PAGE,
  imageOffset: imageOffset(0),
};
const regions = new RegionMap([region], PAGE);
const attachment = { pid: 17, regions, attachedMs: 1.5, generation: 2, userfault: null };
const userfault = {
  guestAddresses: [{ gpa: 2 ** 32, sizeBytes: 4 * PAGE, imageOffset: 0 }],
  ringCount: 2,
  hasAsyncSocket: true,
};

describe("what a VM said", () => {
  test("comes back as it was", () => {
    const { regions: back, ...rest } = decodeAttachment(encodeAttachment(attachment));
    assert.deepEqual([back.regions, back.pageSizeBytes], [regions.regions, PAGE]);
    assert.deepEqual(rest, { pid: 17, attachedMs: 1.5, generation: 2, userfault: null });
  });

  test("comes back with what a VM with KVM Userfault has said", () => {
    const back = decodeAttachment(encodeAttachment({ ...attachment, userfault }));
    assert.deepEqual(back.userfault, userfault);
  });

  test("is refused if it is damaged", () => {
    const good = JSON.parse(Buffer.from(encodeAttachment(attachment)).toString()) as object;
    const bad = [
      "{",
      JSON.stringify({ ...good, pid: -1 }),
      JSON.stringify({ ...good, regions: undefined }),
      JSON.stringify({ ...good, regions: { ...regions.toJson(), regions: [[PAGE + 1, PAGE, 0]] } }),
    ];
    for (const text of bad) {
      assert.throws(() => decodeAttachment(Buffer.from(text)), { code: "session-failed" }, text);
    }
  });
});
