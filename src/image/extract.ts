/**
 * Writes an image's memory to a file. The file gets its name when all of it is written, verified
 * and on disk: whatever happens, no part of a memory file can be mistaken for the whole.
 */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  linkSync,
  openSync,
  renameSync,
  rmSync,
} from "node:fs";
import { open } from "node:fs/promises";
import { basename, dirname, join } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { formatHex } from "../base/units.ts";
import type { StoredImage } from "../source/stored-image.ts";
import { type ReadOptions, readChunks } from "./read-chunks.ts";

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
    const fd = openSync(temporary, "wx");
    let allocatedBytes: number;
    try {
      ftruncateSync(fd, image.index.sizeBytes);
      await readChunks(image, { ...options, outputFd: fd, withZeroes: false }, (damage) => {
        throw new FaultlineError(
          "image-corrupt",
          `Chunk ${damage.id} of ${image.name}, at ${formatHex(damage.offsets[0]!)} of its ` +
            `memory, ${damage.reason}. Nothing was extracted. \`faultline image verify\` lists ` +
            "every damaged chunk; restore them from another store.",
        );
      });
      await flush(temporary);
      allocatedBytes = fstatSync(fd).blocks * 512;
    } finally {
      closeSync(fd);
    }
    publish(temporary, path, force);
    return { name: image.name, path, sizeBytes: image.index.sizeBytes, allocatedBytes };
  } catch (error) {
    throw outputError(path, error);
  } finally {
    rmSync(temporary, { force: true });
  }
}

/** In a thread of the pool: it may take seconds, and Ctrl-C must be heard. */
async function flush(path: string): Promise<void> {
  await using file = await open(path, "r+");
  await file.sync();
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
