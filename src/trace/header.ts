/** Whether JSON that nobody has vouched for is a recording's header. PURE. */
import type { RecordingHeader } from "./recording.ts";

/** Numbers of kinds and causes have a byte in memory. */
const MAX_NAMES = 256;
/** Ordinals of pages have 32 bits. */
const MAX_PAGES = 2 ** 32;

export function isHeader(value: unknown): value is RecordingHeader {
  if (!isObject(value)) return false;
  const { session, memory, attachedAt, pid, sizeBytes, pageSizeBytes, pageCount } = value;
  const { regions, kinds, causes } = value;
  return (
    [session, memory, attachedAt].every((text) => typeof text === "string") &&
    [pid, sizeBytes].every((number) => isWhole(number, 0, Number.MAX_SAFE_INTEGER)) &&
    isWhole(pageSizeBytes, 1, 2 ** 30) &&
    isWhole(pageCount, 1, MAX_PAGES) &&
    isNames(kinds) &&
    isNames(causes) &&
    Array.isArray(regions) &&
    regions.every(isRegion)
  );
}

function isRegion(value: unknown): boolean {
  if (!isObject(value)) return false;
  const { hostAddress, sizeBytes, imageOffset } = value;
  return [hostAddress, sizeBytes, imageOffset].every((number) =>
    isWhole(number, 0, Number.MAX_SAFE_INTEGER),
  );
}

function isNames(value: unknown): boolean {
  if (!Array.isArray(value) || value.length === 0 || value.length > MAX_NAMES) return false;
  return value.every((name) => typeof name === "string");
}

function isObject(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isWhole(value: unknown, least: number, most: number): boolean {
  return Number.isSafeInteger(value) && (value as number) >= least && (value as number) <= most;
}
