/** A memory slot on guest_memfd, byte for byte as KVM reads it. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { encodeGuestMemfdSlot, type GuestMemfdSlot } from "../../src/linux/kvm-memory-slot.ts";

const slot: GuestMemfdSlot = {
  slot: 0x0102,
  guestAddress: 0x1_2345_6000,
  sizeBytes: 0x2_0000_0000,
  hostAddress: 0x7f12_3456_7000,
  guestMemfd: 77,
  offsetBytes: 0x3_0000_1000,
  bitmapAddress: 0x7fff_ffff_f008,
};

/** The bytes from `start` on, as hex. */
function hexOf(words: Uint32Array, start: number, count: number): string {
  return Buffer.from(words.buffer, start, count).toString("hex");
}

describe("a slot on guest_memfd", () => {
  test("has every field where the kernel looks for it", () => {
    const words = encodeGuestMemfdSlot(slot);
    assert.equal(words.byteLength, 160);
    assert.equal(hexOf(words, 0, 8), "020100000c000000"); // Slot; GUEST_MEMFD and USERFAULT.
    assert.equal(hexOf(words, 8, 8), "0060452301000000");
    assert.equal(hexOf(words, 16, 8), "0000000002000000");
    assert.equal(hexOf(words, 24, 8), "00705634127f0000");
    assert.equal(hexOf(words, 32, 8), "0010000003000000");
    assert.equal(hexOf(words, 40, 8), "4d00000000000000"); // The descriptor, and padding.
    assert.equal(hexOf(words, 48, 8), "08f0ffffff7f0000");
    assert.equal(hexOf(words, 56, 104), "00".repeat(104)); // A kernel refuses what it cannot know.
  });

  test("without a bitmap is one that stock kernels take", () => {
    const words = encodeGuestMemfdSlot({ ...slot, bitmapAddress: null });
    assert.equal(hexOf(words, 4, 4), "04000000");
    assert.equal(hexOf(words, 48, 112), "00".repeat(112));
  });
});
