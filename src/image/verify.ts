/** Reads and hashes every chunk of an image again, and tells all that is damaged. */
import type { StoredImage } from "../source/stored-image.ts";
import { readWorkingSet, type WorkingSetFinding } from "../source/working-set-place.ts";
import { type DamagedChunk, type ReadOptions, readChunks, uniqueChunks } from "./read-chunks.ts";

export interface VerifyReport {
  readonly name: string;
  /** Different chunks. */
  readonly chunks: number;
  readonly bytes: number;
  readonly damaged: readonly DamagedChunk[];
  readonly workingSet: WorkingSetVerdict;
}

export interface WorkingSetVerdict {
  readonly kind: WorkingSetFinding["kind"];
  /** Why it is not used, if it is not. */
  readonly reason: string | null;
}

export async function verifyImage(
  image: StoredImage,
  options: Omit<ReadOptions, "outputFd" | "withZeroes">,
): Promise<VerifyReport> {
  const damaged: DamagedChunk[] = [];
  const chunks = uniqueChunks(image, true);
  await readChunks(image, { ...options, outputFd: null, withZeroes: true }, (damage) => {
    damaged.push(damage);
  });
  return {
    name: image.name,
    chunks: chunks.length,
    bytes: chunks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    damaged: damaged.sort((a, b) => a.offsets[0]! - b.offsets[0]!),
    workingSet: verdictOn(await readWorkingSet(image, options.signal)),
  };
}

function verdictOn(found: WorkingSetFinding): WorkingSetVerdict {
  return { kind: found.kind, reason: "reason" in found ? found.reason : null };
}
