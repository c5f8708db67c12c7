/**
 * Makes huge pages of the small ones that a VM was given, where all 512 of a huge page's range are
 * there: fewer misses of the guest's address translation. One range at a time, off the event loop,
 * and only until the VM ends. What cannot be moved stays as it is.
 */
import { formatBytes, HUGE_PAGE_BYTES, SMALL_PAGE_BYTES } from "../base/units.ts";
import type { Session } from "../engine/session.ts";
import { collapse } from "../linux/collapse.ts";
import { openPidfd } from "../linux/process.ts";
import { PageState, type PageTable } from "../pager/page-table.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { Logger } from "./log.ts";

/** Where none of so many could be moved, none can: rights are missing, or huge pages. */
const HOPELESS_AFTER = 16;
const PAGES = HUGE_PAGE_BYTES / SMALL_PAGE_BYTES;

/** Never rejects. */
export async function collapseFull(session: Session, log: Logger): Promise<void> {
  const { pid, regions, pageTable } = session;
  if (regions.pageSizeBytes !== SMALL_PAGE_BYTES) return;
  let collapsed = 0;
  let tried = 0;
  try {
    using process = openPidfd(pid);
    for (const address of fullRanges(regions, pageTable)) {
      if (collapsed === 0 && tried === HOPELESS_AFTER) break;
      tried += 1;
      if (await collapse(process.fd, address)) collapsed += 1;
    }
  } catch {
    // The VM has ended meanwhile.
  }
  if (tried === 0) return;
  const fields = { pid, memory: formatBytes(collapsed * HUGE_PAGE_BYTES), of: tried };
  if (collapsed > 0) log.info(fields, "Made huge pages of small ones");
  else log.warn(fields, "No huge pages could be made: CAP_SYS_NICE, ptrace rights, free memory?");
}

/** Host addresses of 2 MiB ranges whose every page was installed. */
function* fullRanges(regions: RegionMap, table: PageTable): Generator<number> {
  for (let region = 0; region < regions.regions.length; region++) {
    const base = regions.baseOf(region);
    const first = Math.ceil(base / HUGE_PAGE_BYTES) * HUGE_PAGE_BYTES;
    for (let at = first; at + HUGE_PAGE_BYTES <= regions.endOf(region); at += HUGE_PAGE_BYTES) {
      if (isFull(table, regions.pageAt(region, at))) yield at;
    }
  }
}

function isFull(table: PageTable, first: number): boolean {
  for (let page = first; page < first + PAGES; page++) {
    if (table.get(page) !== PageState.installed) return false;
  }
  return true;
}
