/**
 * Where a working set is kept: beside an image in its store, as `NAME.workingset`, or in a file of
 * its own, for a memory file.
 *
 * A working set only makes restores faster. So nothing here keeps an image from being used: a set
 * that is missing, damaged, another image's or forbidden is told as what it is, and nobody fails.
 */
import { open, readFile, rename, rm } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { formatBytes } from "../base/units.ts";
import type { WorkingSet } from "../base/working-set.ts";
import {
  beginsAsWorkingSet,
  decodeWorkingSet,
  encodeWorkingSet,
  WORKING_SET_MAGIC_BYTES,
  type WorkingSetFile,
} from "../snapshot/working-set-file.ts";
import { type StoredImage, workingSetObjectName } from "./stored-image.ts";

/**
 * What was found:
 * - `damaged`: nobody can use it; the next write replaces it.
 * - `foreign`: whole, but learnt from another image, or for a memory of another size.
 * - `unreadable`: the store does not let us look; there may be none at all.
 */
export type WorkingSetFinding =
  | { readonly kind: "found"; readonly set: WorkingSet; readonly bytes: Uint8Array }
  | { readonly kind: "none" }
  | { readonly kind: "damaged" | "foreign" | "unreadable"; readonly reason: string };

export interface WorkingSetPlace {
  /** What messages call the working set. */
  readonly name: string;
  /** Of the memory image that it belongs to. */
  readonly sizeBytes: number;
  /** @throws FaultlineError `store-failed` */
  read(signal: AbortSignal): Promise<WorkingSetFinding>;
  /**
   * Replaces it: readers see the old one or the new one, whole.
   * @throws FaultlineError `store-failed`, `store-refused`
   */
  write(set: WorkingSet, signal: AbortSignal): Promise<void>;
}

/** Beside an image, in its store. */
export function imageWorkingSet(image: ImageOfSet): WorkingSetPlace {
  const { store, indexSha256 } = image;
  const objectName = workingSetObjectName(image.name);
  return {
    name: `${objectName} in ${store.location}`,
    sizeBytes: image.index.sizeBytes,
    read: async (signal) => await readWorkingSet(image, signal),
    write: async (set, signal) => {
      await store.write(objectName, encodeWorkingSet({ set, indexSha256 }), signal);
    },
  };
}

export type ImageOfSet = Pick<StoredImage, "store" | "name" | "indexSha256"> & {
  readonly index: Pick<StoredImage["index"], "sizeBytes">;
};

/**
 * The working set of an image. What is damaged is read again, past every nearer copy.
 * @throws FaultlineError `store-failed`
 */
export async function readWorkingSet(
  image: ImageOfSet,
  signal: AbortSignal,
): Promise<WorkingSetFinding> {
  const { store } = image;
  const objectName = workingSetObjectName(image.name);
  const name = `${objectName} in ${store.location}`;
  const fits = (file: WorkingSetFile): string | null =>
    file.indexSha256 === image.indexSha256 ? whyUnfit(file, image.index.sizeBytes) : OTHER_IMAGE;
  try {
    const finding = await examine(await store.read(objectName, signal, "prefetch"), name, fits);
    if (finding.kind !== "damaged") return finding;
    const refetch = store.refetch ?? store.read;
    return examine(await refetch.call(store, objectName, signal, "prefetch"), name, fits);
  } catch (error) {
    // Where nobody may list, S3 answers to a missing object as to a forbidden one.
    if (!(error instanceof FaultlineError && error.code === "store-refused")) throw error;
    return { kind: "unreadable", reason: error.message };
  }
}

const OTHER_IMAGE = "it was learnt from another image of this name";

/**
 * In a file of its own, in a folder that is there. A file that holds something else (the memory, by
 * a slip of the hand) is never replaced: that is `store-refused`.
 */
export function fileWorkingSet(path: string, sizeBytes: number): WorkingSetPlace {
  const failed = (verb: string, error: unknown): FaultlineError =>
    new FaultlineError(
      "store-failed",
      `The working set ${path} cannot be ${verb}: check its folder, the rights there, and the disk`,
      { cause: error },
    );
  return {
    name: path,
    sizeBytes,
    read: async (signal) => {
      try {
        const bytes = await readFile(path, { signal });
        return examine(bytes, path, (file) => whyUnfit(file, sizeBytes));
      } catch (error) {
        signal.throwIfAborted();
        if ((error as NodeJS.ErrnoException).code === "ENOENT") return { kind: "none" };
        throw failed("read", error);
      }
    },
    write: async (set, signal) => {
      try {
        await assertReplaceable(path);
        await replaceFile(path, encodeWorkingSet({ set, indexSha256: null }), signal);
      } catch (error) {
        signal.throwIfAborted();
        throw error instanceof FaultlineError ? error : failed("written", error);
      }
    },
  };
}

function examine(
  bytes: Uint8Array | null,
  name: string,
  whyNot: (file: WorkingSetFile) => string | null,
): WorkingSetFinding {
  if (bytes === null) return { kind: "none" };
  try {
    const file = decodeWorkingSet(bytes, name);
    const reason = whyNot(file);
    if (reason === null) return { kind: "found", set: file.set, bytes };
    return { kind: "foreign", reason: `${name} is not used: ${reason}.` };
  } catch (error) {
    if (!(error instanceof FaultlineError)) throw error;
    return { kind: "damaged", reason: error.message };
  }
}

function whyUnfit({ set }: WorkingSetFile, sizeBytes: number): string | null {
  if (set.sizeBytes === sizeBytes) return null;
  const [its, ours] = [formatBytes(set.sizeBytes), formatBytes(sizeBytes)];
  return `it is for a memory of ${its} (${set.sizeBytes} bytes), and this one has ${ours}`;
}

async function assertReplaceable(path: string): Promise<void> {
  const start = new Uint8Array(WORKING_SET_MAGIC_BYTES);
  try {
    await using file = await open(path, "r");
    const { bytesRead } = await file.read(start);
    if (bytesRead === 0 || beginsAsWorkingSet(start)) return;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return;
    throw error;
  }
  throw new FaultlineError(
    "store-refused",
    `${path} holds something else than a working set, and is not replaced: give another path.`,
  );
}

/** Written beside it, flushed, then renamed: a crash leaves the old file or the new one. */
async function replaceFile(path: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
  const folder = dirname(path);
  const draft = join(folder, `.${basename(path)}.${process.pid}.tmp`);
  try {
    await using file = await open(draft, "w");
    await file.writeFile(bytes, { signal });
    await file.sync();
    await rename(draft, path);
  } catch (error) {
    await rm(draft, { force: true });
    throw error;
  }
  await using opened = await open(folder, "r");
  await opened.sync();
}
