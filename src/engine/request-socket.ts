/**
 * One of the two sockets on which a VMM asks for pages, seen by a fault worker. Frames are looked
 * at where they lie, in the socket, and taken out only when those who ask are written down: if this
 * process is killed, the next one finds what was not taken, and knows what was.
 *
 * To be watched by its edges: the beginning of a frame stays in the socket until the rest has come.
 */
import { FaultlineError } from "../base/errors.ts";
import { EAGAIN, EINTR, MSG_DONTWAIT, MSG_NOSIGNAL, MSG_PEEK } from "../linux/abi-posix.ts";
import type { OwnedFd } from "../linux/fd.ts";
import * as sys from "../linux/sys.ts";
import {
  decodeFaultRequest,
  type FaultRequest,
  FRAME_HEADER_BYTES,
  newFaultRequest,
} from "../protocol/fault-messages.ts";

/** What one look sees: more frames than vCPUs can have sent. */
const LOOK_BYTES = 64 * 1024;
/**
 * No form of a request has so many bytes (the widest has 47). What says to be longer is passed over
 * as it comes: in pieces of a byte, some 300 of them fill a socket, and no more would come.
 */
const MAX_PAYLOAD_BYTES = 64;
/** One for all sockets of this thread: nothing stays in it between two looks. */
let look: sys.Scratch | null = null;
let lookView = new DataView(new ArrayBuffer(0));

export type Look =
  /** There may be more. */
  | "more"
  /** The next edge tells of more. */
  | "empty"
  /** The VMM has closed it, or died. */
  | "ended";

export class RequestSocket {
  readonly #owned: OwnedFd;
  readonly #request = newFaultRequest();
  /** Of a frame that is too long to be one: what is still to be passed over. */
  #skipBytes = 0;
  /** Frames that are no requests, since they were last asked for. */
  #badFrames = 0;

  constructor(owned: OwnedFd) {
    this.#owned = owned;
  }

  get fd(): number {
    return this.#owned.fd;
  }

  /** How many frames were no requests since the last call. */
  takeBadFrames(): number {
    const count = this.#badFrames;
    this.#badFrames = 0;
    return count;
  }

  /** Calls `onRequest` for each whole request. Its argument is valid in the call. */
  receive(onRequest: (request: FaultRequest) => void): Look {
    look ??= openLook();
    const flags = MSG_DONTWAIT | MSG_PEEK;
    const count = sys.recv(this.fd, look.address, LOOK_BYTES, flags);
    if (count === -1) {
      const errno = sys.errno();
      if (errno === EINTR) return "more";
      return errno === EAGAIN ? "empty" : "ended";
    }
    if (count === 0) return "ended";
    const taken = this.#walk(count, onRequest);
    if (taken > 0) sys.recv(this.fd, look.address, taken, MSG_DONTWAIT);
    return count === LOOK_BYTES ? "more" : "empty";
  }

  /**
   * All of it, or nothing: false if the VMM takes nothing now. To a VMM that has closed its end
   * there is nothing to say.
   * @throws FaultlineError `system`: a part was sent, and the rest would come too late
   */
  send(frames: Uint8Array): boolean {
    const sent = sys.send(this.fd, frames, frames.length, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent === -1) return sys.errno() !== EAGAIN && sys.errno() !== EINTR;
    if (sent === frames.length) return true;
    throw new FaultlineError("system", `A socket took ${sent} of ${frames.length} bytes.`);
  }

  close(): void {
    this.#owned.close();
  }

  /** Returns how many of the bytes are done with. */
  #walk(count: number, onRequest: (request: FaultRequest) => void): number {
    let at = Math.min(this.#skipBytes, count);
    this.#skipBytes -= at;
    while (count - at >= FRAME_HEADER_BYTES) {
      const payloadBytes = lookView.getUint32(at, true);
      const end = at + FRAME_HEADER_BYTES + payloadBytes;
      if (payloadBytes > MAX_PAYLOAD_BYTES) {
        this.#badFrames += 1;
        this.#skipBytes = Math.max(0, end - count);
        at = Math.min(end, count);
        continue;
      }
      if (end > count) break;
      const payload = look!.bytes.subarray(at + FRAME_HEADER_BYTES, end);
      if (decodeFaultRequest(payload, this.#request)) onRequest(this.#request);
      else this.#badFrames += 1;
      at = end;
    }
    return at;
  }
}

function openLook(): sys.Scratch {
  const scratch = new sys.Scratch(LOOK_BYTES);
  lookView = new DataView(scratch.bytes.buffer);
  return scratch;
}
