/** Why a page cannot be had, for people. PURE. */
import type { Outcome } from "../base/outcome.ts";
import { formatHex, HUGE_PAGE_BYTES } from "../base/units.ts";

/** @param reason why the bytes cannot be had, if it is known */
export function describeLoss(
  outcome: Outcome,
  address: number,
  imageOffset: number,
  pageSizeBytes: number,
  reason: string,
): string {
  if (outcome === "badSource") {
    const offset = formatHex(imageOffset);
    if (reason !== "") return `The bytes at image offset ${offset} cannot be had: ${reason}`;
    return (
      `The bytes at image offset ${offset} cannot be read. Was a snapshot file truncated while ` +
      "it was served, or has its disk failed?"
    );
  }
  const what = `The page at ${formatHex(address)} cannot be installed`;
  if (outcome === "unregistered") {
    return `${what}: it keeps faulting, but no registered mapping holds it any more.`;
  }
  if (pageSizeBytes >= HUGE_PAGE_BYTES) {
    return `${what}: the pool of 2 MiB pages is empty. Raise vm.nr_hugepages, or run fewer VMs.`;
  }
  return `${what}: the host is out of memory.`;
}
