/**
 * A thread of `image verify` and `image extract`: decompresses chunks, compares their digests, and
 * writes what is not zero of those that are whole. Damaged bytes are never written.
 */
import { workerData } from "node:worker_threads";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import type { ChunkId, Digest } from "../snapshot/chunk-id.ts";
import { ChunkDecoder, isZero } from "../source/chunk-codec.ts";
import { writeWhole } from "../source/staging.ts";
import { type ChunkInput, ChunkInputReader } from "./chunk-input.ts";
import { answerTasks } from "./task-worker.ts";

export interface ReadWorkerSetup {
  readonly digest: Digest;
  /** Null: only verify. */
  readonly outputFd: number | null;
}

export interface ReadItem {
  readonly id: ChunkId;
  readonly sizeBytes: number;
  /** Where the chunk belongs in the image: it may occur more than once. */
  readonly offsets: readonly number[];
  readonly input: ChunkInput;
}

/** For each chunk of the task: null if it is whole, else what is wrong. */
export type ReadResult = readonly (string | null)[];

const setup = workerData as ReadWorkerSetup;
const decoder = new ChunkDecoder();
const inputs = new ChunkInputReader();
let buffer = Buffer.alloc(0);

answerTasks<readonly ReadItem[], ReadResult>((items) => ({ result: items.map(readChunk) }));

function readChunk({ id, sizeBytes, offsets, input }: ReadItem): string | null {
  if (buffer.length < sizeBytes) buffer = Buffer.allocUnsafeSlow(sizeBytes);
  const chunk = buffer.subarray(0, sizeBytes);
  const stored = inputs.read(input, sizeBytes);
  if ("failure" in stored) return stored.failure;
  const failure = decoder.decode(stored.bytes, chunk, id, setup.digest);
  if (failure !== null || setup.outputFd === null) return failure;
  for (const offset of offsets) writeData(setup.outputFd, chunk, offset);
  return null;
}

/** The output is sparse already: pages of zeroes stay holes. */
function writeData(fd: number, chunk: Buffer, offset: number): void {
  let dataStart = -1;
  for (let page = 0; page < chunk.length; page += SMALL_PAGE_BYTES) {
    const isHole = isZero(chunk, page, Math.min(page + SMALL_PAGE_BYTES, chunk.length));
    if (!isHole && dataStart === -1) dataStart = page;
    if (isHole && dataStart !== -1) {
      writeWhole(fd, chunk.subarray(dataStart, page), offset + dataStart);
      dataStart = -1;
    }
  }
  if (dataStart !== -1) writeWhole(fd, chunk.subarray(dataStart), offset + dataStart);
}
