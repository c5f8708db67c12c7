/**
 * The requests of one stream: bytes in as they come, requests out. What is no request is counted
 * and passed over, so that a stream never stands still because of one frame. Whether a VM that
 * sends such frames goes on being served, the caller decides. PURE.
 */
import { decodeFaultRequest, type FaultRequest, newFaultRequest } from "./fault-messages.ts";
import { FrameDecoder } from "./frame-decoder.ts";

export class RequestStream {
  readonly #decoder = new FrameDecoder();
  readonly #request = newFaultRequest();
  readonly #onRequest: (request: FaultRequest) => void;
  #malformedCount = 0;

  /** `onRequest`: its argument is valid in the call; the next request overwrites it. */
  constructor(onRequest: (request: FaultRequest) => void) {
    this.#onRequest = onRequest;
  }

  /** Frames that are no requests: of a wrong form, or too long to be looked at. */
  get badFrameCount(): number {
    return this.#malformedCount + this.#decoder.oversizedCount;
  }

  /** Whether the stream could end here: not in the middle of a frame. */
  get isBetweenFrames(): boolean {
    return this.#decoder.isBetweenFrames;
  }

  /** Takes what has come, and calls `onRequest` for each request that it completes. */
  push(bytes: Uint8Array): void {
    this.#decoder.decode(bytes, this.#take);
  }

  readonly #take = (payload: Uint8Array): void => {
    if (decodeFaultRequest(payload, this.#request)) this.#onRequest(this.#request);
    else this.#malformedCount++;
  };
}
