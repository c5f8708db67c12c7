/**
 * Which memory of a VM is which part of its image, when nobody is left who was told: the areas that
 * are registered with its userfaultfd, put in every order that makes sense. Which order is right is
 * for the pages to tell that are there already (`rescue-proof.ts`), or for the operator. PURE.
 */
import { FaultlineError } from "../base/errors.ts";
import {
  formatBytes,
  formatHex,
  GIB,
  HUGE_PAGE_BYTES,
  hostAddress,
  imageOffset,
  MIB,
} from "../base/units.ts";
import type { RegisteredArea } from "../linux/process-areas.ts";
import { type GuestRegion, MAX_REGIONS, RegionMap } from "../snapshot/regions.ts";

/** All orders of five areas are 120; of more, only ascending and descending. */
const MOST_PERMUTED = 5;
/**
 * Where x86-64 VMMs leave a hole below 4 GiB for devices: memory beyond is a region of its own. The
 * kernel tends to place the two next to each other, and they look like one.
 */
const LOW_REGION_BYTES: readonly number[] = [3 * GIB, 3328 * MIB];

/** A region as stated by an operator, or found. */
interface Piece {
  readonly start: number;
  readonly sizeBytes: number;
}

/**
 * The ways in which the areas can make up an image, the likeliest first.
 * @throws FaultlineError `rescue-refused`
 */
export function possibleRegions(areas: readonly RegisteredArea[], imageBytes: number): RegionMap[] {
  const pageSizeBytes = checkAreas(areas);
  const pieces = areas.map(({ start, end }) => ({ start, sizeBytes: end - start }));
  const totalBytes = pieces.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  if (totalBytes !== imageBytes) {
    throw refusal(
      `The VM has registered ${totalBytes} bytes of memory (${formatBytes(totalBytes)}), but the ` +
        `snapshot has ${imageBytes}. It belongs to another memory file, or some of it is not ` +
        `guest memory`,
      areas,
    );
  }
  const orders = [pieces, ...splitInTwo(pieces)].flatMap(ordersOf);
  return orders.map((order) => new RegionMap(laidOut(order), pageSizeBytes, "statement"));
}

/**
 * The regions that an operator has stated.
 * @throws FaultlineError `rescue-refused`
 */
export function statedRegions(
  stated: readonly GuestRegion[],
  areas: readonly RegisteredArea[],
  imageBytes: number,
): RegionMap {
  const pageSizeBytes = checkAreas(areas);
  let regions: RegionMap;
  try {
    regions = new RegionMap(stated, pageSizeBytes, "statement");
  } catch (cause) {
    throw refusal("The regions of --region cannot be those of a VM", areas, cause);
  }
  for (const { baseHostAddress, sizeBytes } of stated) {
    const end = baseHostAddress + sizeBytes;
    if (areas.some((area) => area.start <= baseHostAddress && end <= area.end)) continue;
    throw refusal(
      `--region ${formatHex(baseHostAddress)}:${formatHex(sizeBytes)} is not registered with the ` +
        "userfaultfd, or not all of it",
      areas,
    );
  }
  const limit = regions.pageLimit * pageSizeBytes;
  const registeredBytes = areas.reduce((sum, { start, end }) => sum + end - start, 0);
  if (regions.totalBytes !== imageBytes || limit !== imageBytes) {
    throw refusal(
      `The regions of --region have ${regions.totalBytes} bytes and end at offset ` +
        `${formatHex(limit)} of the memory file, which has ${imageBytes} bytes`,
      areas,
    );
  }
  if (registeredBytes !== imageBytes) {
    throw refusal(
      `The regions of --region are ${regions.totalBytes} bytes, but ${registeredBytes} are ` +
        "registered: the rest would have no handler",
      areas,
    );
  }
  return regions;
}

/** What is registered, in the words of the option that states it. */
export function describeAreas(areas: readonly RegisteredArea[]): string {
  const list = areas.map(({ start, end, pageSizeBytes }) => {
    return `${formatHex(start)}:${formatHex(end - start)} (pages of ${formatBytes(pageSizeBytes)})`;
  });
  return list.length === 0 ? "nothing" : list.join(", ");
}

/** Returns their page size. */
function checkAreas(areas: readonly RegisteredArea[]): number {
  const [first] = areas;
  if (first === undefined) {
    throw new FaultlineError(
      "rescue-refused",
      "No memory of the VM is registered with a userfaultfd: it needs no handler, or it has been " +
        "let go.",
    );
  }
  if (areas.length > MAX_REGIONS) {
    throw new FaultlineError(
      "rescue-refused",
      `The VM has registered ${areas.length} areas of memory; at most ${MAX_REGIONS} can be ` +
        "served.",
    );
  }
  if (areas.some((area) => area.isMinor || !area.isMissing)) {
    throw refusal("Some of the memory is not registered for missing faults alone", areas);
  }
  if (areas.some((area) => area.isWriteProtect !== first.isWriteProtect)) {
    throw refusal("Some of the memory is registered for write protection, some is not", areas);
  }
  if (areas.some((area) => area.pageSizeBytes !== first.pageSizeBytes)) {
    throw refusal("The memory is of several page sizes", areas);
  }
  if (first.pageSizeBytes > HUGE_PAGE_BYTES) {
    throw refusal(`Pages of ${formatBytes(first.pageSizeBytes)} cannot be served`, areas);
  }
  return first.pageSizeBytes;
}

/** One area that may be two regions: the low one first in the image, wherever it lies. */
function splitInTwo(pieces: readonly Piece[]): Piece[][] {
  const [only] = pieces;
  if (only === undefined || pieces.length > 1) return [];
  const { start, sizeBytes } = only;
  return LOW_REGION_BYTES.filter((low) => low < sizeBytes).map((low) => [
    { start: start + sizeBytes - low, sizeBytes: low },
    { start, sizeBytes: sizeBytes - low },
  ]);
}

function ordersOf(pieces: readonly Piece[], index: number): (readonly Piece[])[] {
  // A split is of one order by its nature: in the other it is the whole area again.
  if (index > 0 || pieces.length === 1) return [pieces];
  if (pieces.length > MOST_PERMUTED) return [pieces, pieces.toReversed()];
  return permutations(pieces);
}

function permutations(pieces: readonly Piece[]): Piece[][] {
  if (pieces.length === 0) return [[]];
  return pieces.flatMap((first, index) => {
    const others = pieces.filter((_, other) => other !== index);
    return permutations(others).map((order) => [first, ...order]);
  });
}

function laidOut(pieces: readonly Piece[]): GuestRegion[] {
  let offset = 0;
  return pieces.map(({ start, sizeBytes }) => {
    const region = {
      baseHostAddress: hostAddress(start),
      sizeBytes,
      imageOffset: imageOffset(offset),
    };
    offset += sizeBytes;
    return region;
  });
}

function refusal(what: string, areas: readonly RegisteredArea[], cause?: unknown): FaultlineError {
  return new FaultlineError(
    "rescue-refused",
    `${what}. Registered is: ${describeAreas(areas)}. Give the right --memory, or state every ` +
      "region: --region BASE:SIZE:OFFSET",
    cause === undefined ? undefined : { cause },
  );
}
