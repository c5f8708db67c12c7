/**
 * A thread of `image pack`: reads chunks into slots of its own, hashes them, and later compresses
 * those that the main thread wants. Between the two the bytes stay in the slot: a file that changes
 * meanwhile cannot make a chunk that does not match its name.
 *
 * Files are read, not mapped: one that is truncated meanwhile would kill this process by SIGBUS.
 */
import { closeSync, existsSync, openSync, readSync } from "node:fs";
import { join } from "node:path";
import { workerData } from "node:worker_threads";
import { FaultlineError, SysError } from "../base/errors.ts";
import { readProcess } from "../linux/process-memory.ts";
import { type ChunkId, chunkObjectName, type Digest } from "../snapshot/chunk-id.ts";
import { ChunkDecoder, ChunkEncoder, digestOf, isZero } from "../source/chunk-codec.ts";
import { writeWhole } from "../source/staging.ts";
import { type ChunkInput, ChunkInputReader } from "./chunk-input.ts";
import { covers } from "./pack-plan.ts";
import type { PackInput, SourceExtent } from "./pack-source.ts";
import { answerTasks, type Reply } from "./task-worker.ts";

export interface PackWorkerSetup {
  readonly inputs: readonly PackInput[];
  readonly digest: Digest;
  readonly level: number;
  /** The bytes of one slot. */
  readonly slotBytes: number;
  /** Where to put chunks; null: send them to the main thread. */
  readonly target: StageTarget | null;
}

export interface StageTarget {
  readonly storePath: string;
  readonly stagingPath: string;
}

/** A chunk of the parent below one that is only partly in the file. */
export interface BelowChunk {
  readonly id: ChunkId;
  readonly start: number;
  readonly end: number;
  /** Null: it is all zero. */
  readonly input: { readonly stored: ChunkInput } | null;
}

export interface PackItem {
  readonly start: number;
  readonly end: number;
  readonly extents: readonly SourceExtent[];
  readonly below: readonly BelowChunk[];
}

export type PackTask =
  /** Reads and hashes chunks into a slot. */
  | { readonly type: "hash"; readonly slot: number; readonly items: readonly PackItem[] }
  /** Compresses some chunks of a slot, by their number in its task. */
  | { readonly type: "store"; readonly slot: number; readonly wanted: readonly number[] };

export interface HashedChunks {
  /** Null: all bytes are zero. */
  readonly ids: readonly (ChunkId | null)[];
  /** What was read of another process. */
  readonly processBytes: number;
}

export interface StoredChunk {
  readonly id: ChunkId;
  /** After compression; 0 if the store had it. */
  readonly storedBytes: number;
  /** The file that waits for its name; or the bytes, for stores that are no folder. */
  readonly staged: string | null;
  readonly bytes: Uint8Array<ArrayBuffer> | null;
}

export interface StoredChunks {
  readonly chunks: readonly StoredChunk[];
}

export type PackResult = HashedChunks | StoredChunks;

interface Slot {
  readonly bytes: Buffer;
  /** What lies in it: where, and how it is called. */
  readonly chunks: { start: number; end: number; id: ChunkId | null }[];
}

const setup = workerData as PackWorkerSetup;
const encoder = new ChunkEncoder(setup.level);
const decoder = new ChunkDecoder();
const inputs = new ChunkInputReader();
const slots = new Map<number, Slot>();
let scratch = Buffer.alloc(0);
/** Of the task at hand. */
let processBytes = 0;

answerTasks<PackTask, PackResult>((task) =>
  task.type === "hash" ? hashChunks(task.slot, task.items) : storeChunks(task.slot, task.wanted),
);

function hashChunks(slotIndex: number, items: readonly PackItem[]): Reply<PackResult> {
  const slot = slotAt(slotIndex);
  slot.chunks.length = 0;
  processBytes = 0;
  let start = 0;
  for (const item of items) {
    const end = start + item.end - item.start;
    fill(slot.bytes.subarray(start, end), item);
    const id = isZero(slot.bytes, start, end)
      ? null
      : digestOf(slot.bytes.subarray(start, end), setup.digest);
    slot.chunks.push({ start, end, id });
    start = end;
  }
  return { result: { ids: slot.chunks.map(({ id }) => id), processBytes } };
}

function slotAt(index: number): Slot {
  let slot = slots.get(index);
  if (slot === undefined) {
    slot = { bytes: Buffer.allocUnsafeSlow(setup.slotBytes), chunks: [] };
    slots.set(index, slot);
  }
  return slot;
}

/** Puts a chunk together: what the source holds of it, above what lies below. */
function fill(target: Buffer, { start, end, extents, below }: PackItem): void {
  if (!covers(extents, end - start)) {
    target.fill(0);
    for (const chunk of below) copyBelow(target, start, end, chunk);
  }
  for (const extent of extents) {
    const part = target.subarray(extent.start - start, extent.end - start);
    const input = setup.inputs[extent.input ?? 0]!;
    if (input.kind === "file") readWhole(input, part, extent.start);
    else if (input.kind === "process") readMemory(input, part, extent.start);
    else part.fill(0);
  }
}

function copyBelow(target: Buffer, start: number, end: number, chunk: BelowChunk): void {
  if (chunk.input === null) return;
  const sizeBytes = chunk.end - chunk.start;
  if (scratch.length < sizeBytes) scratch = Buffer.allocUnsafeSlow(sizeBytes);
  const whole = scratch.subarray(0, sizeBytes);
  const stored = inputs.read(chunk.input.stored, sizeBytes);
  const failure =
    "failure" in stored
      ? stored.failure
      : decoder.decode(stored.bytes, whole, chunk.id, setup.digest);
  if (failure !== null) {
    throw new FaultlineError(
      "image-corrupt",
      `The parent's chunk ${chunk.id} ${failure}. \`faultline image verify\` lists every damaged ` +
        "chunk; restore them from another store, or pack the whole memory file.",
    );
  }
  const from = Math.max(start, chunk.start);
  const to = Math.min(end, chunk.end);
  whole.copy(target, from - start, from - chunk.start, to - chunk.start);
}

type FileInput = PackInput & { readonly kind: "file" };
type ProcessInput = PackInput & { readonly kind: "process" };

function readWhole({ fd, path }: FileInput, target: Uint8Array, position: number): void {
  for (let done = 0; done < target.length; ) {
    let count: number;
    try {
      count = readSync(fd, target, done, target.length - done, position + done);
    } catch (cause) {
      const message = `${path} cannot be read at byte ${position + done}: check its disk`;
      throw new FaultlineError("system", message, { cause });
    }
    if (count === 0) {
      throw new FaultlineError(
        "memory-changed",
        `${path} became shorter while it was read. Pack it when nobody writes to it.`,
      );
    }
    done += count;
  }
}

/** Region by region: neighbours in the image are strangers in the process. */
function readMemory({ pid, regions }: ProcessInput, target: Uint8Array, offset: number): void {
  const limit = offset + target.length;
  for (const { imageOffset, sizeBytes, baseHostAddress } of regions) {
    const from = Math.max(offset, imageOffset);
    const to = Math.min(limit, imageOffset + sizeBytes);
    if (from >= to) continue;
    try {
      const address = baseHostAddress + (from - imageOffset);
      readProcess(pid, target.subarray(from - offset, to - offset), address);
    } catch (error) {
      if (!(error instanceof SysError)) throw error;
      throw new FaultlineError(
        "unresolvable-page",
        `The VM's memory at image offset ${from} cannot be read from process ${pid} (` +
          `${error.errnoName}): a page there is poisoned, or no longer mapped. The VMM could not ` +
          "read it either.",
      );
    }
    processBytes += to - from;
  }
}

function storeChunks(slotIndex: number, wanted: readonly number[]): Reply<PackResult> {
  const { bytes, chunks } = slotAt(slotIndex);
  const stored = wanted.map((index) => {
    const { start, end, id } = chunks[index]!;
    return storeChunk(bytes.subarray(start, end), id!);
  });
  const transfer = stored.flatMap((chunk) => (chunk.bytes === null ? [] : [chunk.bytes.buffer]));
  return { result: { chunks: stored }, transfer };
}

function storeChunk(chunk: Uint8Array, id: ChunkId): StoredChunk {
  const { target } = setup;
  if (target !== null && existsSync(join(target.storePath, chunkObjectName(id)))) {
    return { id, storedBytes: 0, staged: null, bytes: null };
  }
  const frame = encoder.encode(chunk);
  if (target === null) {
    return { id, storedBytes: frame.length, staged: null, bytes: new Uint8Array(frame) };
  }
  const staged = join(target.stagingPath, id);
  const fd = openSync(staged, "wx");
  try {
    writeWhole(fd, frame);
  } finally {
    closeSync(fd);
  }
  return { id, storedBytes: frame.length, staged, bytes: null };
}
