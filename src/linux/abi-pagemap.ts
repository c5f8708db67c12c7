/**
 * PAGEMAP_SCAN of <linux/fs.h>, names verbatim. PURE. Linux ≥ 6.7: older headers lack it.
 * See ioctl_pagemap_scan(2).
 */
import { _IOWR, struct } from "./layout.ts";

export const pm_scan_arg = struct(96, {
  size: 0,
  flags: 8,
  start: 16,
  end: 24,
  walk_end: 32,
  vec: 40,
  vec_len: 48,
  max_pages: 56,
  category_inverted: 64,
  category_mask: 72,
  category_anyof_mask: 80,
  return_mask: 88,
});
export const page_region = struct(24, { start: 0, end: 8, categories: 16 });

export const PAGEMAP_SCAN = _IOWR("f".charCodeAt(0), 16, pm_scan_arg.size);

export const PAGE_IS_WRITTEN = 0x2;
export const PAGE_IS_PRESENT = 0x8;
