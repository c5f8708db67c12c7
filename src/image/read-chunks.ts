/** Reads every chunk of an image once, in all threads: what verify and extract have in common. */
import { FaultlineError } from "../base/errors.ts";
import { MIB } from "../base/units.ts";
import type { ChunkId } from "../snapshot/chunk-id.ts";
import { ZeroChunks } from "../source/chunk-codec.ts";
import type { StoredImage } from "../source/stored-image.ts";
import { chunkInput, refetchedInput } from "./chunk-input.ts";
import type { ReadItem, ReadResult, ReadWorkerSetup } from "./read-worker.ts";
import { inLanes, TaskPool } from "./task-pool.ts";

const BATCH_BYTES = MIB;
const TASKS_PER_WORKER = 2;

export interface ReadOptions {
  readonly jobs: number;
  readonly outputFd: number | null;
  /** Zero chunks too: verify wants to know whether other tools could extract the image. */
  readonly withZeroes: boolean;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly signal: AbortSignal;
}

export interface DamagedChunk {
  readonly id: ChunkId;
  /** What is wrong: "is missing", "does not match its digest", … */
  readonly reason: string;
  /** Where the image needs it. */
  readonly offsets: readonly number[];
  readonly sizeBytes: number;
}

export interface UniqueChunk {
  readonly id: ChunkId;
  readonly sizeBytes: number;
  readonly offsets: number[];
}

/** Calls `onDamage` for every chunk that is not whole; throwing there ends the work. */
export async function readChunks(
  image: StoredImage,
  options: ReadOptions,
  onDamage: (damage: DamagedChunk) => void,
): Promise<void> {
  const { jobs, outputFd, signal } = options;
  const chunks = uniqueChunks(image, options.withZeroes);
  const totalBytes = chunks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  const setup: ReadWorkerSetup = { digest: image.index.digest, outputFd };
  await using pool = new TaskPool<readonly ReadItem[], ReadResult>(
    new URL("./read-worker.js", import.meta.url),
    jobs,
    setup,
  );
  let next = 0;
  let doneBytes = 0;
  const takeBatch = (): UniqueChunk[] => {
    const batch: UniqueChunk[] = [];
    for (let bytes = 0; next < chunks.length && bytes < BATCH_BYTES; next++) {
      batch.push(chunks[next]!);
      bytes += chunks[next]!.sizeBytes;
    }
    return batch;
  };
  await inLanes(pool.workerCount, TASKS_PER_WORKER, signal, async (worker) => {
    const batch = takeBatch();
    if (batch.length === 0) return false;
    const withInput = async (chunk: UniqueChunk): Promise<ReadItem> => {
      return { ...chunk, input: await chunkInput(image.store, chunk.id, signal) };
    };
    const results = await pool.run(worker, await Promise.all(batch.map(withInput)));
    for (const [index, failure] of results.entries()) {
      const chunk = batch[index]!;
      const again = async (): Promise<string | null> => {
        const input = await refetchedInput(image.store, chunk.id, signal);
        return input === null ? failure : (await pool.run(worker, [{ ...chunk, input }]))[0]!;
      };
      const reason = failure === null ? null : await again();
      if (reason !== null) onDamage({ ...chunk, reason });
      doneBytes += chunk.sizeBytes;
    }
    options.onProgress?.(doneBytes, totalBytes);
    return true;
  });
}

/**
 * Each chunk once, in the order of its first use, with all its places.
 * @throws FaultlineError `image-corrupt`: an id cannot stand for chunks of two sizes
 */
export function uniqueChunks({ index, name }: StoredImage, withZeroes: boolean): UniqueChunk[] {
  const zeroes = new ZeroChunks(index);
  const chunks = new Map<ChunkId, UniqueChunk>();
  for (let chunk = 0; chunk < index.chunkCount; chunk++) {
    if (!withZeroes && zeroes.has(chunk)) continue;
    const id = index.id(chunk);
    const known = chunks.get(id);
    if (known === undefined) {
      chunks.set(id, { id, sizeBytes: index.size(chunk), offsets: [index.start(chunk)] });
    } else if (known.sizeBytes === index.size(chunk)) {
      known.offsets.push(index.start(chunk));
    } else {
      throw new FaultlineError(
        "image-corrupt",
        `The index of ${name} is damaged: chunk ${chunk}, ${id}, has ${index.size(chunk)} bytes, ` +
          `and ${known.sizeBytes} before. Get it from another store, or pack the snapshot again.`,
      );
    }
  }
  return [...chunks.values()];
}
