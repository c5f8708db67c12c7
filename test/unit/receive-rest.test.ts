/** What a pager that takes a VM with KVM Userfault over finds of its handshake in the socket. */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { restOfMessages } from "../../src/protocol/receive-vm.ts";
import { MAX_RING_VCPUS, ringSetupText } from "../../src/protocol/ring-setup.ts";

const BODY = '[{"base_host_virt_addr":1,"gpa_start":0,"is_guest_memfd":true}]';

/** A frame whose length begins with this byte. */
function frame(lengthBytes: number): number[] {
  const payload = Array.from({ length: lengthBytes }, (_, index) => 0x65 + (index % 10));
  return [lengthBytes & 0xff, lengthBytes >>> 8, 0, 0, ...payload];
}

function bytesOf(text: string, ...more: readonly number[]): Uint8Array {
  return Uint8Array.from([...Buffer.from(text), ...more]);
}

describe("the rest of a handshake in a socket", () => {
  test("is all of it, and no byte of the frames behind it", () => {
    for (let count = 0; count <= MAX_RING_VCPUS; count++) {
      const setup = ringSetupText(count);
      for (const whole of [BODY + setup, setup]) {
        const expected = { restBytes: whole.length, isLast: true };
        assert.deepEqual(restOfMessages(bytesOf(whole), setup), expected);
        assert.deepEqual(restOfMessages(bytesOf(whole, ...frame(40)), setup), expected);
      }
    }
  });

  test("goes on behind the first message, if that ends a look", () => {
    const expected = { restBytes: BODY.length, isLast: false };
    assert.deepEqual(restOfMessages(bytesOf(BODY), ringSetupText(2)), expected);
  });

  test("is what a dead process has left of it", () => {
    const setup = ringSetupText(2);
    for (let taken = 0; taken < BODY.length; taken++) {
      const left = BODY.slice(taken) + setup;
      assert.equal(restOfMessages(bytesOf(left, ...frame(33)), setup).restBytes, left.length);
    }
    const end = setup.slice(-3);
    const expected = { restBytes: end.length, isLast: true };
    assert.deepEqual(restOfMessages(bytesOf(end, ...frame(33)), setup), expected);
  });

  test("is nothing where frames are, of whatever length, or nothing", () => {
    const setups = [ringSetupText(0), ringSetupText(2)];
    for (const setup of setups) {
      assert.deepEqual(restOfMessages(bytesOf(""), setup), { restBytes: 0, isLast: true });
      for (let lengthBytes = 1; lengthBytes < 4096; lengthBytes++) {
        const found = restOfMessages(bytesOf("", ...frame(lengthBytes)), setup);
        assert.deepEqual(found, { restBytes: 0, isLast: true });
      }
    }
  });
});
