/**
 * How users name stores and images. One place reads it, so that every command means the same:
 *
 * ```
 *   store   PATH | dir:PATH                  a folder
 *           http[s]://HOST[:PORT][/FOLDER]   a web server with the files of a store
 *           s3://BUCKET[/PREFIX]             S3, with the settings that AWS's own tools find
 *           s3+http[s]://HOST[:PORT]/BUCKET[/PREFIX]   at this endpoint (desync writes it so too)
 *   image   NAME                             in the store of --store or FAULTLINE_STORE
 *           STORE/NAME                       where a folder is written as dir:PATH
 * ```
 *
 * Nothing is opened here (open-store.ts), and no message repeats a password.
 */
import { FaultlineError } from "../base/errors.ts";
import { isObjectName } from "./object-name.ts";

export const STORE_VARIABLE = "FAULTLINE_STORE";

export interface S3Place {
  readonly bucket: string;
  /** What every key begins with: empty, or ends with `/`. */
  readonly prefix: string;
}

/** Where a store is, and how to get there. */
export type StoreReference =
  | { readonly kind: "directory"; readonly path: string }
  | { readonly kind: "http"; readonly url: string }
  | { readonly kind: "s3"; readonly endpoint: string | null; readonly place: S3Place };

export interface ImageReference {
  /** As `parseStoreReference` takes it; null: the default store. */
  readonly store: string | null;
  readonly name: string;
}

/** Two letters at least: `C:` and the like are nobody's store, but stay paths. */
const PREFIX = /^([a-z][a-z0-9+]+):(\/\/)?/;
const STORE_RULE =
  "give a folder (PATH or dir:PATH), https://HOST/FOLDER, s3://BUCKET/PREFIX, or " +
  "s3+https://HOST:PORT/BUCKET/PREFIX";

/** Not `.` first (hidden, or a folder), nothing that a URL or a shell would change. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const NAME_RULE = "letters, digits, `.`, `_` and `-`, at most 128, and no `.` or `-` in front";

/** What S3 allows, and what older and other servers allowed. */
const BUCKET = /^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$/;

/** @throws FaultlineError `bad-option` */
export function parseStoreReference(text: string): StoreReference {
  const [prefix = "", scheme = "dir"] = PREFIX.exec(text) ?? [];
  switch (scheme) {
    case "dir": {
      const path = text.replace(/^dir:/, "");
      if (path !== "") return { kind: "directory", path };
      break;
    }
    case "http":
    case "https":
      // What its parts may be is known to the store.
      if (prefix.endsWith("//") && text !== prefix) return { kind: "http", url: text };
      break;
    case "s3":
    case "s3+http":
    case "s3+https":
      return parseS3(text);
  }
  const what = text === "" ? "An empty store" : `The store ${withoutSecrets(text)}`;
  throw new FaultlineError("bad-option", `${what} cannot be used: ${STORE_RULE}.`);
}

/** @throws FaultlineError `bad-option` */
export function parseImageReference(text: string): ImageReference {
  const [prefix = "", scheme] = PREFIX.exec(text) ?? [];
  if (scheme === undefined && NAME.test(text)) return { store: null, name: text };
  // The slashes of `https://` begin a place, and end no store.
  const placeAt = scheme === "dir" ? "dir:".length : prefix.length;
  const slash = text.lastIndexOf("/");
  const name = text.slice(slash + 1);
  if (scheme === undefined || slash < placeAt || !NAME.test(name)) throw noImage(text);
  // `dir:/NAME` lies in the root folder.
  const isInRoot = scheme === "dir" && slash === placeAt;
  return { store: text.slice(0, isInRoot ? slash + 1 : slash), name };
}

/** The store of a reference without one: that of `--store`, else of the environment. */
export function defaultStore(option: string | undefined): string {
  const store = option ?? process.env[STORE_VARIABLE];
  if (store !== undefined && store !== "") return store;
  throw new FaultlineError(
    "bad-option",
    `No store is named: give --store STORE, set ${STORE_VARIABLE}, or write dir:PATH/NAME, ` +
      "https://HOST/FOLDER/NAME or s3://BUCKET/PREFIX/NAME.",
  );
}

function parseS3(text: string): StoreReference {
  const [, scheme, rest] = /^s3(?:\+(https?))?:\/\/(.*)$/.exec(text) ?? [];
  const parts = (rest ?? "").replace(/\/+$/, "").split("/");
  const host = scheme === undefined ? null : parts.shift()!;
  const bucket = parts.shift() ?? "";
  const prefix = parts.join("/");
  const isHost = host === null || (host !== "" && !/[@?#]/.test(host));
  if (!isHost || !BUCKET.test(bucket) || (prefix !== "" && !isObjectName(prefix))) {
    throw new FaultlineError(
      "bad-option",
      "The location of a store in S3 cannot be used: write s3://BUCKET/PREFIX, or " +
        "s3+https://HOST:PORT/BUCKET/PREFIX, without user names, passwords, ? and #.",
    );
  }
  const place = { bucket, prefix: prefix === "" ? "" : `${prefix}/` };
  return { kind: "s3", endpoint: host === null ? null : `${scheme}://${host}`, place };
}

function noImage(text: string): FaultlineError {
  return new FaultlineError(
    "bad-option",
    `${text === "" ? "An empty name" : withoutSecrets(text)} names no image: give NAME or ` +
      "dir:PATH/NAME, https://HOST/FOLDER/NAME or s3://BUCKET/PREFIX/NAME, where NAME has " +
      `${NAME_RULE}.`,
  );
}

/** User names, passwords and signatures end up in logs otherwise. */
function withoutSecrets(text: string): string {
  return PREFIX.test(text) ? text.replace(/\/\/[^/]*@/, "//…@").replace(/[?#].*$/, "?…") : text;
}
