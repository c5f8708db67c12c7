/**
 * `NAME.json`, the companion of an index: what casync's format has no place for. An image without
 * one (made by casync or desync) can be read all the same.
 *
 * Keys that this version does not know are ignored, so that a newer one may add some; a change that
 * an older reader must not miss raises `version`.
 */
import * as v from "valibot";
import { FaultlineError } from "../base/errors.ts";
import { digests } from "./chunk-id.ts";

const VERSION = 1;
/** Some hundred bytes today; room for what a newer version may add. */
export const MAX_INFO_BYTES = 16 * 1024 * 1024;

const size = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const hash = v.pipe(v.string(), v.regex(/^[0-9a-f]{64}$/, "64 hexadecimal digits"));

const schema = v.object({
  version: v.literal(VERSION),
  /** SHA-256 of the index that this belongs to. */
  indexSha256: hash,
  created: v.pipe(v.string(), v.isoTimestamp()),
  memorySizeBytes: size,
  pageSizeBytes: size,
  chunkSizeBytes: size,
  digest: v.picklist(digests),
  /** The image that this one was packed over, in the same store. */
  parent: v.optional(v.string()),
  /** The VMM's own state, kept as the object `NAME.state`. */
  state: v.optional(v.object({ sizeBytes: size, sha256: hash })),
});
export type ImageInfo = Readonly<v.InferOutput<typeof schema>>;

export function encodeImageInfo(info: Omit<ImageInfo, "version">): Uint8Array {
  return Buffer.from(`${JSON.stringify({ version: VERSION, ...info }, null, 2)}\n`);
}

/**
 * @param name what messages call the file
 * @throws FaultlineError `image-corrupt`
 */
export function decodeImageInfo(bytes: Uint8Array, name: string): ImageInfo {
  let json: unknown;
  try {
    if (bytes.length > MAX_INFO_BYTES) throw new Error(`it has ${bytes.length} bytes`);
    json = JSON.parse(Buffer.from(bytes).toString());
  } catch (cause) {
    throw damaged(name, "it is no JSON", { cause });
  }
  const parsed = v.safeParse(schema, json);
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  throw damaged(name, `${v.getDotPath(issue) ?? "it"}: ${issue.message}`);
}

function damaged(name: string, reason: string, options?: ErrorOptions): FaultlineError {
  return new FaultlineError(
    "image-corrupt",
    `${name} does not describe an image of this version of Faultline (${reason}). Get it from ` +
      "another store, use a newer Faultline, or remove it: the image can be read without it.",
    options,
  );
}
