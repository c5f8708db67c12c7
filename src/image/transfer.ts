/**
 * Copies an image from one store to another: only the chunks that are missing there, each verified
 * on its way. Until the index is written, last, there is no image, only whole chunks that the next
 * run finds.
 *
 * A chunk that arrives damaged is read once more, past every nearer copy; if it is still damaged,
 * the transfer fails and names it. What is there already is trusted: it was verified when it came.
 */
import { FaultlineError } from "../base/errors.ts";
import { formatHex, MIB } from "../base/units.ts";
import { type ChunkId, chunkObjectName } from "../snapshot/chunk-id.ts";
import type { ObjectStore } from "../source/object-store.ts";
import type { ImageFiles } from "../source/stored-image.ts";
import { type ChunkSink, openSink } from "./chunk-sink.ts";
import { Publication, type WorkingSetTransfer } from "./publication.ts";
import { type UniqueChunk, uniqueChunks } from "./read-chunks.ts";
import type { ReadItem, ReadResult, ReadWorkerSetup } from "./read-worker.ts";
import { MAX_ATTEMPTS, missingChunks, refreshChunks } from "./refresh-chunks.ts";
import { inLanes, TaskPool } from "./task-pool.ts";

/** As many as a store's request policy lets run at once. */
const MAX_TRANSFERS = 32;
/** All chunks under way together: large chunks travel fewer at a time. */
const MAX_TRANSFER_BYTES = 128 * MIB;

export interface TransferOptions {
  readonly to: ObjectStore;
  readonly jobs: number;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly signal: AbortSignal;
}

export interface TransferReport {
  readonly name: string;
  readonly from: string;
  readonly to: string;
  readonly memorySizeBytes: number;
  /** Different chunks. */
  readonly chunks: number;
  /** Chunks that were there already. */
  readonly sharedChunks: number;
  readonly sentChunks: number;
  /** What these take in the stores. */
  readonly sentBytes: number;
  /** Chunks that arrived damaged at first. */
  readonly refetchedChunks: number;
  readonly workingSet: WorkingSetTransfer;
}

/**
 * @throws FaultlineError `image-corrupt` (the image as it was read), `bad-option` (another image of
 *   this name is there), `store-failed`, `store-refused`
 */
export async function transferImage(
  files: ImageFiles,
  options: TransferOptions,
): Promise<TransferReport> {
  const { image } = files;
  const { to, signal } = options;
  if (image.store.location === to.location) {
    const message = `${image.name} is in ${to.location} already: give two different stores.`;
    throw new FaultlineError("bad-option", message);
  }
  const publication = await Publication.prepare(files, to, signal);
  const all = uniqueChunks(image, true);
  await using sink = await openSink(to, signal);
  const transfer = new ChunkTransfer(files, options, sink);
  let wanted = all;
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
    await transfer.run(wanted);
    const missing = await refreshChunks(to, new Set(all.map(({ id }) => id)), signal);
    if (missing.size === 0) {
      return transfer.report(all.length, await publication.publish());
    }
    wanted = all.filter(({ id }) => missing.has(id));
  }
  const cure = "somebody removes them as they come. See who does, and run this again.";
  throw missingChunks(to, new Set(wanted.map(({ id }) => id)), cure);
}

class ChunkTransfer {
  readonly #files: ImageFiles;
  readonly #options: TransferOptions;
  readonly #sink: ChunkSink;
  readonly #sent = new Set<ChunkId>();
  #sentBytes = 0;
  #refetchedChunks = 0;

  constructor(files: ImageFiles, options: TransferOptions, sink: ChunkSink) {
    this.#files = files;
    this.#options = options;
    this.#sink = sink;
  }

  /** When it resolves, all these chunks are there, and durable. */
  async run(chunks: readonly UniqueChunk[]): Promise<void> {
    const { jobs, onProgress, signal } = this.#options;
    const { chunkSizes, digest } = this.#files.image.index;
    const lanes = Math.min(MAX_TRANSFERS, Math.ceil(MAX_TRANSFER_BYTES / chunkSizes.max));
    const setup: ReadWorkerSetup = { digest, outputFd: null };
    await using pool = new TaskPool<readonly ReadItem[], ReadResult>(
      new URL("./read-worker.js", import.meta.url),
      Math.min(jobs, lanes),
      setup,
    );
    const totalBytes = chunks.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    let doneBytes = 0;
    let next = 0;
    const slots = Math.floor(lanes / pool.workerCount);
    await inLanes(pool.workerCount, slots, signal, async (worker) => {
      const chunk = chunks[next++];
      if (chunk === undefined) return false;
      await this.#transfer(chunk, async (item) => (await pool.run(worker, [item]))[0]!);
      doneBytes += chunk.sizeBytes;
      onProgress?.(doneBytes, totalBytes);
      return true;
    });
    await this.#sink.finish();
  }

  report(chunks: number, workingSet: WorkingSetTransfer): TransferReport {
    const { name, store, index } = this.#files.image;
    return {
      name,
      from: store.location,
      to: this.#options.to.location,
      memorySizeBytes: index.sizeBytes,
      chunks,
      sharedChunks: chunks - this.#sent.size,
      sentChunks: this.#sent.size,
      sentBytes: this.#sentBytes,
      refetchedChunks: this.#refetchedChunks,
      workingSet,
    };
  }

  async #transfer(
    chunk: UniqueChunk,
    verify: (item: ReadItem) => Promise<string | null>,
  ): Promise<void> {
    const { to, signal } = this.#options;
    if (await to.exists(chunkObjectName(chunk.id), signal)) return;
    const bytes = await this.#readWhole(chunk, verify);
    await this.#sink.put(chunk.id, bytes);
    if (!this.#sent.has(chunk.id)) this.#sentBytes += bytes.length;
    this.#sent.add(chunk.id);
  }

  /** The stored bytes of a chunk, after a thread has decompressed them and compared the digest. */
  async #readWhole(
    chunk: UniqueChunk,
    verify: (item: ReadItem) => Promise<string | null>,
  ): Promise<Uint8Array> {
    const { store, name } = this.#files.image;
    const { signal } = this.#options;
    const objectName = chunkObjectName(chunk.id);
    const failureOf = async (bytes: Uint8Array | null): Promise<string | null> =>
      await verify({ ...chunk, input: bytes === null ? null : { bytes } });
    let bytes = await store.read(objectName, signal, "prefetch");
    let failure = await failureOf(bytes);
    if (failure !== null) {
      this.#refetchedChunks++;
      bytes = await (store.refetch ?? store.read).call(store, objectName, signal, "prefetch");
      failure = await failureOf(bytes);
    }
    if (failure === null) return bytes!;
    throw new FaultlineError(
      "image-corrupt",
      `Chunk ${chunk.id} of ${name} in ${store.location}, at ${formatHex(chunk.offsets[0]!)} of ` +
        `its memory, ${failure}, also when it was read again. Nothing was published in ` +
        `${this.#options.to.location}; what was copied stays, and counts in the next run. ` +
        "`faultline image verify` lists every damaged chunk.",
    );
  }
}
