/**
 * Takes a stream apart into frames, however its bytes are cut: a frame in pieces, many in one.
 *
 * Memory is bounded: what is longer than a VMM's own buffer could hold is passed over and counted,
 * and the stream goes on behind it. Whether a peer that sends such things is to be trusted any
 * longer, the caller decides by the counter. PURE.
 */
import { FRAME_HEADER_BYTES } from "./fault-messages.ts";

/** Firecracker's buffer for a frame, header included. No message comes near it. */
export const FRAME_BUFFER_BYTES = 4096;
export const MAX_FRAME_PAYLOAD_BYTES = FRAME_BUFFER_BYTES - FRAME_HEADER_BYTES;

export class FrameDecoder {
  readonly #buffer = new Uint8Array(FRAME_BUFFER_BYTES);
  readonly #view = new DataView(this.#buffer.buffer);
  /** Bytes of the frame under way that are in the buffer. */
  #heldBytes = 0;
  /** Bytes of an oversized frame that are still to come. */
  #skipBytes = 0;
  #oversizedCount = 0;

  /** Frames that were passed over because of their length. */
  get oversizedCount(): number {
    return this.#oversizedCount;
  }

  /** Whether the stream could end here: not in the middle of a frame. */
  get isBetweenFrames(): boolean {
    return this.#heldBytes === 0 && this.#skipBytes === 0;
  }

  /** Calls `onPayload` for each frame that `bytes` completes. Its argument is valid in the call. */
  decode(bytes: Uint8Array, onPayload: (payload: Uint8Array) => void): void {
    let at = 0;
    while (at < bytes.length) {
      if (this.#skipBytes > 0) {
        const skipped = Math.min(this.#skipBytes, bytes.length - at);
        this.#skipBytes -= skipped;
        at += skipped;
        continue;
      }
      at += this.#take(bytes, at);
      this.#finish(onPayload);
    }
  }

  /** Copies what is lacking of the header, or of the payload. Returns how much was taken. */
  #take(bytes: Uint8Array, at: number): number {
    const wanted = this.#wantedBytes() - this.#heldBytes;
    const taken = Math.min(wanted, bytes.length - at);
    this.#buffer.set(bytes.subarray(at, at + taken), this.#heldBytes);
    this.#heldBytes += taken;
    return taken;
  }

  /** The size of the frame as far as it is known. */
  #wantedBytes(): number {
    if (this.#heldBytes < FRAME_HEADER_BYTES) return FRAME_HEADER_BYTES;
    return FRAME_HEADER_BYTES + this.#view.getUint32(0, true);
  }

  #finish(onPayload: (payload: Uint8Array) => void): void {
    if (this.#heldBytes < FRAME_HEADER_BYTES) return;
    const frameBytes = this.#wantedBytes();
    if (frameBytes > FRAME_BUFFER_BYTES) {
      this.#oversizedCount++;
      this.#skipBytes = frameBytes - FRAME_HEADER_BYTES;
      this.#heldBytes = 0;
      return;
    }
    if (this.#heldBytes < frameBytes) return;
    // First: the frame is done with, whatever the callback does.
    this.#heldBytes = 0;
    onPayload(this.#buffer.subarray(FRAME_HEADER_BYTES, frameBytes));
  }
}
