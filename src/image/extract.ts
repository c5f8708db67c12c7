/**
 * Writes an image's memory to a file. The file gets its name when all of it is written, verified
 * and on disk: whatever happens, no part of a memory file can be mistaken for the whole.
 */
import { randomBytes } from "node:crypto";
import { closeSync, existsSync, fsyncSync, linkSync, openSync, renameSync, rmSync } from "node:fs";
import { type FileHandle, open } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { formatHex, MIB } from "../base/units.ts";
import type { StoredImage } from "../source/stored-image.ts";
import { type ReadOptions, readChunks } from "./read-chunks.ts";

const FLUSH_BYTES = 64 * MIB;

export interface ExtractReport {
  readonly name: string;
  readonly path: string;
  readonly sizeBytes: number;
  /** What the file takes on its disk; the rest are holes. */
  readonly allocatedBytes: number;
}

export interface ExtractOptions extends Omit<ReadOptions, "outputFd" | "withZeroes"> {
  readonly path: string;
  /** Replace the file if there is one. */
  readonly force: boolean;
}

/** @throws FaultlineError `image-corrupt`, `bad-option`, `store-failed`, `store-refused` */
export async function extractImage(
  image: StoredImage,
  options: ExtractOptions,
): Promise<ExtractReport> {
  const { path, force } = options;
  if (!force && existsSync(path)) throw alreadyThere(path);
  const temporary = join(
    dirname(path),
    `.${basename(path)}.${randomBytes(4).toString("hex")}.partial`,
  );
  try {
    const allocatedBytes = await writeMemory(image, temporary, options);
    publish(temporary, path, force);
    return { name: image.name, path, sizeBytes: image.index.sizeBytes, allocatedBytes };
  } catch (error) {
    throw outputError(path, error);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** Writes all of it, to the disk. Returns what it takes there. */
async function writeMemory(
  image: StoredImage,
  path: string,
  { jobs, signal, onProgress }: ExtractOptions,
): Promise<number> {
  await using file = await open(path, "wx");
  await file.truncate(image.index.sizeBytes);
  const flusher = new Flusher(file);
  const readOptions: ReadOptions = {
    jobs,
    signal,
    outputFd: file.fd,
    withZeroes: false,
    onProgress: (doneBytes, totalBytes) => {
      flusher.onWritten(doneBytes);
      onProgress?.(doneBytes, totalBytes);
    },
  };
  try {
    await readChunks(image, readOptions, (damage) => {
      throw new FaultlineError(
        "image-corrupt",
        `Chunk ${damage.id} of ${image.name}, at ${formatHex(damage.offsets[0]!)} of its ` +
          `memory, ${damage.reason}. Nothing was extracted. \`faultline image verify\` lists ` +
          "every damaged chunk; restore them from another store.",
      );
    });
  } finally {
    await flusher.idle();
  }
  if (flusher.failure !== null) throw flusher.failure;
  await file.sync();
  return (await file.stat()).blocks * 512;
}

/** Lets the disk write while the CPUs decompress: the last flush then has little left to do. */
class Flusher {
  readonly #file: FileHandle;
  #flushedBytes = 0;
  #flushing: Promise<void> | null = null;
  /** The kernel tells a lost write once, so the last flush would not know of it. */
  failure: unknown = null;

  constructor(file: FileHandle) {
    this.#file = file;
  }

  onWritten(doneBytes: number): void {
    if (this.#flushing !== null || doneBytes - this.#flushedBytes < FLUSH_BYTES) return;
    this.#flushedBytes = doneBytes;
    const flushing = this.#file.datasync().catch((error: unknown) => {
      this.failure ??= error;
    });
    this.#flushing = flushing.then(() => {
      this.#flushing = null;
    });
  }

  async idle(): Promise<void> {
    await this.#flushing;
  }
}

function publish(temporary: string, path: string, force: boolean): void {
  // Unlike rename(2), link(2) refuses to replace what came into being meanwhile.
  if (force) renameSync(temporary, path);
  else linkSync(temporary, path);
  const folder = openSync(dirname(path), "r");
  fsyncSync(folder);
  closeSync(folder);
}

function outputError(path: string, error: unknown): unknown {
  if (error instanceof FaultlineError) return error;
  const { code } = error as NodeJS.ErrnoException;
  if (code === undefined || code === "ABORT_ERR") return error;
  if (code === "EEXIST") return alreadyThere(path);
  const isRefused = code === "EACCES" || code === "EPERM" || code === "EROFS";
  return new FaultlineError(
    isRefused ? "store-refused" : "store-failed",
    `${path} cannot be written: ${isRefused ? "check the rights of its folder" : "check its disk"}`,
    { cause: error },
  );
}

function alreadyThere(path: string): FaultlineError {
  const message = `${path} exists. Give another path, or --force to replace it.`;
  return new FaultlineError("bad-option", message);
}
