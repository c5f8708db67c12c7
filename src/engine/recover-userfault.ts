/**
 * Makes the page table of a VM with KVM Userfault true, after a handler that has died. It put bytes
 * into memory, cleared their bits, noted that, and answered, in this order: a page whose bit is
 * clear, and that is not noted, was brought in the last moment, or its bit was cleared by the VMM
 * (kvm-clock) and nobody has brought it yet. The memory itself tells these apart.
 *
 * A page whose bit is set has been seen by nobody: it is brought again, whatever was written.
 */
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { UserfaultBitmap } from "../base/userfault-bitmap.ts";
import { SEEK_DATA } from "../linux/abi-posix.ts";
import * as sys from "../linux/sys.ts";
import { PageState, type PageTable } from "../pager/page-table.ts";
import type { RegionMap } from "../snapshot/regions.ts";

/** Before anything is installed, or anybody answered. Returns how many pages were brought. */
export function recoverUserfaultTable(
  table: PageTable,
  bitmap: UserfaultBitmap,
  regions: RegionMap,
  guestMemfd: number,
): number {
  let recovered = 0;
  for (let region = 0; region < regions.regions.length; region++) {
    const end = regions.endPageOf(region);
    let page = bitmap.nextClear(regions.firstPageOf(region), end);
    for (; page < end; page = bitmap.nextClear(page + 1, end)) {
      if (table.get(page) === PageState.installed || !isThere(guestMemfd, page)) continue;
      table.set(page, PageState.installed);
      recovered += 1;
    }
  }
  return recovered;
}

/**
 * A guest_memfd cannot be asked (ESPIPE): there the write itself says EEXIST, and nothing is lost
 * by trying. The memfd in its place would be overwritten, and can be asked.
 */
function isThere(guestMemfd: number, page: number): boolean {
  const offset = page * SMALL_PAGE_BYTES;
  return sys.lseek(guestMemfd, offset, SEEK_DATA) === offset;
}
