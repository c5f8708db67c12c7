/**
 * Images in S3, or in anything that speaks its protocol. Requests are signed by AWS's own signer
 * and sent by Node's own client: less than half the CPU of AWS's client (docs/decisions/0011).
 *
 * Every body that is written is part of the signature, so the server refuses one that changed on
 * its way. A PUT is atomic and durable when it is answered.
 */
import { SignatureV4 } from "@smithy/signature-v4";
import { describeError, FaultlineError } from "../base/errors.ts";
import { type HttpAnswer, HttpClient, type HttpRequest } from "./http-client.ts";
import type { S3Place } from "./image-reference.ts";
import { checkObjectName, isObjectName, MAX_OBJECT_BYTES, sizeLimitOf } from "./object-name.ts";
import type { ListDepth, ListPage, PagedObjectStore, StoredObject } from "./object-store.ts";
import { parseListing, s3Failure } from "./s3-answers.ts";
import { findSettings, type S3Options, type S3Settings } from "./s3-settings.ts";
import { abortable } from "./scope.ts";
import { Sha256 } from "./sha256.ts";

const LIST_PAGE_OBJECTS = 1000;
/** A page of 1000 keys of 1024 bytes, each byte escaped, and what stands around them. */
const MAX_LISTING_BYTES = 8 * 2 ** 20;

export interface TaggedObject {
  readonly bytes: Uint8Array;
  readonly tag: string;
}

interface Call {
  readonly method: HttpRequest["method"];
  readonly key: string;
  readonly query?: Readonly<Record<string, string>>;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array;
  readonly maxBodyBytes?: number;
  readonly subject: string;
}

export class S3Store implements PagedObjectStore {
  readonly location: string;
  readonly #place: S3Place;
  readonly #settings: S3Settings;
  readonly #signer: SignatureV4;
  readonly #client: HttpClient;
  #hadCredentials = false;

  private constructor(location: string, place: S3Place, settings: S3Settings, client: HttpClient) {
    this.location = location;
    this.#place = place;
    this.#settings = settings;
    this.#client = client;
    this.#signer = new SignatureV4({
      service: "s3",
      region: settings.region,
      credentials: settings.credentials,
      sha256: Sha256,
      uriEscapePath: false,
      applyChecksum: true,
    });
  }

  /**
   * `location` is how errors call it. No request is made yet.
   * @throws FaultlineError `bad-option`
   */
  static async open(location: string, place: S3Place, options: S3Options = {}): Promise<S3Store> {
    const settings = await findSettings(place.bucket, options);
    return new S3Store(location, place, settings, new HttpClient(options.idleTimeoutMs));
  }

  async read(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    const call = { ...this.#object("GET", "read", name), maxBodyBytes: sizeLimitOf(name) };
    const answer = await this.#send(call, signal);
    if (answer.status === 200) return answer.body;
    if (isMissing(answer)) return null;
    throw s3Failure(call.subject, answer, this.#asked);
  }

  async exists(name: string, signal: AbortSignal): Promise<boolean> {
    const call = this.#object("HEAD", "read", name);
    const answer = await this.#send(call, signal);
    if (answer.status === 200) return true;
    if (answer.status === 404) return false;
    throw s3Failure(call.subject, answer, this.#asked);
  }

  async write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    const call = { ...this.#object("PUT", "write", name), body: bytes };
    if (bytes.length > MAX_OBJECT_BYTES) {
      const size = `${bytes.length} bytes, ${MAX_OBJECT_BYTES} are allowed`;
      throw new FaultlineError("store-refused", `${call.subject}: it has ${size}.`);
    }
    const answer = await this.#send(call, signal);
    if (answer.status !== 200) throw s3Failure(call.subject, answer, this.#asked);
  }

  async *list(
    prefix: string,
    signal: AbortSignal,
    depth: ListDepth = "all",
  ): AsyncGenerator<StoredObject> {
    let cursor: string | null = null;
    do {
      const page: ListPage = await this.listPage(prefix, cursor, signal, depth);
      yield* page.objects;
      cursor = page.cursor;
    } while (cursor !== null);
  }

  async listPage(
    prefix: string,
    cursor: string | null,
    signal: AbortSignal,
    depth: ListDepth = "all",
  ): Promise<ListPage> {
    const subject = `Cannot list ${this.location}`;
    const query: Record<string, string> = {
      "list-type": "2",
      "max-keys": String(LIST_PAGE_OBJECTS),
      "encoding-type": "url",
      prefix: this.#place.prefix + prefix,
    };
    if (depth === "folder") query.delimiter = "/";
    if (cursor !== null) query["continuation-token"] = cursor;
    const call: Call = { method: "GET", key: "", query, maxBodyBytes: MAX_LISTING_BYTES, subject };
    const answer = await this.#send(call, signal);
    if (answer.status !== 200) throw s3Failure(subject, answer, this.#asked);
    const page = parseListing(subject, answer.body);
    if (page.cursor !== null && page.cursor === cursor) {
      throw new FaultlineError("store-failed", `${subject}: the listing does not advance.`);
    }
    const objects = page.objects.map((object) => ({
      ...object,
      name: object.name.slice(this.#place.prefix.length),
    }));
    // Others may keep keys beside ours that no store could have (`folder/`).
    return { objects: objects.filter(({ name }) => isObjectName(name)), cursor: page.cursor };
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    const call = this.#object("DELETE", "remove", name);
    const answer = await this.#send(call, signal);
    if (answer.status === 204 || answer.status === 200 || isMissing(answer)) return;
    throw s3Failure(call.subject, answer, this.#asked);
  }

  /** An object with the mark of its content, to be named in `writeIf`. */
  async readTagged(name: string, signal: AbortSignal): Promise<TaggedObject | null> {
    const call = this.#object("GET", "read", name);
    const answer = await this.#send(call, signal);
    if (isMissing(answer)) return null;
    if (answer.status !== 200) throw s3Failure(call.subject, answer, this.#asked);
    return { bytes: answer.body, tag: answer.headers.etag ?? "" };
  }

  /**
   * Writes an object if there is none (`tag` is null), or if it still is what `readTagged` gave.
   * False: it is not. Null: the server does not know such conditions.
   */
  async writeIf(
    name: string,
    bytes: Uint8Array,
    tag: string | null,
    signal: AbortSignal,
  ): Promise<boolean | null> {
    if (tag === null) return await this.#writeIf(name, bytes, { "if-none-match": "*" }, signal);
    const outcome = await this.#writeIf(name, bytes, { "if-match": tag }, signal);
    if (outcome !== false) return outcome;
    // Ceph 16 compares the quotes too, and keeps its own tags without them.
    return await this.#writeIf(name, bytes, { "if-match": tag.replaceAll('"', "") }, signal);
  }

  async #writeIf(
    name: string,
    bytes: Uint8Array,
    headers: Readonly<Record<string, string>>,
    signal: AbortSignal,
  ): Promise<boolean | null> {
    const call = { ...this.#object("PUT", "write", name), body: bytes, headers };
    const answer = await this.#send(call, signal);
    if (answer.status === 200) return true;
    // 409: another such request for this object is under way. 404: it was removed.
    if (isMissing(answer) || [409, 412].includes(answer.status)) return false;
    if (answer.status === 501) return null;
    throw s3Failure(call.subject, answer, this.#asked);
  }

  /** How old an object is, and since when, by the store's clock; null if there is none. */
  async ageOf(
    name: string,
    signal: AbortSignal,
  ): Promise<{ readonly ageMs: number; readonly modifiedMs: number } | null> {
    const call = this.#object("HEAD", "read", name);
    const answer = await this.#send(call, signal);
    if (answer.status === 404) return null;
    if (answer.status !== 200) throw s3Failure(call.subject, answer, this.#asked);
    const modifiedMs = Date.parse(answer.headers["last-modified"] ?? "");
    const nowMs = Date.parse(answer.headers.date ?? "");
    if (Number.isFinite(modifiedMs + nowMs)) return { ageMs: nowMs - modifiedMs, modifiedMs };
    const text = `${call.subject}: the server does not say how old it is.`;
    throw new FaultlineError("store-refused", text);
  }

  /** Makes an object as young as if it had been written now. False if there is none. */
  async touch(name: string, signal: AbortSignal): Promise<boolean> {
    const { bucket, prefix } = this.#place;
    const source = `/${bucket}/${prefix}${name}`.split("/").map(escapeUri).join("/");
    // S3 copies an object onto itself only if something about it changes.
    const headers = { "x-amz-copy-source": source, "x-amz-metadata-directive": "REPLACE" };
    const call = { ...this.#object("PUT", "write", name), headers };
    const answer = await this.#send(call, signal);
    if (isMissing(answer)) return false;
    // A copy that fails after it has begun is told in the body of a 200.
    const isDone = answer.status === 200 && Buffer.from(answer.body).includes("CopyObjectResult");
    if (isDone) return true;
    if (answer.status !== 200) throw s3Failure(call.subject, answer, this.#asked);
    throw new FaultlineError("store-failed", `${call.subject}: S3 could not copy it onto itself.`);
  }

  async close(): Promise<void> {
    this.#client.close();
  }

  get #asked(): { bucket: string; region: string } {
    return { bucket: this.#place.bucket, region: this.#settings.region };
  }

  #object(method: Call["method"], verb: string, name: string): Call {
    checkObjectName(this.location, name);
    const preposition = { read: "from", write: "to", remove: "from" }[verb];
    const subject = `Cannot ${verb} ${name} ${preposition} ${this.location}`;
    return { method, key: this.#place.prefix + name, subject };
  }

  async #send(call: Call, signal: AbortSignal): Promise<HttpAnswer> {
    const { method, subject, query = {}, headers = {}, body, maxBodyBytes } = call;
    const { origin, basePath } = this.#settings;
    const path = basePath + call.key.split("/").map(escapeUri).join("/");
    const request = {
      method,
      protocol: origin.protocol,
      hostname: origin.hostname,
      path,
      query: { ...query },
      headers: { ...headers, host: origin.host },
      ...(body === undefined ? {} : { body }),
    };
    const signing = this.#signer.sign(request).catch((cause) => {
      throw this.#signingFailure(subject, cause);
    });
    const signed = await abortable(signing, signal);
    this.#hadCredentials = true;
    const search = Object.entries(query).map(([key, value]) => `${key}=${escapeUri(value)}`);
    return await this.#client.request({
      method,
      origin,
      path: search.length === 0 ? path : `${path}?${search.join("&")}`,
      headers: signed.headers,
      ...(body === undefined ? {} : { body }),
      ...(maxBodyBytes === undefined ? {} : { maxBodyBytes }),
      subject,
      signal,
    });
  }

  /** Credentials that were there once will be renewed; those that never were must be given. */
  #signingFailure(subject: string, cause: unknown): FaultlineError {
    if (this.#hadCredentials) {
      const text = `${subject}: the credentials could not be renewed`;
      return new FaultlineError("store-failed", text, { cause });
    }
    return new FaultlineError(
      "store-refused",
      `${subject}: no credentials were found (${describeError(cause)}). Set AWS_ACCESS_KEY_ID ` +
        "and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE; read a public bucket by its https:// address.",
    );
  }
}

/** A bucket that does not exist is no object that does not exist. */
function isMissing(answer: HttpAnswer): boolean {
  if (answer.status !== 404) return false;
  return !Buffer.from(answer.body).includes("<Code>NoSuchBucket</Code>");
}

/** RFC 3986, as signatures want it: encodeURIComponent leaves five characters alone. */
function escapeUri(text: string): string {
  return encodeURIComponent(text).replace(
    /[!'()*]/g,
    (character) => `%${character.charCodeAt(0).toString(16).toUpperCase()}`,
  );
}
