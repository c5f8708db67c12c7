/**
 * Fault messages byte for byte, in every form that may come, and streams of them in any pieces.
 * `FAULTLINE_FRAMES=N FAULTLINE_FRAMES_SEED=N` feed more random frames, or others.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import fc from "fast-check";
import {
  decodeFaultReply,
  decodeFaultRequest,
  type FaultReply,
  type FaultRequest,
  FrameWriter,
  MAX_REPLY_FRAME_BYTES,
  MAX_REQUEST_FRAME_BYTES,
  newFaultReply,
  newFaultRequest,
} from "../../src/protocol/fault-messages.ts";
import { FrameDecoder, MAX_FRAME_PAYLOAD_BYTES } from "../../src/protocol/frame-decoder.ts";
import { RequestStream } from "../../src/protocol/request-stream.ts";
import { parseRingSetup, ringSetupText } from "../../src/protocol/ring-setup.ts";

const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString("hex");
const bytesOf = (text: string): Uint8Array => Buffer.from(text.replaceAll(" ", ""), "hex");

function requestFrame(request: FaultRequest): Uint8Array {
  const writer = new FrameWriter(new Uint8Array(64));
  writer.request(request);
  return writer.frames.slice();
}

function replyFrame(reply: FaultReply): Uint8Array {
  const writer = new FrameWriter(new Uint8Array(64));
  writer.reply(reply);
  return writer.frames.slice();
}

function decodedRequest(payload: Uint8Array): FaultRequest | null {
  const request = newFaultRequest();
  return decodeFaultRequest(payload, request) ? request : null;
}

function decodedReply(payload: Uint8Array): FaultReply | null {
  const reply = newFaultReply();
  return decodeFaultReply(payload, reply) ? reply : null;
}

const requests: readonly (readonly [FaultRequest, string])[] = [
  [{ vcpu: 1, offset: 0, flags: 0x30, gpa: 0x12345000 }, "0c000000 0401 0600 0630 01 0200503412"],
  [{ vcpu: 0, offset: 0, flags: 0, gpa: null }, "07000000 0400 0600 0600 00"],
  [{ vcpu: 0, offset: 0, flags: 0x10, gpa: 0x1000 }, "0a000000 0400 0600 0610 01 040010"],
];
const replies: readonly (readonly [FaultReply, string])[] = [
  [
    { vcpu: 1, offset: 0, sizeBytes: 4096, flags: 0x30, gpa: 0x12345000, isZero: false },
    "11000000 01 0401 0600 040010 0630 01 0200503412 00",
  ],
  [
    { vcpu: null, offset: 0, sizeBytes: 0x200000, flags: 0, gpa: null, isZero: true },
    "0c000000 00 0600 0200002000 0600 00 01",
  ],
];

describe("what the crate writes", () => {
  // Frames whose length does not match are a slip of this table, not of the code.
  for (const [request, text] of requests) {
    test(`request ${JSON.stringify(request)}`, () => {
      const frame = bytesOf(text);
      assert.equal(hex(requestFrame(request)), hex(frame));
      assert.deepEqual(decodedRequest(frame.subarray(4)), request);
    });
  }
  for (const [reply, text] of replies) {
    test(`reply ${JSON.stringify(reply)}`, () => {
      const frame = bytesOf(text);
      assert.equal(hex(replyFrame(reply)), hex(frame));
      assert.deepEqual(decodedReply(frame.subarray(4)), reply);
    });
  }
});

describe("other forms of the same numbers", () => {
  const wanted = { vcpu: 0x1234, offset: 0, flags: 0x30, gpa: 0x1000 };
  const forms: readonly (readonly [string, string])[] = [
    ["canonical", "02 3412 0600 0630 01 040010"],
    ["wider", "00 34120000 00 0000000000000000 02 30000000 01 00 0010000000000000"],
    ["a minimum and one byte", "03 00120000 34 0600 0630 01 040010"],
    ["a minimum and two bytes", "01 00100000 3402 0600 0630 01 040010"],
    ["a sum that wraps around", "03 ffffffff 35 0600 0630 01 040010"],
    ["u64: minimum and one byte", "02 3412 0600 0630 01 05 ff0f000000000000 01"],
    ["u64: minimum and two bytes", "02 3412 0600 0630 01 03 0000000000000000 0010"],
    ["u64: minimum and four bytes", "02 3412 0600 0630 01 01 0000000000000000 00100000"],
    ["a flag by its lowest bit", "02 3412 0600 0630 ff 040010"],
  ];
  for (const [name, text] of forms) {
    test(name, () => {
      const decoded = decodedRequest(bytesOf(text));
      const sum = name.includes("wraps") ? { ...wanted, vcpu: 0x34 } : wanted;
      assert.deepEqual(decoded, sum);
    });
  }

  const refused: readonly (readonly [string, string])[] = [
    ["a header beyond u32", "06 34 0600 0630 00"],
    ["an odd header beyond u32", "05 00000000 34 0600 0630 00"],
    ["a header beyond u64", "0400 08 00 0630 00"],
    ["an odd header beyond u64", "0400 07 0000000000000000 00 0630 00"],
    ["a header that a shift would take for 0", "0400 40 0000000000000000 0630 00"],
    ["a byte too many", "0400 0600 0600 00 00"],
    ["a byte too few", "0400 0600 0600 01 0410"],
    ["nothing", ""],
    ["a number beyond 2^53", "0400 00 0000000000002000 0600 00"],
    ["a minimum beyond 2^53", "0400 05 ffffffffffffffff 02 0600 00"],
  ];
  for (const [name, text] of refused) {
    test(`${name} is refused`, () => assert.equal(decodedRequest(bytesOf(text)), null));
  }
});

const u32 = fc.oneof(
  fc.integer({ min: 0, max: 0x1_0100 }),
  fc.integer({ min: 0, max: 2 ** 32 - 1 }),
);
const u64 = fc.oneof(u32, fc.integer({ min: 2 ** 32, max: Number.MAX_SAFE_INTEGER }));
const anyRequest = fc.record(
  { vcpu: u32, offset: u64, flags: u64, gpa: fc.option(u64) },
  { noNullPrototype: true },
);
const anyReply = fc.record(
  {
    vcpu: fc.option(u32),
    offset: u64,
    sizeBytes: u64,
    flags: u64,
    gpa: fc.option(u64),
    isZero: fc.boolean(),
  },
  { noNullPrototype: true },
);

describe("any message", () => {
  test("comes out of its frame as it went in, and takes no more room than stated", () => {
    fc.assert(
      fc.property(anyRequest, anyReply, (request, reply) => {
        const asked = requestFrame(request);
        const answered = replyFrame(reply);
        assert.deepEqual(decodedRequest(asked.subarray(4)), request);
        assert.deepEqual(decodedReply(answered.subarray(4)), reply);
        assert.ok(asked.length <= MAX_REQUEST_FRAME_BYTES);
        assert.ok(answered.length <= MAX_REPLY_FRAME_BYTES);
      }),
    );
  });

  test("is no message when any of its bytes is missing at the end", () => {
    fc.assert(
      fc.property(anyRequest, fc.nat(), (request, cut) => {
        const payload = requestFrame(request).subarray(4);
        assert.equal(decodedRequest(payload.subarray(0, cut % payload.length)), null);
      }),
    );
  });

  test("fills a writer to its end and not beyond", () => {
    const writer = new FrameWriter(new Uint8Array(200));
    let count = 0;
    for (; writer.hasRoom; count++) writer.reply({ ...newFaultReply(), gpa: 2 ** 52, flags: 48 });
    assert.ok(count >= 4, `${count} replies in 200 bytes`);
    assert.ok(writer.frames.length <= 200);
  });
});

/** What a decoder makes of pieces of a stream. */
function payloadsOf(decoder: FrameDecoder, pieces: readonly Uint8Array[]): string[] {
  const found: string[] = [];
  for (const piece of pieces) decoder.decode(piece, (payload) => found.push(hex(payload)));
  return found;
}

describe("a stream of frames", () => {
  const stream = Buffer.concat(requests.map(([, text]) => bytesOf(text)));
  const payloads = requests.map(([, text]) => hex(bytesOf(text).subarray(4)));

  test("cut at every byte, in two and in three", () => {
    for (let first = 0; first <= stream.length; first++) {
      for (let second = first; second <= stream.length; second++) {
        const pieces = [
          stream.subarray(0, first),
          stream.subarray(first, second),
          stream.subarray(second),
        ];
        assert.deepEqual(payloadsOf(new FrameDecoder(), pieces), payloads);
      }
    }
  });

  test("byte by byte", () => {
    const pieces = Array.from(stream, (byte) => Uint8Array.of(byte));
    assert.deepEqual(payloadsOf(new FrameDecoder(), pieces), payloads);
  });

  test("with the longest frame that fits, and one that does not: it is passed over", () => {
    for (const [extra, oversizedCount] of [
      [0, 0],
      [1, 1],
    ] as const) {
      const long = Buffer.alloc(4 + MAX_FRAME_PAYLOAD_BYTES + extra, 7);
      long.writeUInt32LE(long.length - 4);
      const decoder = new FrameDecoder();
      const found = payloadsOf(decoder, [Buffer.concat([stream, long, stream])]);
      assert.equal(found.length, 2 * payloads.length + 1 - oversizedCount);
      assert.deepEqual(found.slice(-payloads.length), payloads);
      assert.equal(decoder.oversizedCount, oversizedCount);
      assert.ok(decoder.isBetweenFrames);
    }
  });

  test("with an empty frame: it is told, and is no request", () => {
    assert.deepEqual(payloadsOf(new FrameDecoder(), [new Uint8Array(4)]), [""]);
    assert.equal(decodedRequest(new Uint8Array(0)), null);
  });

  test("a callback that throws loses no other frame", () => {
    const decoder = new FrameDecoder();
    assert.throws(() =>
      decoder.decode(bytesOf(requests[0]![1]), () => {
        throw new Error("refused");
      }),
    );
    assert.deepEqual(payloadsOf(decoder, [stream]), payloads);
  });

  test("random frames among junk: every good one is found, whatever the pieces", () => {
    const count = Number(process.env.FAULTLINE_FRAMES ?? 20_000);
    const random = randomNumbers(Number(process.env.FAULTLINE_FRAMES_SEED ?? 1));
    const wanted = newFaultRequest();
    let isJunk = false;
    let told = 0;
    let found = 0;
    const stream = new RequestStream((request) => {
      told++;
      if (isJunk) return; // A request by chance.
      found++;
      if (request.gpa !== wanted.gpa || request.vcpu !== wanted.vcpu) assert.fail("wrong");
    });
    let good = 0;
    for (let sent = 0; sent < count; sent++) {
      isJunk = random(8) === 0;
      if (!isJunk) good++;
      wanted.vcpu = random(32);
      wanted.flags = random(2) === 0 ? 0x10 : 0x30;
      wanted.gpa = random(2 ** 30) * 4096;
      const frame = isJunk ? junkFrame(random) : requestFrame(wanted);
      for (let at = 0; at < frame.length; ) {
        const end = Math.min(frame.length, at + 1 + random(40));
        stream.push(frame.subarray(at, end));
        at = end;
      }
    }
    assert.equal(found, good);
    assert.ok(stream.isBetweenFrames);
    assert.equal(stream.badFrameCount, count - told);
    assert.ok(stream.badFrameCount > 0 && good > 0);
  });
});

/** A well-framed payload of random bytes; some are longer than may be. */
function junkFrame(random: (end: number) => number): Uint8Array {
  const lengthBytes = random(16) === 0 ? MAX_FRAME_PAYLOAD_BYTES + 1 + random(1000) : random(60);
  const frame = Buffer.alloc(4 + lengthBytes);
  for (let at = 4; at < Math.min(frame.length, 64); at++) frame[at] = random(256);
  frame.writeUInt32LE(lengthBytes);
  return frame;
}

/** A small generator (xorshift), so that a failure can be replayed. */
function randomNumbers(seed: number): (end: number) => number {
  let state = seed | 1;
  return (end) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % end;
  };
}

describe("the second message", () => {
  const ascii = (text: string): Uint8Array => Buffer.from(text, "latin1");

  test("says that there are no rings, and frames may be glued to it", () => {
    for (const glued of ["", "\x0c", "\x0c\0\0\0\x04\x01"]) {
      const done = { kind: "done", vcpuCount: 0, lengthBytes: 15 };
      assert.deepEqual(parseRingSetup(ascii(`no_exitless_apf${glued}`), 0), done);
    }
  });

  test("names the vCPUs with rings; the descriptors say where it ends", () => {
    for (let vcpuCount = 1; vcpuCount <= 32; vcpuCount++) {
      const text = ringSetupText(vcpuCount);
      const done = { kind: "done", vcpuCount, lengthBytes: text.length };
      // What follows may begin with the very digits that a larger number would.
      assert.deepEqual(parseRingSetup(ascii(`${text}12`), 3 * vcpuCount), done);
    }
  });

  test("is waited for, up to its last byte", () => {
    for (const [text, fdCount] of [
      ["no_exitless_apf", 0],
      ["exitless_apf:12", 36],
    ] as const) {
      for (let length = 0; length < text.length; length++) {
        const parsed = parseRingSetup(ascii(text.slice(0, length)), fdCount);
        assert.deepEqual(parsed, { kind: "incomplete" });
      }
    }
  });

  const bad: readonly (readonly [string, number])[] = [
    ["no_exitless_apf", 3],
    ["exitless_apf:1", 0],
    ["exitless_apf:2", 3],
    ["exitless_apf:1", 4],
    ["exitless_apf:33", 99],
    ["no_exitlesX", 0],
    ["\x0c\0\0\0", 0],
  ];
  for (const [text, fdCount] of bad) {
    test(`${JSON.stringify(text)} with ${fdCount} descriptors is none`, () => {
      assert.equal(parseRingSetup(ascii(text), fdCount).kind, "bad");
    });
  }
});
