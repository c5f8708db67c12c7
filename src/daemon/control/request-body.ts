/** Reads the body of a request: so long, of this type, and no longer than it may take. */
import type { IncomingMessage } from "node:http";
import { HttpError } from "./problem.ts";
import type { Route } from "./routes.ts";

const JSON_TYPE = /^application\/json\s*(?:;\s*charset="?utf-8"?\s*)?$/i;

/**
 * The text of the body, or null if there is none.
 * @throws HttpError 400, 413, 415; whatever ends the connection meanwhile
 */
export async function readBody(
  request: IncomingMessage,
  route: Route,
  maxBytes: number,
): Promise<string | null> {
  const { headers } = request;
  const announced = headers["content-length"];
  if (Number(announced ?? 0) > maxBytes) throw tooLarge(maxBytes);
  const chunks: Buffer[] = [];
  let sizeBytes = 0;
  for await (const chunk of request as AsyncIterable<Buffer>) {
    sizeBytes += chunk.length;
    if (sizeBytes > maxBytes) throw tooLarge(maxBytes);
    chunks.push(chunk);
  }
  if (sizeBytes === 0) {
    if (route.body === undefined || route.isBodyOptional === true) return null;
    throw new HttpError(400, "The body is missing: send a JSON object.");
  }
  if (route.body === undefined) {
    throw new HttpError(400, `${route.method} ${route.path} takes no body.`);
  }
  assertJson(headers["content-type"], headers["content-encoding"]);
  return decode(Buffer.concat(chunks));
}

function assertJson(type: string | undefined, encoding: string | undefined): void {
  if (type === undefined || !JSON_TYPE.test(type)) {
    const given = (type ?? "missing").slice(0, 100);
    throw new HttpError(415, `Content-Type must be application/json; it is ${given}.`);
  }
  if (encoding === undefined || encoding === "identity") return;
  throw new HttpError(415, "A body must not be compressed: leave out Content-Encoding.");
}

function decode(bytes: Uint8Array): string {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    throw new HttpError(400, "The body is no UTF-8.");
  }
}

function tooLarge(maxBytes: number): HttpError {
  return new HttpError(413, `The body has more than ${maxBytes} bytes.`);
}
