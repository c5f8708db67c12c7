/**
 * Images behind a plain web server: any that serves files, told by GET and HEAD. It can only be
 * read; and since a server cannot be asked what it has, nothing can be listed.
 */
import { FaultlineError } from "../base/errors.ts";
import { type HttpAnswer, HttpClient, type HttpRequest } from "./http-client.ts";
import { checkObjectName, sizeLimitOf } from "./object-name.ts";
import type { ObjectStore, StoredObject } from "./object-store.ts";

/** More is a loop, or nobody's intention. */
const MAX_REDIRECTS = 5;
const REDIRECTS = [301, 302, 303, 307, 308];

export interface HttpStoreOptions {
  /** A connection on which nothing happens for so long is given up. */
  readonly idleTimeoutMs?: number;
}

export class HttpStore implements ObjectStore {
  readonly location: string;
  readonly #base: URL;
  readonly #client: HttpClient;

  /**
   * `location` is the folder of the images: `https://HOST[:PORT]/FOLDER`.
   * @throws FaultlineError `bad-option`
   */
  constructor(location: string, options: HttpStoreOptions = {}) {
    this.#base = parseLocation(location);
    this.location = this.#base.href.replace(/\/$/, "");
    this.#client = new HttpClient(options.idleTimeoutMs);
  }

  async read(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    const answer = await this.#ask("GET", name, signal);
    return answer?.body ?? null;
  }

  async exists(name: string, signal: AbortSignal): Promise<boolean> {
    return (await this.#ask("HEAD", name, signal)) !== null;
  }

  async write(name: string): Promise<void> {
    throw this.#readOnly("write", name);
  }

  // biome-ignore lint/correctness/useYield: it has nothing to give
  async *list(prefix: string): AsyncGenerator<StoredObject> {
    const what = prefix === "" ? "what is in it" : `what begins with ${prefix}`;
    throw new FaultlineError(
      "store-refused",
      `Cannot list ${what}: ${this.location} is a web server, which cannot be asked for that. ` +
        "Name the image, or use the directory or bucket behind it (dir:, s3://).",
    );
  }

  async remove(name: string): Promise<void> {
    throw this.#readOnly("remove", name);
  }

  async close(): Promise<void> {
    this.#client.close();
  }

  /** The answer, or null if there is no such object. */
  async #ask(
    method: "GET" | "HEAD",
    name: string,
    signal: AbortSignal,
  ): Promise<HttpAnswer | null> {
    checkObjectName(this.location, name);
    let origin = this.#base;
    let path = this.#base.pathname + name.split("/").map(encodeURIComponent).join("/");
    const subject = `Cannot read ${name} from ${this.location}`;
    for (let redirects = 0; redirects <= MAX_REDIRECTS; redirects++) {
      const request: HttpRequest = {
        method,
        origin,
        path,
        headers: { "accept-encoding": "identity" },
        maxBodyBytes: sizeLimitOf(name),
        subject,
        signal,
      };
      const answer = await this.#client.request(request);
      if (REDIRECTS.includes(answer.status)) {
        origin = redirectTarget(subject, new URL(origin.origin + path), answer.headers.location);
        path = origin.pathname + origin.search;
        continue;
      }
      return checkStatus(subject, answer.status) ? answer : null;
    }
    throw refused(`${subject}: the server redirects more than ${MAX_REDIRECTS} times.`);
  }

  #readOnly(verb: string, name: string): FaultlineError {
    return refused(
      `Cannot ${verb} ${name}: ${this.location} is a web server, which can only be read. ` +
        "Write to the directory or bucket behind it (dir:, s3://).",
    );
  }
}

function parseLocation(location: string): URL {
  const bad = (why: string): FaultlineError =>
    new FaultlineError("bad-option", `${why} Write https://HOST[:PORT]/FOLDER.`);
  // No message repeats the location before it is known to hold no password.
  if (!URL.canParse(location)) throw bad("The location of a web server is no URL.");
  const url = new URL(location);
  if (url.username !== "" || url.password !== "") {
    throw bad(`The location on ${url.host} holds a user name or password: they would be logged.`);
  }
  if (url.protocol !== "http:" && url.protocol !== "https:") {
    throw bad(`${url.protocol} is not spoken by web servers.`);
  }
  if (url.search !== "" || url.hash !== "") {
    throw bad(`The location on ${url.host} has a part after ? or #, which files do not have.`);
  }
  if (!url.pathname.endsWith("/")) url.pathname += "/";
  return url;
}

/** Whether there is such an object. */
function checkStatus(subject: string, status: number): boolean {
  if (status === 200) return true;
  if (status === 404 || status === 410) return false;
  if (status === 401 || status === 403) {
    throw refused(`${subject}: the server answers ${status}. Allow it to be read there.`);
  }
  if (isTransient(status)) {
    throw new FaultlineError("store-failed", `${subject}: the server answers ${status}.`);
  }
  throw refused(`${subject}: the server answers ${status}. Is it a server of plain files?`);
}

/** Answers after which the same request may succeed. */
export function isTransient(status: number): boolean {
  return [408, 425, 429].includes(status) || (status >= 500 && status !== 501 && status !== 505);
}

function redirectTarget(subject: string, from: URL, location: string | undefined): URL {
  if (location === undefined || !URL.canParse(location, from.href)) {
    throw refused(`${subject}: the server redirects to no usable place.`);
  }
  const url = new URL(location, from);
  const isSafe =
    url.protocol === "https:" || (url.protocol === "http:" && from.protocol === "http:");
  if (!isSafe) throw refused(`${subject}: the server redirects from https to ${url.protocol}`);
  return url;
}

function refused(message: string): FaultlineError {
  return new FaultlineError("store-refused", message);
}
