/**
 * One HTTP request and its whole answer, over connections that are kept.
 *
 * Node's own client: per request it takes half the CPU of `fetch` (docs/decisions/0011). What it
 * leaves open is closed here: a body is exactly as long as it was announced, and no longer than the
 * caller allows; a connection on which nothing happens is given up; one that the server closed just
 * as it was used again is replaced.
 *
 * Proxy variables of the environment are not looked at.
 */
import http from "node:http";
import https from "node:https";
import { FaultlineError } from "../base/errors.ts";
import { MAX_OBJECT_BYTES } from "./object-name.ts";
import { onAbort } from "./scope.ts";

/** Nothing was sent or received for so long: the peer, or the way to it, is dead. */
const IDLE_TIMEOUT_MS = 10_000;
/** Kept while unused; servers close them sooner or later by themselves. */
const MAX_IDLE_CONNECTIONS = 64;
/** As many kept connections may be stale at once before a request is held to have failed. */
const MAX_STALE_CONNECTIONS = 4;
/** An error's page is read for its message only. */
export const MAX_ERROR_BODY_BYTES = 64 * 2 ** 10;

export interface HttpRequest {
  readonly method: "GET" | "HEAD" | "PUT" | "DELETE";
  /** Scheme, host and port. */
  readonly origin: URL;
  /** As it goes over the wire: escaped, with its query. */
  readonly path: string;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  /** Of an answer with status 200; others may have `MAX_ERROR_BODY_BYTES`. */
  readonly maxBodyBytes?: number;
  /** How errors begin: `Cannot read NAME from LOCATION`. */
  readonly subject: string;
  readonly signal: AbortSignal;
}

export interface HttpAnswer {
  readonly status: number;
  readonly headers: http.IncomingHttpHeaders;
  readonly body: Uint8Array;
}

export class HttpClient {
  readonly #agents: { readonly http: http.Agent; readonly https: https.Agent };
  readonly #idleTimeoutMs: number;

  constructor(idleTimeoutMs = IDLE_TIMEOUT_MS) {
    // The agent's timeout also covers connecting, which a request's own does not.
    const options = {
      keepAlive: true,
      maxFreeSockets: MAX_IDLE_CONNECTIONS,
      timeout: idleTimeoutMs,
    };
    this.#agents = { http: new http.Agent(options), https: new https.Agent(options) };
    this.#idleTimeoutMs = idleTimeoutMs;
  }

  /**
   * Any status is an answer, redirects too.
   * @throws FaultlineError `store-failed`, `store-refused`; the signal's reason
   */
  async request(request: HttpRequest): Promise<HttpAnswer> {
    for (let attempt = 1; ; attempt++) {
      try {
        return await this.#once(request);
      } catch (error) {
        // All our requests can be repeated: they name the whole object.
        if (error instanceof StaleConnection && attempt < MAX_STALE_CONNECTIONS) continue;
        throw error instanceof StaleConnection ? networkError(request, error.failure) : error;
      }
    }
  }

  /** Requests under way fail. */
  close(): void {
    this.#agents.http.destroy();
    this.#agents.https.destroy();
  }

  #once(request: HttpRequest): Promise<HttpAnswer> {
    const { method, origin, path, headers, body, subject, signal } = request;
    const isTls = origin.protocol === "https:";
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(signal.reason);
      const sent = (isTls ? https : http).request({
        agent: isTls ? this.#agents.https : this.#agents.http,
        host: origin.hostname.replace(/^\[|\]$/g, ""),
        port: origin.port === "" ? undefined : origin.port,
        method,
        path,
        headers: body === undefined ? headers : { ...headers, "content-length": body.length },
      });
      let hasAnswer = false;
      const fail = (error: unknown): void => {
        forget();
        sent.destroy();
        if (signal.aborted) reject(signal.reason);
        else if (error instanceof FaultlineError) reject(error);
        else if (!hasAnswer && sent.reusedSocket && isReset(error))
          reject(new StaleConnection(error));
        else reject(networkError(request, error));
      };
      const forget = onAbort(signal, () => fail(signal.reason));
      sent.on("error", fail);
      sent.on("timeout", () => {
        const seconds = this.#idleTimeoutMs / 1000;
        fail(new FaultlineError("store-failed", `${subject}: nothing came for ${seconds} s.`));
      });
      sent.on("response", (response) => {
        hasAnswer = true;
        collect(request, response).then((answer) => {
          forget();
          resolve(answer);
        }, fail);
      });
      sent.end(body);
    });
  }
}

/** The server had closed a kept connection before it saw the request. */
class StaleConnection extends Error {
  readonly failure: unknown;

  constructor(failure: unknown) {
    super("stale connection");
    this.failure = failure;
  }
}

async function collect(request: HttpRequest, response: http.IncomingMessage): Promise<HttpAnswer> {
  const status = response.statusCode!;
  const { headers } = response;
  const { subject } = request;
  if (request.method === "HEAD") {
    response.resume();
    return { status, headers, body: new Uint8Array(0) };
  }
  if (status !== 200) {
    return { status, headers, body: await readErrorBody(response) };
  }
  const encoding = headers["content-encoding"];
  if (encoding !== undefined && encoding !== "identity") {
    const cure = "Switch compression off there: chunks are compressed already.";
    throw refused(`${subject}: the server sends it as ${encoding}. ${cure}`);
  }
  const limit = request.maxBodyBytes ?? MAX_OBJECT_BYTES;
  const announced = headers["content-length"];
  if (announced === undefined) {
    if (headers["transfer-encoding"] === undefined) {
      throw refused(
        `${subject}: the server does not say how long it is, so that a part could pass for the ` +
          "whole. Use a server that sends Content-Length.",
      );
    }
    return { status, headers, body: await readChunked(request, response, limit) };
  }
  const sizeBytes = Number(announced);
  if (!(sizeBytes <= limit)) throw tooLarge(request, `${announced} bytes`, limit);
  return { status, headers, body: await readExactly(request, response, sizeBytes) };
}

/** Into one buffer of the announced size. Node's parser never gives more than that. */
function readExactly(
  request: HttpRequest,
  response: http.IncomingMessage,
  sizeBytes: number,
): Promise<Uint8Array> {
  // Not from Node's shared pool: what is kept in a cache must not keep its neighbours.
  const body = Buffer.allocUnsafeSlow(sizeBytes);
  let filled = 0;
  return new Promise((resolve, reject) => {
    response.on("data", (part: Buffer) => {
      body.set(part, filled);
      filled += part.length;
    });
    response.on("end", () => {
      if (filled === sizeBytes && response.complete) resolve(body);
      else reject(cutShort(request, filled, `${sizeBytes} bytes`));
    });
    response.on("error", () => reject(cutShort(request, filled, `${sizeBytes} bytes`)));
  });
}

async function readChunked(
  request: HttpRequest,
  response: http.IncomingMessage,
  limit: number,
): Promise<Uint8Array> {
  const parts: Buffer[] = [];
  let filled = 0;
  try {
    for await (const part of response as AsyncIterable<Buffer>) {
      filled += part.length;
      if (filled > limit) throw tooLarge(request, "more", limit);
      parts.push(part);
    }
  } catch (error) {
    throw error instanceof FaultlineError ? error : cutShort(request, filled, "more");
  }
  if (!response.complete) throw cutShort(request, filled, "more");
  return Buffer.concat(parts);
}

/** As much of it as a message needs; a cut one is good enough. */
async function readErrorBody(response: http.IncomingMessage): Promise<Uint8Array> {
  const parts: Buffer[] = [];
  let filled = 0;
  try {
    for await (const part of response as AsyncIterable<Buffer>) {
      filled += part.length;
      if (filled > MAX_ERROR_BODY_BYTES) break;
      parts.push(part);
    }
  } catch {
    // The status says what matters.
  }
  return Buffer.concat(parts);
}

function cutShort({ subject }: HttpRequest, filled: number, announced: string): FaultlineError {
  const text = `${subject}: the answer ended after ${filled} of ${announced}.`;
  return new FaultlineError("store-failed", text);
}

function tooLarge({ subject }: HttpRequest, size: string, limit: number): FaultlineError {
  const cure = "It is no object of an image.";
  return refused(`${subject}: the server sends ${size}, ${limit} are allowed. ${cure}`);
}

function refused(message: string): FaultlineError {
  return new FaultlineError("store-refused", message);
}

function errorCode(error: unknown): string {
  return error instanceof Error && "code" in error ? String(error.code) : "";
}

function isReset(error: unknown): boolean {
  return ["ECONNRESET", "EPIPE"].includes(errorCode(error));
}

const CERTIFICATE = /CERT|SELF_SIGNED|UNABLE_TO_(?:GET|VERIFY)/;

/** The network may recover; a certificate or a host's name does not by itself. */
function networkError({ subject, origin }: HttpRequest, cause: unknown): FaultlineError {
  const code = errorCode(cause);
  if (CERTIFICATE.test(code)) {
    const cure = "Name the authority's file in NODE_EXTRA_CA_CERTS, or correct the certificate.";
    const text = `${subject}: the certificate of ${origin.host} is not trusted. ${cure}`;
    return new FaultlineError("store-refused", text, { cause });
  }
  if (code === "ENOTFOUND") {
    const text = `${subject}: there is no host ${origin.hostname}. Check the location.`;
    return new FaultlineError("store-refused", text, { cause });
  }
  return new FaultlineError("store-failed", `${subject}: no answer from ${origin.host}`, { cause });
}
