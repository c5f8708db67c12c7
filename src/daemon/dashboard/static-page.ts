/** The dashboard's page: one file of this package, with everything in it. */
import { createHash } from "node:crypto";
import { readFileSync, statSync } from "node:fs";
import type { IncomingMessage, ServerResponse } from "node:http";
import { fileURLToPath } from "node:url";
import { sendAnswer } from "../control/bounded-server.ts";
import type { ControlLimits } from "../control/limits.ts";
import { HttpError } from "../control/problem.ts";

const DEFAULT_PATH = fileURLToPath(new URL("../../../dashboard/index.html", import.meta.url));
/** Nothing but what is in the page itself, and nobody around it. */
const POLICY =
  "default-src 'none'; script-src 'self' 'unsafe-inline'; style-src 'unsafe-inline'; " +
  "connect-src 'self'; img-src data: blob:; base-uri 'none'; form-action 'none'; " +
  "frame-ancestors 'none'";

export class StaticPage {
  readonly #path: string;
  #text = "";
  #etag = "";
  #version = "";

  constructor(path = DEFAULT_PATH) {
    this.#path = path;
  }

  /** @throws HttpError 503: it is not there */
  serve(request: IncomingMessage, response: ServerResponse, limits: ControlLimits): void {
    this.#load();
    const headers = {
      "content-security-policy": POLICY,
      "cache-control": "no-cache",
      "referrer-policy": "no-referrer",
      "x-content-type-options": "nosniff",
      etag: this.#etag,
    };
    if (request.headers["if-none-match"] === this.#etag) {
      response.writeHead(304, headers).end();
      return;
    }
    const type = "text/html; charset=utf-8";
    sendAnswer(response, { status: 200, type, text: this.#text, headers }, limits);
  }

  /** Anew if it is another one: it may be built while somebody looks. */
  #load(): void {
    try {
      const { mtimeMs, size } = statSync(this.#path);
      const version = `${mtimeMs} ${size}`;
      if (version === this.#version) return;
      this.#text = readFileSync(this.#path, "utf8");
      this.#etag = `"${createHash("sha256").update(this.#text).digest("base64url")}"`;
      this.#version = version;
    } catch {
      throw new HttpError(
        503,
        "The dashboard's page is not part of this installation. From a clone, `npm run build` " +
          "makes it; the streams work without it.",
        { code: "unsupported" },
      );
    }
  }
}
