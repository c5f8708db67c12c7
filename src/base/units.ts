/**
 * Addresses, offsets and page arithmetic.
 *
 * All of them are plain numbers at run time. User-space addresses on x86-64 (4- and 5-level, low
 * half) and arm64 (48 bit) stay below 2^53, so a JavaScript number holds them exactly; the FFI edge
 * asserts it. The brands only keep them from being mixed up at compile time.
 */

declare const brand: unique symbol;
type Brand<Name extends string> = number & { readonly [brand]: Name };

/** A virtual address in the memory of a process (a VMM or ourselves). */
export type HostAddress = Brand<"HostAddress">;
/** A byte offset in the memory image of a snapshot. */
export type ImageOffset = Brand<"ImageOffset">;
/** The ordinal of a page in the memory image: `imageOffset / pageSizeBytes`. */
export type PageIndex = Brand<"PageIndex">;

export const hostAddress = (value: number): HostAddress => value as HostAddress;
export const imageOffset = (value: number): ImageOffset => value as ImageOffset;
export const pageIndex = (value: number): PageIndex => value as PageIndex;

export const KIB = 1024;
export const MIB = 1024 * KIB;
export const GIB = 1024 * MIB;

/** The page size of every Firecracker guest without huge pages; also the grain of our images. */
export const SMALL_PAGE_BYTES = 4 * KIB;
/** The only huge page size Firecracker offers (`huge_pages: 2M`). */
export const HUGE_PAGE_BYTES = 2 * MIB;

/** Rounds down to a multiple of `unit`. Unlike bit operations, right beyond 2^32. */
export function alignDown(value: number, unit: number): number {
  return value - (value % unit);
}

/** Rounds up to a multiple of `unit`. */
export function alignUp(value: number, unit: number): number {
  return alignDown(value + unit - 1, unit);
}

export function isAligned(value: number, unit: number): boolean {
  return value % unit === 0;
}

/** `4096` → `"4 KiB"`, `1536` → `"1.5 KiB"`: for messages to people. */
export function formatBytes(bytes: number): string {
  const steps: readonly (readonly [number, string])[] = [
    [GIB, "GiB"],
    [MIB, "MiB"],
    [KIB, "KiB"],
  ];
  for (const [unit, name] of steps) {
    if (bytes >= unit) return `${Number((bytes / unit).toFixed(1))} ${name}`;
  }
  return `${bytes} B`;
}

/** `4096` → `"0x1000"`: how messages show addresses and offsets. */
export function formatHex(value: number): string {
  return `0x${value.toString(16)}`;
}

/** `0.25` → `0.25 µs`, `1500` → `1.5 ms`: three digits, and no more. */
export function formatDuration(us: number): string {
  const [value, unit] = us >= 1e6 ? [us / 1e6, "s"] : us >= 1000 ? [us / 1000, "ms"] : [us, "µs"];
  return `${Number(value.toPrecision(3))} ${unit}`;
}
