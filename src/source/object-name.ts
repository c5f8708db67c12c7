/**
 * Which names objects may have, the same for every store: what one store took, each other one can
 * take. A name that could leave the store's root, or that servers and file systems read in
 * different ways, is refused before any request is made.
 */
import { FaultlineError } from "../base/errors.ts";
import { chunkOfObjectName } from "../snapshot/chunk-id.ts";

/** S3's limit on a whole key; the store's own prefix counts too, which a longer key would show. */
const MAX_NAME_BYTES = 1024;
/** File systems' limit on one part of a path. */
const MAX_PART_BYTES = 255;
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is looked for
const CONTROL = /[\u0000-\u001f\u007f]/;
/** Half a character: it has no UTF-8. */
const LONE_SURROGATE = /\p{Surrogate}/u;

/** A chunk has at most 4 MiB; zstd adds less than 1 % to what it cannot compress. */
export const MAX_CHUNK_OBJECT_BYTES = 4 * 2 ** 20 + 64 * 2 ** 10;
/** An index has 40 bytes per chunk: enough for 1.6 TiB of memory in chunks of 256 KiB. */
export const MAX_OBJECT_BYTES = 256 * 2 ** 20;

export function isObjectName(name: string): boolean {
  if (name === "" || Buffer.byteLength(name) > MAX_NAME_BYTES) return false;
  if (CONTROL.test(name) || LONE_SURROGATE.test(name)) return false;
  return name
    .split("/")
    .every((part) => part !== "" && part[0] !== "." && Buffer.byteLength(part) <= MAX_PART_BYTES);
}

/** @throws FaultlineError `store-refused` */
export function checkObjectName(location: string, name: string): void {
  if (isObjectName(name)) return;
  throw new FaultlineError(
    "store-refused",
    `The name ${JSON.stringify(name.slice(0, 200))} cannot be used for an object in ${location}: ` +
      `use parts of 1 to ${MAX_PART_BYTES} bytes with / between them, ${MAX_NAME_BYTES} bytes in ` +
      "all, none with a dot in front, and no control characters.",
  );
}

/**
 * How many bytes an object of this name may have: a store that sends more is not to be believed.
 */
export function sizeLimitOf(name: string): number {
  return isChunkName(name) ? MAX_CHUNK_OBJECT_BYTES : MAX_OBJECT_BYTES;
}

/** Chunks are named by their digest: an object of such a name never changes. */
export function isChunkName(name: string): boolean {
  return chunkOfObjectName(name) !== null;
}
