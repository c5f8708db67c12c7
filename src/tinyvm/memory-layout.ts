/**
 * Where things are in the guest's physical memory. PURE.
 *
 *     guest-physical    size         what                                 offset in the memory file
 *     0                 2 MiB        low memory: program, page tables     0
 *     4 GiB             --memory-mib RAM that the program works on        2 MiB
 *
 * Two regions far apart, so that a handler which adds addresses instead of looking regions up is
 * found out. The memory file is their concatenation, as Firecracker writes it: program and page
 * tables are restored lazily too.
 */
import { GIB, HUGE_PAGE_BYTES, KIB, MIB } from "../base/units.ts";

export const LOW_MEMORY_BYTES = 2 * MIB;
export const RAM_GUEST_ADDRESS = 4 * GIB;
/** What the five page directories reach; more would need more of them. */
export const RAM_BYTES_MAX = 4 * GIB;

export const PROGRAM_ADDRESS = 0x1000;

/** Long-mode paging of 2 MiB pages: one table each, and a directory per GiB in use. */
export const PML4_ADDRESS = 0x10000;
export const PDPT_ADDRESS = 0x11000;
export const PAGE_DIRECTORIES_ADDRESS = 0x12000;
export const PAGE_TABLES_END = PAGE_DIRECTORIES_ADDRESS + 5 * 4 * KIB;

/** A piece of guest-physical memory and its place in the memory file. */
export interface GuestRegion {
  readonly guestAddress: number;
  readonly sizeBytes: number;
  readonly fileOffset: number;
}

/** The regions in the order of their guest addresses. Sizes are whole huge pages. */
export function guestRegions(ramBytes: number): readonly [GuestRegion, GuestRegion] {
  return [
    { guestAddress: 0, sizeBytes: LOW_MEMORY_BYTES, fileOffset: 0 },
    { guestAddress: RAM_GUEST_ADDRESS, sizeBytes: ramBytes, fileOffset: LOW_MEMORY_BYTES },
  ];
}

/** The grain of `--memory-mib`. */
export const RAM_GRAIN_MIB = HUGE_PAGE_BYTES / MIB;
