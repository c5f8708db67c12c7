/**
 * Answers that come piece by piece, for as long as there is something to tell. Nothing is buffered
 * for a client but one piece: the next is asked for when it was taken.
 */
import type { ServerResponse } from "node:http";
import type { ControlLimits } from "./limits.ts";

export interface StreamSource {
  readonly pieces: AsyncIterable<Uint8Array>;
  /** Ends the pieces soon, and well. */
  end(): void;
  /** Nothing more is wanted: called in any case, once. */
  close(): void;
}

/** What an operation returns instead of one whole answer. */
export class StreamAnswer {
  readonly source: StreamSource;

  constructor(source: StreamSource) {
    this.source = source;
  }
}

/**
 * Sends all pieces. Who goes away ends them; who does not read in time is cut off.
 * Rejects with what the source throws: the connection is ended then.
 */
export async function sendStream(
  response: ServerResponse,
  head: { readonly status: number; readonly type: string },
  { source }: StreamAnswer,
  limits: ControlLimits,
): Promise<void> {
  response.once("close", () => source.end());
  try {
    if (response.destroyed || response.headersSent) return;
    response.writeHead(head.status, { "content-type": head.type, "cache-control": "no-store" });
    if (response.req.method !== "HEAD") {
      response.flushHeaders();
      for await (const piece of source.pieces) {
        if (!(await isTaken(response, piece, limits.answerTimeoutMs))) return;
      }
    }
    response.end();
  } catch (error) {
    response.destroy();
    throw error;
  } finally {
    source.close();
  }
}

/** False: the client is gone, or was cut off. */
async function isTaken(
  response: ServerResponse,
  piece: Uint8Array,
  timeoutMs: number,
): Promise<boolean> {
  if (response.destroyed || response.write(piece)) return !response.destroyed;
  return await new Promise<boolean>((resolve) => {
    const end = (): void => {
      clearTimeout(timer);
      response.off("drain", end);
      response.off("close", end);
      resolve(!response.destroyed);
    };
    const timer = setTimeout(() => response.destroy(), timeoutMs);
    response.on("drain", end);
    response.on("close", end);
  });
}
