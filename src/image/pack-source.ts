/**
 * Where the bytes of a new image come from: a memory file, a diff, or the memory of a paused VM
 * (`session-source.ts`). What the source does not hold is the parent's, or zero.
 */
import type { Extent } from "../snapshot/layers.ts";
import type { GuestRegion } from "../snapshot/regions.ts";
import { assertLayerOf, SnapshotFile } from "../source/snapshot-file.ts";
import type { StoredImage } from "../source/stored-image.ts";

/** Something to read from, valid in every thread of this process. */
export type PackInput =
  | { readonly kind: "file"; readonly fd: number; readonly path: string }
  /** The memory of another process; the regions tell its addresses. */
  | { readonly kind: "process"; readonly pid: number; readonly regions: readonly GuestRegion[] }
  /** Bytes that are zero, and not the parent's. */
  | { readonly kind: "zeroes" };

export interface SourceExtent extends Extent {
  /** Which of the inputs has it; without it, the first. */
  readonly input?: number;
}

export interface PackSource {
  /** What messages call it. */
  readonly path: string;
  readonly sizeBytes: number;
  /** What it holds, ascending. */
  readonly extents: readonly SourceExtent[];
  readonly inputs: readonly PackInput[];
  /** Its holes are the parent's. */
  readonly isDiff: boolean;
  /** @throws FaultlineError if it did not hold still while it was read */
  assertUnchanged(): void;
  [Symbol.dispose](): void;
}

/** @throws FaultlineError what opening the file throws; `layer-size`, `layer-holes` */
export function openFileSource(
  path: string,
  isDiff: boolean,
  parent: StoredImage | null,
): PackSource {
  const file = SnapshotFile.open(path, isDiff ? "diff" : "memory file");
  try {
    if (isDiff && parent !== null) {
      assertLayerOf(file, `the image ${parent.name}`, parent.index.sizeBytes);
    }
  } catch (error) {
    file.close();
    throw error;
  }
  return {
    path,
    sizeBytes: file.sizeBytes,
    extents: file.extents,
    inputs: [{ kind: "file", fd: file.fd, path }],
    isDiff,
    assertUnchanged: () => file.assertUnchanged(),
    [Symbol.dispose]: () => file.close(),
  };
}
