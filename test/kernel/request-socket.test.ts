/**
 * The sockets on which VMMs ask for pages, as a fault worker sees them: frames in pieces, glued,
 * among junk, and left where they are until they are written down.
 * `FAULTLINE_FRAMES=N FAULTLINE_FRAMES_SEED=N` feed more random frames, or others.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { RequestSocket } from "../../src/engine/request-socket.ts";
import { EAGAIN, MSG_DONTWAIT, MSG_NOSIGNAL } from "../../src/linux/abi-posix.ts";
import type { OwnedFd } from "../../src/linux/fd.ts";
import { socketPair } from "../../src/linux/socket.ts";
import * as sys from "../../src/linux/sys.ts";
import { type FaultRequest, FrameWriter } from "../../src/protocol/fault-messages.ts";
import { MAX_FRAME_PAYLOAD_BYTES } from "../../src/protocol/frame-decoder.ts";
import { RequestStream } from "../../src/protocol/request-stream.ts";
import { Random } from "../support/fixtures.ts";

const FRAME_COUNT = Number(process.env.FAULTLINE_FRAMES ?? 200_000);
const FRAMES_SEED = Number(process.env.FAULTLINE_FRAMES_SEED ?? 1);
/** Frames of one connection: then another one begins. */
const FRAMES_PER_STREAM = 50;
/** What a frame may claim to be long at random. More would swallow all that follows. */
const LONGEST_LIE_BYTES = 32 * 1024;

/** A VMM's end, and ours. */
class Line {
  readonly vmm: OwnedFd;
  readonly ours: OwnedFd;
  readonly socket: RequestSocket;
  /** All requests that were handed over. */
  readonly taken: FaultRequest[] = [];

  constructor() {
    [this.vmm, this.ours] = socketPair();
    this.socket = new RequestSocket(this.ours);
  }

  /** Sends all of it, while it is received if it does not fit. */
  say(bytes: Uint8Array): void {
    let isStuck = false;
    for (let done = 0; done < bytes.length; ) {
      const piece = bytes.subarray(done);
      const flags = MSG_DONTWAIT | MSG_NOSIGNAL;
      const count = sys.send(this.vmm.fd, piece, piece.length, flags);
      if (count === -1) {
        assert.equal(sys.errno(), EAGAIN);
        assert.ok(!isStuck, "the socket is full, and nothing is taken out of it");
        isStuck = true;
        this.receive();
        continue;
      }
      isStuck = false;
      done += count;
    }
  }

  /** Until there is nothing more. Returns how the last look ended. */
  receive(): string {
    for (;;) {
      const found = this.socket.receive((request) => this.taken.push({ ...request }));
      if (found !== "more") return found;
    }
  }

  /** What our answers are for the VMM: all bytes that are there. */
  heard(): Buffer {
    const pieces: Buffer[] = [];
    for (;;) {
      const piece = Buffer.alloc(64 * 1024);
      const count = sys.recv(this.vmm.fd, sys.addressOf(piece), piece.length, MSG_DONTWAIT);
      if (count <= 0) return Buffer.concat(pieces);
      pieces.push(piece.subarray(0, count));
    }
  }

  [Symbol.dispose](): void {
    this.vmm.close();
    this.socket.close();
  }
}

function frameOf(request: FaultRequest): Uint8Array {
  const writer = new FrameWriter(new Uint8Array(64));
  writer.request(request);
  return writer.frames.slice();
}

const requestFor = (vcpu: number): FaultRequest => ({
  vcpu,
  offset: 0,
  flags: 0x10,
  gpa: 0x1_0000_0000 + vcpu * 4096,
});

function glued(count: number): { requests: FaultRequest[]; bytes: Uint8Array } {
  const requests = Array.from({ length: count }, (_, vcpu) => requestFor(vcpu));
  return { requests, bytes: Buffer.concat(requests.map(frameOf)) };
}

/** A frame of a length that is its own, with nothing in it. */
function emptyFrame(payloadBytes: number): Uint8Array {
  const bytes = new Uint8Array(4 + payloadBytes);
  new DataView(bytes.buffer).setUint32(0, payloadBytes, true);
  return bytes;
}

describe("frames", () => {
  test("cut at every byte", () => {
    using line = new Line();
    const { requests, bytes } = glued(2);
    for (let cut = 1; cut < bytes.length; cut++) {
      line.taken.length = 0;
      line.say(bytes.subarray(0, cut));
      assert.equal(line.receive(), "empty");
      const firstBytes = frameOf(requests[0]!).length;
      assert.equal(line.taken.length, cut < firstBytes ? 0 : 1, `cut at ${cut}`);
      line.say(bytes.subarray(cut));
      assert.equal(line.receive(), "empty");
      assert.deepEqual(line.taken, requests, `cut at ${cut}`);
    }
    assert.equal(line.socket.takeBadFrames(), 0);
  });

  test("byte by byte", () => {
    using line = new Line();
    const { requests, bytes } = glued(3);
    for (const byte of bytes) {
      line.say(Uint8Array.of(byte));
      line.receive();
    }
    assert.deepEqual(line.taken, requests);
  });

  test("more of them in one piece than one look sees", () => {
    using line = new Line();
    const { requests, bytes } = glued(10_000);
    assert.ok(bytes.length > 2 * 64 * 1024);
    line.say(bytes);
    line.receive();
    assert.deepEqual(line.taken, requests);
  });

  test("a frame too long to be one is passed over, whole and in pieces, to its last byte", () => {
    for (const payloadBytes of [100, MAX_FRAME_PAYLOAD_BYTES + 1, 70_000]) {
      const long = emptyFrame(payloadBytes);
      const valid = frameOf(requestFor(1));
      const cuts = [0, 3, 4, 5, 50, long.length - 1, long.length, long.length + 1];
      for (const cut of cuts) {
        using line = new Line();
        const bytes = Buffer.concat([valid, long, valid]);
        line.say(bytes.subarray(0, valid.length + cut));
        line.receive();
        line.say(bytes.subarray(valid.length + cut));
        line.receive();
        assert.deepEqual(line.taken, [requestFor(1), requestFor(1)], `${payloadBytes}, ${cut}`);
        assert.equal(line.socket.takeBadFrames(), 1);
      }
    }
  });

  test("one in pieces of a byte does not fill the socket", () => {
    using line = new Line();
    const bytes = Buffer.concat([emptyFrame(MAX_FRAME_PAYLOAD_BYTES), frameOf(requestFor(1))]);
    for (const byte of bytes) line.say(Uint8Array.of(byte));
    line.receive();
    assert.deepEqual(line.taken, [requestFor(1)]);
    assert.equal(line.socket.takeBadFrames(), 1);
  });

  test("the widest form of a request is one", () => {
    using line = new Line();
    const wide = "01 00000000 0200 01 0000000000000000 00000000 01 0000000000000000 10000000";
    const payload = Buffer.from(
      `${wide} 01 01 0000000000000000 00100000`.replaceAll(" ", ""),
      "hex",
    );
    line.say(Buffer.concat([Uint8Array.of(payload.length, 0, 0, 0), payload]));
    line.receive();
    assert.deepEqual(line.taken, [{ vcpu: 2, offset: 0, flags: 0x10, gpa: 0x1000 }]);
  });

  test("junk is counted once, and what is behind it is found", () => {
    using line = new Line();
    const valid = frameOf(requestFor(2));
    const cut = valid.slice(0, -1);
    cut[0]! -= 1;
    line.say(Buffer.concat([emptyFrame(0), valid, emptyFrame(9), cut, valid]));
    line.receive();
    assert.deepEqual(line.taken, [requestFor(2), requestFor(2)]);
    assert.equal(line.socket.takeBadFrames(), 3);
    assert.equal(line.socket.takeBadFrames(), 0);
  });

  test("the end of the VMM's side is told after the last request", () => {
    using line = new Line();
    line.say(Buffer.concat([frameOf(requestFor(3)), frameOf(requestFor(4)).subarray(0, 5)]));
    line.vmm.close();
    line.receive();
    assert.deepEqual(line.taken, [requestFor(3)]);
    // The beginning of a frame stays, and nothing will complete it.
    assert.equal(line.receive(), "empty");
    using clean = new Line();
    clean.say(frameOf(requestFor(5)));
    clean.vmm.close();
    clean.receive();
    assert.equal(clean.receive(), "ended");
    assert.deepEqual(clean.taken, [requestFor(5)]);
  });
});

describe("what was not handed over stays in the socket", () => {
  test("for a second one: all, if the first dies among them; none, if it does not", () => {
    using line = new Line();
    const { requests, bytes } = glued(5);
    line.say(bytes);
    let handed = 0;
    const dies = (): void => {
      handed += 1;
      if (handed === 3) throw new Error("killed");
    };
    assert.throws(() => line.socket.receive(dies), /killed/);
    const next = new RequestSocket(line.ours);
    const found: FaultRequest[] = [];
    assert.equal(
      next.receive((request) => found.push({ ...request })),
      "empty",
    );
    assert.deepEqual(found, requests);
    assert.equal(line.receive(), "empty");
    assert.deepEqual(line.taken, []);
  });

  test("so does the beginning of a frame, however often it is looked at", () => {
    using line = new Line();
    const bytes = frameOf(requestFor(7));
    line.say(bytes.subarray(0, 6));
    for (let look = 0; look < 3; look++) line.receive();
    line.say(bytes.subarray(6));
    const next = new RequestSocket(line.ours);
    const found: FaultRequest[] = [];
    next.receive((request) => found.push({ ...request }));
    assert.deepEqual(found, [requestFor(7)]);
  });
});

describe("sending", () => {
  test("all or nothing, also to a VMM that takes nothing for a while", () => {
    using line = new Line();
    const frames = new Uint8Array(3001);
    let count = 0;
    for (; line.socket.send(frames.fill(count % 251)); count++) assert.ok(count < 100_000);
    assert.ok(count > 10);
    assert.equal(line.socket.send(frames), false);
    const heard = line.heard();
    assert.equal(heard.length, count * frames.length);
    for (let index = 0; index < count; index++) {
      const piece = heard.subarray(index * frames.length, (index + 1) * frames.length);
      assert.ok(piece.every((byte) => byte === index % 251));
    }
    assert.equal(line.socket.send(frames), true);
    assert.equal(line.heard().length, frames.length);
  });

  test("to a VMM that has closed its end there is nothing to say", () => {
    using line = new Line();
    line.vmm.close();
    assert.equal(line.socket.send(Uint8Array.of(1)), true);
  });
});

/** One frame of a VMM that is broken, or hostile: right, damaged, of a wrong length, or noise. */
function anyFrame(random: Random): Uint8Array {
  const vcpu = random.below(32);
  const gpa = random.below(2) === 0 ? null : random.next() * 4096;
  const frame = frameOf({ vcpu, offset: random.next(), flags: random.below(64), gpa });
  const kind = random.below(100);
  if (kind < 50) return frame;
  if (kind < 60) return framed(noise(random, random.below(80)));
  if (kind === 98) {
    const length = random.below(LONGEST_LIE_BYTES);
    new DataView(frame.buffer).setUint32(0, length >>> random.below(15), true);
    return frame;
  }
  frame[4 + random.below(frame.length - 4)] = random.below(256);
  return kind === 99 ? frame.subarray(0, 1 + random.below(frame.length)) : frame;
}

function noise(random: Random, lengthBytes: number): Uint8Array {
  return Uint8Array.from({ length: lengthBytes }, () => random.below(256));
}

function framed(payload: Uint8Array): Uint8Array {
  const frame = emptyFrame(payload.length);
  frame.set(payload, 4);
  return frame;
}

/** One connection, beside another decoder that is told the same. Returns what both have found. */
function playStream(random: Random, frameCount: number): { requests: number; bad: number } {
  using line = new Line();
  const wanted: FaultRequest[] = [];
  const oracle = new RequestStream((request) => wanted.push({ ...request }));
  let bad = 0;
  const hear = (bytes: Uint8Array): void => {
    oracle.push(bytes);
    line.say(bytes);
    if (random.below(4) > 0) return;
    assert.equal(line.receive(), "empty");
    bad += line.socket.takeBadFrames();
    assert.equal(line.taken.length, wanted.length);
  };
  const all = Buffer.concat(Array.from({ length: frameCount }, () => anyFrame(random)));
  for (let at = 0; at < all.length; ) {
    const end = Math.min(all.length, at + 1 + random.below(random.below(8) === 0 ? 20_000 : 200));
    hear(all.subarray(at, end));
    at = end;
  }
  // A frame under way has promised more than it had: it gets it, and empty frames behind it. What
  // noise promises may be gigabytes.
  for (let piece = 0; piece < 6 && !oracle.isBetweenFrames; piece++) {
    hear(new Uint8Array(piece < 2 ? 256 : 1));
  }
  const isFound = oracle.isBetweenFrames;
  hear(frameOf(requestFor(9)));
  assert.equal(line.receive(), "empty");
  bad += line.socket.takeBadFrames();
  assert.deepEqual(line.taken, wanted);
  if (isFound) assert.deepEqual(line.taken.at(-1), requestFor(9));
  // A frame that is too long is counted as soon as it says so, in the oracle at its end.
  const isUnderWay = !oracle.isBetweenFrames;
  assert.ok(bad - oracle.badFrameCount === 0 || (isUnderWay && bad - oracle.badFrameCount === 1));
  return { requests: line.taken.length, bad };
}

test(`${FRAME_COUNT} random frames, seed ${FRAMES_SEED}: found or counted`, (context) => {
  const random = new Random(FRAMES_SEED);
  const found = { requests: 0, bad: 0 };
  for (let left = FRAME_COUNT; left > 0; left -= FRAMES_PER_STREAM) {
    const { requests, bad } = playStream(random, Math.min(left, FRAMES_PER_STREAM));
    found.requests += requests;
    found.bad += bad;
  }
  context.diagnostic(`${found.requests} requests, ${found.bad} bad frames`);
  assert.ok(found.requests > FRAME_COUNT / 5 && found.bad > FRAME_COUNT / 10);
});
