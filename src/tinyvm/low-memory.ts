/**
 * What low memory holds: the program and the page tables. Nothing ever writes to it again.
 *
 * Addresses are mapped to themselves in pages of 2 MiB: GiB 0, and GiB 4 to 7 for the RAM.
 */
import { GIB, KIB, MIB } from "../base/units.ts";
import {
  LOW_MEMORY_BYTES,
  PAGE_DIRECTORIES_ADDRESS,
  PAGE_TABLES_END,
  PDPT_ADDRESS,
  PML4_ADDRESS,
  PROGRAM_ADDRESS,
  RAM_BYTES_MAX,
  RAM_GUEST_ADDRESS,
} from "./memory-layout.ts";
import { program } from "./programs.ts";

// Entries of x86-64 page tables. Accessed and dirty are set beforehand: a CPU that had to set them
// would write to guest memory, and the memory files of two boots would differ.
const PRESENT_WRITABLE_USER = 0x07;
const ACCESSED = 0x20;
const DIRTY = 0x40;
const LARGE_PAGE = 0x80;
const TABLE = PRESENT_WRITABLE_USER | ACCESSED;
const PAGE = PRESENT_WRITABLE_USER | ACCESSED | DIRTY | LARGE_PAGE;

/** The GiBs that are mapped, a page directory each. */
const MAPPED_GIBS: readonly number[] = [
  0,
  ...Array.from({ length: RAM_BYTES_MAX / GIB }, (_, index) => RAM_GUEST_ADDRESS / GIB + index),
];

/** Low memory as the guest boots with it. */
export function lowMemoryImage(): Uint8Array {
  const bytes = new Uint8Array(LOW_MEMORY_BYTES);
  bytes.set(program, PROGRAM_ADDRESS);
  const entries = new BigUint64Array(bytes.buffer);
  entries[PML4_ADDRESS / 8] = BigInt(PDPT_ADDRESS | TABLE);
  for (const [index, gib] of MAPPED_GIBS.entries()) {
    const directory = PAGE_DIRECTORIES_ADDRESS + index * 4 * KIB;
    entries[PDPT_ADDRESS / 8 + gib] = BigInt(directory | TABLE);
    for (let entry = 0; entry < 512; entry++) {
      entries[directory / 8 + entry] = BigInt(gib * GIB + entry * 2 * MIB + PAGE);
    }
  }
  return bytes;
}

/** Reads what the CPU would have to read to run the program; false if anything differs. */
export function isLowMemoryIntact(low: Uint8Array): boolean {
  const image = lowMemoryImage();
  const parts: readonly (readonly [number, number])[] = [
    [PROGRAM_ADDRESS, PROGRAM_ADDRESS + program.length],
    [PML4_ADDRESS, PAGE_TABLES_END],
  ];
  return parts.every(
    ([start, end]) => Buffer.compare(low.subarray(start, end), image.subarray(start, end)) === 0,
  );
}
