/**
 * A store by its location, as users write it, with everything that reading over a network needs:
 *
 * ```
 *   https://HOST[:PORT]/FOLDER             a web server with the files of a store
 *   s3://BUCKET[/PREFIX]                   S3, with the settings that AWS's own tools find
 *   s3+https://HOST[:PORT]/BUCKET[/PREFIX] the same, at this endpoint (desync writes it so too)
 * ```
 */
import { FaultlineError } from "../base/errors.ts";
import { HttpStore } from "./http-store.ts";
import { isObjectName } from "./object-name.ts";
import type { ObjectStore } from "./object-store.ts";
import type { RequestPolicy } from "./request-policy.ts";
import type { S3Options } from "./s3-settings.ts";
import type { S3Place } from "./s3-store.ts";
import { PolicyStore } from "./store-policy.ts";

export interface OpenStoreOptions {
  /** Bounds that differ from `defaultPolicy`. */
  readonly policy?: Partial<RequestPolicy>;
  /** What is not to be found in the environment or the profile. */
  readonly s3?: S3Options;
}

/**
 * No request is made yet.
 * @throws FaultlineError `bad-option`
 */
export async function openStore(
  location: string,
  options: OpenStoreOptions = {},
): Promise<PolicyStore> {
  return new PolicyStore(await openBare(location, options), options.policy);
}

async function openBare(location: string, options: OpenStoreOptions): Promise<ObjectStore> {
  const scheme = /^([a-z0-9+]+):/.exec(location)?.[1] ?? "";
  switch (scheme) {
    case "http":
    case "https":
      return new HttpStore(location, options.s3);
    case "s3":
    case "s3+http":
    case "s3+https": {
      const { endpoint, place } = parseS3Location(location);
      // The signer takes longer to load than `serve` to start: only those who use it pay.
      const { S3Store } = await import("./s3-store.ts");
      const s3 = { ...options.s3, ...(endpoint === null ? {} : { endpoint }) };
      return await S3Store.open(location.replace(/\/+$/, ""), place, s3);
    }
    default:
      throw new FaultlineError(
        "bad-option",
        `The location ${location} is no store: write https://HOST/FOLDER, s3://BUCKET/PREFIX, or ` +
          "s3+https://HOST/BUCKET/PREFIX.",
      );
  }
}

/** What S3 allows, and what older and other servers allowed. */
const BUCKET = /^[A-Za-z0-9][A-Za-z0-9._-]{1,254}$/;

/** @throws FaultlineError `bad-option` */
export function parseS3Location(location: string): { endpoint: string | null; place: S3Place } {
  const [, scheme, rest] = /^s3(?:\+(https?))?:\/\/(.*)$/.exec(location) ?? [];
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
  return { endpoint: host === null ? null : `${scheme}://${host}`, place };
}
