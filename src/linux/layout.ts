/**
 * Kernel structures as data: ioctl numbers recomputed from their parts, and field offsets.
 *
 * PURE. `test/abi` compares every number here with what a C compiler says.
 */

const READ = 2;
const WRITE = 1;

/** `_IOC(dir, type, nr, size)` of <asm-generic/ioctl.h>: the same on x86-64 and arm64. */
function ioc(direction: number, type: number, number: number, sizeBytes: number): number {
  return direction * 2 ** 30 + sizeBytes * 2 ** 16 + type * 2 ** 8 + number;
}
export const _IO = (type: number, number: number): number => ioc(0, type, number, 0);
export const _IOR = (type: number, number: number, size: number): number =>
  ioc(READ, type, number, size);
export const _IOW = (type: number, number: number, size: number): number =>
  ioc(WRITE, type, number, size);
export const _IOWR = (type: number, number: number, size: number): number =>
  ioc(READ | WRITE, type, number, size);

/** A C structure: its size, and the byte offset of each field. */
export interface StructLayout<Field extends string> {
  readonly size: number;
  readonly offset: Readonly<Record<Field, number>>;
}

export function struct<const Field extends string>(
  size: number,
  offset: Record<Field, number>,
): StructLayout<Field> {
  return { size, offset };
}

const TWO_32 = 2 ** 32;

/** Reads a u64 as a number. The caller knows it is below 2^53 (an address, a length). */
export function readU64(words: Uint32Array, byteOffset: number): number {
  const index = byteOffset >>> 2;
  return words[index]! + words[index + 1]! * TWO_32;
}

/** Writes a number below 2^53 as a u64. */
export function writeU64(words: Uint32Array, byteOffset: number, value: number): void {
  const index = byteOffset >>> 2;
  words[index] = value >>> 0;
  words[index + 1] = (value / TWO_32) >>> 0;
}

/** Reads an s64 that is either a small errno (negative) or a length. */
export function readS64(words: Uint32Array, byteOffset: number): number {
  const index = byteOffset >>> 2;
  const high = words[index + 1]! | 0;
  return words[index]! + high * TWO_32;
}
