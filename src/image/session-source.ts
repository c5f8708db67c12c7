/**
 * The memory of a paused VM as the source of an image: its dirty pages come from the process, all
 * others from what the VM was restored from, which is the parent or, for a VM that was served
 * memory files, these files.
 *
 * What a dirty page reads as, by what its session file says and whether the process has it:
 *
 * ```
 *               there        missing
 *   written     its bytes    the parent's: it is about to be installed
 *   removed     its bytes    zero
 * ```
 */
import { hasBit, nextInEither } from "../base/bitmap.ts";
import { FaultlineError } from "../base/errors.ts";
import { MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import { PagePresence } from "../linux/process-memory.ts";
import { type Extent, flattenLayers } from "../snapshot/layers.ts";
import type { RegionMap } from "../snapshot/regions.ts";
import type { FileIdentity, ServedIdentity, SessionLayout } from "../snapshot/session-file.ts";
import { assertLayerOf, SnapshotFile } from "../source/snapshot-file.ts";
import type { StoredImage } from "../source/stored-image.ts";
import type { PackInput, PackSource, SourceExtent } from "./pack-source.ts";
import { type Bitmaps, SessionFileReader } from "./session-file-reader.ts";

/** What is looked at together: keeps what is remembered of single pages small. */
const RUN_BYTES = 16 * MIB;

/**
 * @throws FaultlineError `session-file`, `bad-option`: another parent; `no-process-access`, what
 *   opening the served files throws
 */
export async function openSessionSource(
  path: string,
  parent: StoredImage | null,
  signal: AbortSignal,
): Promise<PackSource> {
  const reader = SessionFileReader.open(path);
  let files: readonly SnapshotFile[] = [];
  try {
    const { layout } = reader;
    files = openBelow(layout.served, parent, path);
    const bitmaps = await reader.bitmaps(signal);
    const dirty = findDirty(layout, bitmaps);
    const inputs: PackInput[] = [
      ...files.map(({ fd, path: of }) => ({ kind: "file", fd, path: of }) as const),
      { kind: "process", pid: layout.pid, regions: layout.regions.regions },
      { kind: "zeroes" },
    ];
    const layers = [...files.map(({ extents }) => extents), dirty.there, dirty.zero];
    return {
      path,
      sizeBytes: layout.imageBytes,
      extents: extentsOf(layout.imageBytes, layers),
      inputs,
      isDiff: parent !== null,
      assertUnchanged: () => {
        for (const file of files) file.assertUnchanged();
        reader.assertStill(bitmaps);
      },
      [Symbol.dispose]: () => {
        for (const file of files) file.close();
        reader[Symbol.dispose]();
      },
    };
  } catch (error) {
    for (const file of files) file.close();
    reader[Symbol.dispose]();
    throw error;
  }
}

/** The files below the dirty pages: none if that is the parent. */
function openBelow(
  served: ServedIdentity,
  parent: StoredImage | null,
  path: string,
): SnapshotFile[] {
  if (served.kind === "files") {
    if (parent === null) return openFiles(served.files);
    throw new FaultlineError(
      "bad-option",
      `The VM of ${path} was restored from ${served.files[0]!.path}, not from an image, so ` +
        `nobody knows whether ${parent.name} is the same. Leave --parent out: what the store has ` +
        "is not stored again.",
    );
  }
  const wanted = `${served.name} in ${served.store}`;
  if (parent === null) {
    throw new FaultlineError(
      "bad-option",
      `The VM of ${path} was restored from the image ${wanted}: give it as --parent.`,
    );
  }
  if (parent.indexSha256 === served.indexSha256) return [];
  throw new FaultlineError(
    "bad-option",
    `The VM of ${path} was restored from the image ${wanted} (index ` +
      `${served.indexSha256.slice(0, 12)}…), and the parent ${parent.name} is another ` +
      `(${parent.indexSha256.slice(0, 12)}…). Give the one that was served.`,
  );
}

function openFiles(identities: readonly FileIdentity[]): SnapshotFile[] {
  const files: SnapshotFile[] = [];
  try {
    for (const [index, { path, sizeBytes, mtimeMs }] of identities.entries()) {
      const file = SnapshotFile.open(path, index === 0 ? "memory file" : "layer");
      files.push(file);
      if (index > 0) assertLayerOf(file, files[0]!.path, files[0]!.sizeBytes);
      if (file.sizeBytes === sizeBytes && file.identity.mtimeMs === mtimeMs) continue;
      throw new FaultlineError(
        "memory-changed",
        `${path} is no longer the file that the VM was restored from: it was written to or ` +
          "replaced. Have the VMM write its memory file instead.",
      );
    }
    return files;
  } catch (error) {
    for (const file of files) file.close();
    throw error;
  }
}

interface DirtyExtents {
  /** In the process. */
  readonly there: readonly Extent[];
  readonly zero: readonly Extent[];
}

function findDirty({ pid, pageCount, regions }: SessionLayout, bitmaps: Bitmaps): DirtyExtents {
  const { written, removed } = bitmaps;
  const there: Extent[] = [];
  const zero: Extent[] = [];
  using presence = PagePresence.open(pid);
  let page = nextInEither(written, removed, 0, pageCount);
  while (page >= 0) {
    let end = page + 1;
    const { pageSizeBytes } = regions;
    const region = regions.regionOfPage(page);
    const limit = Math.min(regionEnd(regions, region), page + RUN_BYTES / pageSizeBytes);
    while (end < limit && (hasBit(written, end) || hasBit(removed, end))) end++;
    const address = regions.addressOf(region, page);
    const offset = page * pageSizeBytes;
    const present = new Set<number>();
    presence.forEachPage(address, (end - page) * pageSizeBytes, (at, isPresent) => {
      if (isPresent) present.add(at);
    });
    for (let done = 0; done < (end - page) * pageSizeBytes; done += SMALL_PAGE_BYTES) {
      const small = { start: offset + done, end: offset + done + SMALL_PAGE_BYTES };
      const isRemoved = hasBit(removed, page + Math.floor(done / pageSizeBytes));
      if (present.has(address + done) || presence.isReadable(address + done)) append(there, small);
      else if (isRemoved) append(zero, small);
    }
    page = nextInEither(written, removed, end, pageCount);
  }
  return { there, zero };
}

/** One more than the last page of a region. */
function regionEnd(regions: RegionMap, region: number): number {
  const { imageOffset, sizeBytes } = regions.regions[region]!;
  return (imageOffset + sizeBytes) / regions.pageSizeBytes;
}

function append(extents: Extent[], { start, end }: Extent): void {
  const last = extents.at(-1);
  if (last?.end === start) extents[extents.length - 1] = { start: last.start, end };
  else extents.push({ start, end });
}

/** Layer by layer, upper ones over lower ones. */
function extentsOf(sizeBytes: number, layers: readonly (readonly Extent[])[]): SourceExtent[] {
  const { starts, owners } = flattenLayers(sizeBytes, layers);
  const extents: SourceExtent[] = [];
  for (const [run, input] of owners.entries()) {
    if (input < 0) continue;
    extents.push({ start: starts[run]!, end: starts[run + 1] ?? sizeBytes, input });
  }
  return extents;
}
