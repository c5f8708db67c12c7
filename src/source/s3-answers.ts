/**
 * What an S3 server says: pages of a listing, and its errors, in words that tell what to change.
 * AWS's own parser reads the XML.
 */
import { parseXML } from "@aws-sdk/xml-builder";
import { FaultlineError } from "../base/errors.ts";
import type { HttpAnswer } from "./http-client.ts";
import { isTransient } from "./http-store.ts";
import type { ListPage, StoredObject } from "./object-store.ts";

/** Errors after which the same request may succeed, although their status does not say so. */
const TRANSIENT_CODES = [
  "SlowDown",
  "RequestTimeout",
  "Throttling",
  "InternalError",
  "OperationAborted",
  // The body was damaged on its way: what we hold is what was signed.
  "XAmzContentSHA256Mismatch",
  "BadDigest",
];

/** @throws FaultlineError `store-failed` if the answer is no listing. */
export function parseListing(subject: string, body: Uint8Array): ListPage {
  const listing = asRecord(parse(body)?.ListBucketResult);
  if (listing === null) {
    throw new FaultlineError("store-failed", `${subject}: the answer is no listing of S3.`);
  }
  const isEscaped = listing.EncodingType === "url";
  const contents = listing.Contents ?? [];
  const objects: StoredObject[] = [];
  for (const entry of Array.isArray(contents) ? contents : [contents]) {
    const { Key: key, Size: size, LastModified: modified } = asRecord(entry) ?? {};
    const sizeBytes = Number(size);
    const modifiedMs = Date.parse(String(modified));
    if (typeof key !== "string" || !Number.isSafeInteger(sizeBytes) || Number.isNaN(modifiedMs)) {
      throw new FaultlineError("store-failed", `${subject}: the listing has an incomplete entry.`);
    }
    objects.push({ name: isEscaped ? unescapeKey(key) : key, sizeBytes, modifiedMs });
  }
  const token = listing.NextContinuationToken;
  if (listing.IsTruncated !== "true") return { objects, cursor: null };
  if (typeof token !== "string" || token === "") {
    throw new FaultlineError("store-failed", `${subject}: the listing breaks off.`);
  }
  return { objects, cursor: token };
}

/** What an answer other than success means. `bucket` and `region` are what was asked. */
export function s3Failure(
  subject: string,
  answer: HttpAnswer,
  asked: { readonly bucket: string; readonly region: string },
): FaultlineError {
  const { status } = answer;
  const error = asRecord(parse(answer.body)?.Error) ?? {};
  const code = typeof error.Code === "string" ? error.Code : "";
  const said = `${subject}: the server answers ${status}${code === "" ? "" : ` ${code}`}.`;
  const failed = (): FaultlineError => new FaultlineError("store-failed", said);
  const refused = (cure: string): FaultlineError =>
    new FaultlineError("store-refused", `${said} ${cure}`);

  const region = regionOf(answer, error);
  if ((status === 301 || status === 307 || status === 400) && region !== null) {
    if (region !== asked.region) {
      return refused(`The bucket ${asked.bucket} is in ${region}: set AWS_REGION=${region}.`);
    }
  }
  if (status === 301)
    return refused("Set AWS_REGION to the bucket's region, and check the endpoint.");
  // A bucket younger than its DNS entry: it will be found where it is asked for.
  if (status === 307) return failed();
  if (code === "RequestTimeTooSkewed") return refused(clockCure(answer));
  if (isTransient(status) || TRANSIENT_CODES.includes(code)) return failed();
  return refused(cures[code] ?? cureOfStatus(status, asked.bucket));
}

const KEYS = "Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_PROFILE.";
const cures: Readonly<Record<string, string>> = {
  NoSuchBucket: "There is no such bucket: check its name and the endpoint.",
  InvalidAccessKeyId: `The server does not know this access key. ${KEYS}`,
  SignatureDoesNotMatch: `The secret does not belong to the access key. ${KEYS}`,
  ExpiredToken: "The session token has expired: sign in again.",
  InvalidToken: `The session token does not fit the access key. ${KEYS}`,
  AuthorizationHeaderMalformed: "Set AWS_REGION to the bucket's region.",
};

function cureOfStatus(status: number, bucket: string): string {
  if (status !== 401 && status !== 403) return "It does not take this request as S3 does.";
  return (
    "Allow these credentials to read the object. If there is no such object, S3 says so only to " +
    `those who may list the bucket (s3:ListBucket on ${bucket}).`
  );
}

function regionOf(answer: HttpAnswer, error: Record<string, unknown>): string | null {
  const region = answer.headers["x-amz-bucket-region"] ?? error.Region;
  return typeof region === "string" && /^[a-z0-9-]{1,64}$/.test(region) ? region : null;
}

function clockCure({ headers }: HttpAnswer): string {
  const serverMs = Date.parse(headers.date ?? "");
  const cure = "Let both follow the time of the network (timedatectl set-ntp true).";
  if (Number.isNaN(serverMs)) return `The clocks of this machine and the server differ. ${cure}`;
  const minutes = Math.round((Date.now() - serverMs) / 60_000);
  const direction = minutes < 0 ? "behind" : "ahead of";
  return `This machine's clock is ${Math.abs(minutes)} minutes ${direction} the server's. ${cure}`;
}

function parse(body: Uint8Array): Record<string, unknown> | null {
  const text = Buffer.from(body.buffer, body.byteOffset, body.byteLength).toString();
  if (!text.startsWith("<")) return null;
  try {
    return asRecord(parseXML(text));
  } catch {
    return null; // a page of some proxy, or a cut body
  }
}

function asRecord(value: unknown): Record<string, unknown> | null {
  return typeof value === "object" && value !== null ? (value as Record<string, unknown>) : null;
}

function unescapeKey(key: string): string {
  try {
    return decodeURIComponent(key.replaceAll("+", " "));
  } catch {
    return key; // not escaped after all
  }
}
