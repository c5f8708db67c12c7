/** Which pages differ between two images. Where both use the same chunks, none is read. */
import { MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import type { Extent } from "../snapshot/layers.ts";
import type { StoredImage } from "../source/stored-image.ts";
import { ImageReader } from "./image-reader.ts";

/** What is compared at once. */
const WINDOW_BYTES = MIB;

export interface DiffReport {
  readonly a: string;
  readonly b: string;
  readonly sizeBytes: { readonly a: number; readonly b: number };
  /** What both have; what only the larger has is not compared. */
  readonly comparedBytes: number;
  readonly differentPages: number;
  /** Runs of pages that differ, ascending. */
  readonly extents: readonly Extent[];
}

/** @throws FaultlineError `image-corrupt` */
export async function diffImages(
  a: StoredImage,
  b: StoredImage,
  options: {
    readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
    readonly signal: AbortSignal;
  },
): Promise<DiffReport> {
  const { signal, onProgress } = options;
  using readerA = new ImageReader(a);
  using readerB = new ImageReader(b);
  const comparedBytes = Math.min(a.index.sizeBytes, b.index.sizeBytes);
  const extents: Extent[] = [];
  const bufferA = Buffer.alloc(WINDOW_BYTES);
  const bufferB = Buffer.alloc(WINDOW_BYTES);
  for (let start = 0; start < comparedBytes; start += WINDOW_BYTES) {
    signal.throwIfAborted();
    const size = Math.min(WINDOW_BYTES, comparedBytes - start);
    if (!haveSameChunks(a, b, start, start + size)) {
      const bytesA = bufferA.subarray(0, size);
      const bytesB = bufferB.subarray(0, size);
      await readerA.read(bytesA, start, signal);
      await readerB.read(bytesB, start, signal);
      comparePages(bytesA, bytesB, start, extents);
    }
    onProgress?.(start + size, comparedBytes);
  }
  const differentBytes = extents.reduce((sum, extent) => sum + extent.end - extent.start, 0);
  return {
    a: a.name,
    b: b.name,
    sizeBytes: { a: a.index.sizeBytes, b: b.index.sizeBytes },
    comparedBytes,
    differentPages: Math.ceil(differentBytes / SMALL_PAGE_BYTES),
    extents,
  };
}

/** Whether a range is covered by chunks with the same names and boundaries in both. */
function haveSameChunks(a: StoredImage, b: StoredImage, start: number, end: number): boolean {
  if (a.index.digest !== b.index.digest) return false;
  let chunkA = a.index.chunkAt(start);
  let chunkB = b.index.chunkAt(start);
  for (; chunkA < a.index.chunkCount && a.index.start(chunkA) < end; chunkA++, chunkB++) {
    if (chunkB >= b.index.chunkCount) return false;
    if (a.index.start(chunkA) !== b.index.start(chunkB)) return false;
    if (a.index.end(chunkA) !== b.index.end(chunkB)) return false;
    if (a.index.id(chunkA) !== b.index.id(chunkB)) return false;
  }
  return true;
}

function comparePages(a: Buffer, b: Buffer, offset: number, extents: Extent[]): void {
  for (let at = 0; at < a.length; at += SMALL_PAGE_BYTES) {
    const to = Math.min(at + SMALL_PAGE_BYTES, a.length);
    if (a.compare(b, at, to, at, to) === 0) continue;
    const last = extents.at(-1);
    if (last?.end === offset + at) extents[extents.length - 1] = { ...last, end: offset + to };
    else extents.push({ start: offset + at, end: offset + to });
  }
}
