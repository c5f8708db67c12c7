/** An HTTP server that no client can hold up: what the daemon answers on any of its sockets. */
import { createServer, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { answerBadRequest } from "./bad-request.ts";
import type { ControlLimits } from "./limits.ts";

export interface BoundedServerOptions {
  readonly limits: ControlLimits;
  /** Never rejects. */
  readonly serve: (request: IncomingMessage, response: ServerResponse) => Promise<void>;
  /** Whether an answer to an earlier request is due on this connection. Default: it never is. */
  readonly isAnswering?: (socket: Duplex) => boolean;
}

export interface HttpAnswer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
  readonly headers?: Readonly<Record<string, string>>;
}

/** It does not listen yet. */
export function createBoundedServer({ limits, serve, isAnswering }: BoundedServerOptions): Server {
  const server = createServer(
    {
      maxHeaderSize: limits.headerBytes,
      headersTimeout: limits.headersTimeoutMs,
      requestTimeout: limits.requestTimeoutMs,
      keepAliveTimeout: limits.idleTimeoutMs,
      connectionsCheckingInterval: limits.checkEveryMs,
    },
    (request, response) => void serve(request, response),
  );
  server.maxConnections = limits.connections;
  server.on("clientError", (error: NodeJS.ErrnoException, socket: Duplex) =>
    answerBadRequest(error, socket, isAnswering?.(socket) ?? false),
  );
  return server;
}

/** The whole answer at once; a client that does not read it in time is cut off. */
export function sendAnswer(
  response: ServerResponse,
  { status, type, text, headers = {} }: HttpAnswer,
  { answerTimeoutMs }: ControlLimits,
): void {
  if (response.destroyed || response.headersSent) return;
  response.writeHead(status, {
    "cache-control": "no-store",
    ...headers,
    "content-type": type,
    "content-length": Buffer.byteLength(text),
    // What is left of a body that nobody reads would be taken for the next request.
    ...(response.req.complete ? {} : { connection: "close" }),
  });
  const timer = setTimeout(() => response.destroy(), answerTimeoutMs);
  response.once("close", () => clearTimeout(timer));
  response.end(text);
}
