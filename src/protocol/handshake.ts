/**
 * The handshake of Firecracker's page-fault handler protocol: one JSON array, one object per memory
 * region, sent with the userfaultfd as SCM_RIGHTS. No length, no version, no end mark.
 *
 * | release       | fields                                                             |
 * | ------------- | ------------------------------------------------------------------ |
 * | v1.1 – v1.6   | base_host_virt_addr, size, offset                                  |
 * | v1.7 – v1.11  | the same, and page_size_kib, which holds BYTES                     |
 * | v1.12 and on  | the same, and page_size (bytes); page_size_kib is deprecated       |
 *
 * What VMs with KVM Userfault send is this and more: `userfault-handshake.ts`.
 *
 * PURE: bytes in, regions out.
 */
import * as v from "valibot";
import { FaultlineError } from "../base/errors.ts";
import { hostAddress, imageOffset, SMALL_PAGE_BYTES } from "../base/units.ts";
import { type GuestRegion, MAX_REGIONS, RegionMap } from "../snapshot/regions.ts";

/** A region takes about 150 bytes; nobody sends more than this. */
export const MAX_HANDSHAKE_BYTES = 256 * MAX_REGIONS;

/** Page sizes a VMM can have: from 4 KiB to the 2 MiB of `huge_pages: 2M`. */
const LARGEST_PAGE_BYTES = 2 * 1024 * 1024;

/** Of what is wrong with a handshake, so much is told. */
const MAX_ISSUES = 3;

const unsigned = v.pipe(v.number(), v.safeInteger(), v.minValue(0));
const mapping = v.object({
  base_host_virt_addr: unsigned,
  size: unsigned,
  offset: unsigned,
  page_size: v.optional(unsigned),
  page_size_kib: v.optional(unsigned),
  gpa_start: v.optional(unsigned),
  is_guest_memfd: v.optional(v.boolean()),
});
const mappings = v.array(mapping);
/** A memory region as the VMM says it. */
export type Mapping = v.InferOutput<typeof mapping>;

/** Whether the bytes so far are a whole message. A message ends with the array's bracket. */
export function isCompleteHandshake(bytes: Uint8Array): boolean {
  const text = decode(bytes).trimEnd();
  if (!text.endsWith("]")) return false;
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
}

/**
 * The regions of a whole message. `hostPageBytes`: pages cannot be smaller than the host's, though
 * Firecracker says 4096 on hosts with 16 and 64 KiB pages too.
 * @throws FaultlineError `handshake`
 */
export function parseHandshake(bytes: Uint8Array, hostPageBytes: number): RegionMap {
  return regionsOf(parseMappings(bytes), hostPageBytes);
}

/**
 * A whole message's list of regions, with all the fields that any VMM sends.
 * @throws FaultlineError `handshake`
 */
export function parseMappings(bytes: Uint8Array): readonly Mapping[] {
  let json: unknown;
  try {
    json = JSON.parse(decode(bytes));
  } catch (cause) {
    throw new FaultlineError("handshake", `The handshake is no JSON: ${excerpt(bytes)}`, { cause });
  }
  const parsed = v.safeParse(mappings, json);
  if (!parsed.success) {
    throw new FaultlineError(
      "handshake",
      `The handshake is no list of memory regions: ${describeIssues(parsed.issues)}`,
    );
  }
  return parsed.output;
}

/** @throws FaultlineError `handshake`: regions that cannot be */
export function regionsOf(entries: readonly Mapping[], hostPageBytes: number): RegionMap {
  return new RegionMap(entries.map(regionOf), pageSizeOf(entries, hostPageBytes));
}

function regionOf(entry: Mapping): GuestRegion {
  return {
    baseHostAddress: hostAddress(entry.base_host_virt_addr),
    sizeBytes: entry.size,
    imageOffset: imageOffset(entry.offset),
  };
}

function pageSizeOf(entries: readonly Mapping[], hostPageBytes: number): number {
  const sizes = new Set(entries.map((entry) => entry.page_size ?? entry.page_size_kib));
  if (sizes.size > 1) {
    const list = [...sizes].map((size) => size ?? "none").join(", ");
    throw new FaultlineError("handshake", `The regions differ in page size (${list}).`);
  }
  const [announced = SMALL_PAGE_BYTES] = sizes;
  const isPowerOfTwo = announced > 0 && Number.isInteger(Math.log2(announced));
  if (!isPowerOfTwo || announced < SMALL_PAGE_BYTES || announced > LARGEST_PAGE_BYTES) {
    throw new FaultlineError(
      "handshake",
      `The page size ${announced} is no power of two from 4096 to 2097152 bytes. ` +
        "page_size_kib holds bytes too, whatever its name says.",
    );
  }
  return Math.max(announced, hostPageBytes);
}

function decode(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString("utf8");
}

function excerpt(bytes: Uint8Array): string {
  return JSON.stringify(decode(bytes.subarray(0, 64)));
}

/** The first few: a long list of nonsense would fill the log. */
function describeIssues(issues: readonly v.BaseIssue<unknown>[]): string {
  const rest = issues.length > MAX_ISSUES ? `; and ${issues.length - MAX_ISSUES} more` : "";
  return issues.slice(0, MAX_ISSUES).map(describeIssue).join("; ") + rest;
}

/** `Invalid key: Expected "size" but received undefined at [0].size` */
function describeIssue({ message, path }: v.BaseIssue<unknown>): string {
  if (path === undefined) return message;
  const place = path.map(({ key }) => (typeof key === "number" ? `[${key}]` : `.${String(key)}`));
  return `${message} at ${place.join("")}`;
}
