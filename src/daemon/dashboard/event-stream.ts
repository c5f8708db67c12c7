/**
 * Server-sent events to one client. At most one event waits in this process for a client to read
 * it: who sends asks `isReady` before, and tells later what has changed by then. A client that
 * reads nothing for a while is cut off.
 */
import type { ServerResponse } from "node:http";

/** Something is written to an idle stream so often, lest somebody on the way take it for dead. */
const ALIVE_EVERY_MS = 10_000;
export const STALL_TIMEOUT_MS = 30_000;

export interface EventStreamOptions {
  /** For a client to read anything of what waits for it. Default: 30 s. */
  readonly stallTimeoutMs?: number;
}

export class EventStream {
  /** Resolves when the client is gone, or `end` was called. */
  readonly closed: Promise<void>;
  readonly #response: ServerResponse;
  readonly #alive: NodeJS.Timeout;
  #isClosed = false;

  constructor(response: ServerResponse, { stallTimeoutMs = STALL_TIMEOUT_MS }: EventStreamOptions) {
    this.#response = response;
    response.writeHead(200, {
      "content-type": "text/event-stream; charset=utf-8",
      "cache-control": "no-store",
      "x-content-type-options": "nosniff",
      // Between us and the client nobody is to collect events.
      "x-accel-buffering": "no",
      connection: "close",
    });
    // Node counts only time in which nothing of what waits was taken.
    response.setTimeout(stallTimeoutMs, () => response.destroy());
    response.flushHeaders();
    this.#alive = setInterval(
      () => {
        if (this.isReady) response.write(": alive\n\n");
      },
      Math.min(ALIVE_EVERY_MS, stallTimeoutMs / 3),
    );
    this.closed = new Promise((resolve) => {
      const close = (): void => {
        this.#isClosed = true;
        clearInterval(this.#alive);
        resolve();
      };
      // The client may have gone before we were ready for him.
      if (response.destroyed) close();
      else response.once("close", close);
    });
  }

  /** Whether all that was sent is on its way: the kernel has it. */
  get isReady(): boolean {
    return !this.#isClosed && !this.#response.writableEnded && this.#response.writableLength === 0;
  }

  get isClosed(): boolean {
    return this.#isClosed || this.#response.writableEnded;
  }

  send(event: string, data: unknown): void {
    if (this.isClosed) return;
    this.#response.write(`event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
  }

  end(): void {
    this.#response.end();
  }
}
