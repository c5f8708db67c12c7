/** Whether a VM belongs to the memory that it asks for. */
import { FaultlineError } from "../base/errors.ts";
import { formatBytes, formatHex, HUGE_PAGE_BYTES } from "../base/units.ts";
import { getpagesize } from "../linux/sys.ts";
import type { RegionMap } from "../snapshot/regions.ts";

/** @throws FaultlineError `handshake` */
export function assertBelongs(regions: RegionMap, imageBytes: number): void {
  checkPageSize(regions.pageSizeBytes);
  checkExtent(regions, imageBytes);
}

/** With any other, a page that is partly there could neither be installed nor given up. */
function checkPageSize(sizeBytes: number): void {
  const sizes = [getpagesize(), HUGE_PAGE_BYTES];
  if (sizes.includes(sizeBytes)) return;
  throw new FaultlineError(
    "handshake",
    `The VM announces pages of ${formatBytes(sizeBytes)}; this host can serve pages of ` +
      `${sizes.map(formatBytes).join(" and ")}.`,
  );
}

function checkExtent(regions: RegionMap, imageBytes: number): void {
  const { totalBytes } = regions;
  const limit = regions.pageLimit * regions.pageSizeBytes;
  if (totalBytes === imageBytes && limit <= imageBytes) return;
  const what =
    totalBytes === imageBytes
      ? `The VM has a region that ends at offset ${formatHex(limit)} of the memory file, but the ` +
        `file ends at ${formatHex(imageBytes)}.`
      : `The VM has ${totalBytes} bytes of memory (${formatBytes(totalBytes)}), but the snapshot ` +
        `has ${imageBytes}.`;
  throw new FaultlineError("handshake", `${what} Its state file belongs to another memory file.`);
}
