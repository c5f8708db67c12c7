/** The part of packing that moves bytes: reads, hashes and stores every chunk of a source. */
import { MIB } from "../base/units.ts";
import { type ChunkId, chunkObjectName } from "../snapshot/chunk-id.ts";
import type { Extent } from "../snapshot/layers.ts";
import { ChunkEncoder, ZeroChunks, zeroChunkId } from "../source/chunk-codec.ts";
import { chunkInput } from "./chunk-input.ts";
import type { ChunkSink } from "./chunk-sink.ts";
import type { PackOptions, PackReport } from "./pack.ts";
import { type PlannedChunk, planChunks, type ReadChunk } from "./pack-plan.ts";
import type { PackInput, PackSource } from "./pack-source.ts";
import type {
  BelowChunk,
  HashedChunks,
  PackItem,
  PackResult,
  PackTask,
  PackWorkerSetup,
  StoredChunk,
  StoredChunks,
} from "./pack-worker.ts";
import { inLanes, TaskPool } from "./task-pool.ts";

/** Chunks travel in batches of this size: a message costs as much as hashing some 20 KiB. */
const BATCH_BYTES = MIB;
/** While the main thread thinks about one batch, a worker has the next. */
const SLOTS_PER_WORKER = 3;

/** What is planned, under way, and known. */
export class Packing {
  readonly #options: PackOptions;
  readonly #source: PackSource;
  readonly #sink: ChunkSink;
  readonly #plan: Iterator<PlannedChunk>;
  readonly #ids: ChunkId[];
  readonly #totalBytes: number;
  readonly #parentZeroes: ZeroChunks | null;
  /** Chunks that are in the store, or about to be. */
  readonly #known = new Set<ChunkId>();
  #doneBytes = 0;
  #zeroChunks = 0;
  #sharedChunks = 0;
  #newChunks = 0;
  #storedBytes = 0;
  #processBytes = 0;

  /** @param missing chunks of the parent that the store does not have, whatever its index says */
  constructor(
    options: PackOptions,
    source: PackSource,
    sink: ChunkSink,
    missing: ReadonlySet<ChunkId>,
  ) {
    this.#options = options;
    this.#source = source;
    this.#sink = sink;
    const { chunkSizeBytes, parent } = options;
    const below = source.isDiff ? (parent?.index ?? null) : null;
    this.#parentZeroes = below === null ? null : new ZeroChunks(below);
    this.#plan = planChunks(source.sizeBytes, chunkSizeBytes, source.extents, below);
    this.#ids = new Array<ChunkId>(Math.ceil(source.sizeBytes / chunkSizeBytes));
    this.#totalBytes = lengthOf(source.extents);
    for (let chunk = 0; chunk < (parent?.index.chunkCount ?? 0); chunk++) {
      const id = parent!.index.id(chunk);
      if (!missing.has(id)) this.#known.add(id);
    }
  }

  /** The ids of all chunks, which are then all in the store. */
  async run(): Promise<readonly ChunkId[]> {
    const { jobs, digest, level, chunkSizeBytes } = this.#options;
    const setup: PackWorkerSetup = {
      inputs: this.#source.inputs,
      digest,
      level,
      slotBytes: Math.max(BATCH_BYTES, chunkSizeBytes),
      target: this.#sink.target,
    };
    // Closed before the file and the staging folder, which its threads use.
    await using pool = new TaskPool<PackTask, PackResult>(
      new URL("./pack-worker.js", import.meta.url),
      jobs,
      setup,
    );
    await inLanes(pool.workerCount, SLOTS_PER_WORKER, this.#options.signal, (worker, slot) =>
      this.#packBatch((task) => pool.run(worker, task), slot),
    );
    await this.#storeZeroes();
    await this.#sink.finish();
    return this.#ids;
  }

  report(): PackReport {
    const { name, store, chunkSizeBytes, digest } = this.#options;
    return {
      name,
      store: store.location,
      memorySizeBytes: this.#source.sizeBytes,
      ...this.#readReport(),
      chunkSizeBytes,
      digest,
      chunks: this.#ids.length,
      zeroChunks: this.#zeroChunks,
      sharedChunks: this.#sharedChunks,
      newChunks: this.#newChunks,
      storedBytes: this.#storedBytes,
    };
  }

  #readReport(): Pick<PackReport, "readBytes" | "session"> {
    const { inputs, extents } = this.#source;
    const ofKind = (kind: PackInput["kind"]): number =>
      lengthOf(extents.filter(({ input }) => inputs[input ?? 0]!.kind === kind));
    const readBytes = ofKind("file") + ofKind("process");
    if (!inputs.some(({ kind }) => kind === "process")) return { readBytes };
    const dirtyBytes = ofKind("process") + ofKind("zeroes");
    return { readBytes, session: { dirtyBytes, processBytes: this.#processBytes } };
  }

  /** False when there is nothing more to pack. */
  async #packBatch(run: (task: PackTask) => Promise<PackResult>, slot: number): Promise<boolean> {
    const batch = this.#nextBatch();
    if (batch.length === 0) return false;
    const items = await Promise.all(batch.map((chunk) => this.#itemOf(chunk)));
    const hashed = (await run({ type: "hash", slot, items })) as HashedChunks;
    const { ids } = hashed;
    this.#processBytes += hashed.processBytes;
    const wanted = await this.#wantedOf(batch, ids);
    if (wanted.length > 0) {
      await this.#take(await this.#store({ type: "store", slot, wanted }, run));
    }
    for (const { extents } of batch) this.#doneBytes += lengthOf(extents);
    this.#options.onProgress?.(this.#doneBytes, this.#totalBytes);
    return true;
  }

  async #store(
    task: PackTask,
    run: (task: PackTask) => Promise<PackResult>,
  ): Promise<readonly StoredChunk[]> {
    try {
      return ((await run(task)) as StoredChunks).chunks;
    } catch (error) {
      throw this.#sink.errorFor(error);
    }
  }

  /** The next chunks that have to be read; those that need not be are settled on the way. */
  #nextBatch(): ReadChunk[] {
    const batch: ReadChunk[] = [];
    let bytes = 0;
    while (bytes + this.#options.chunkSizeBytes <= BATCH_BYTES || batch.length === 0) {
      const { done, value } = this.#plan.next();
      if (done === true) break;
      if (value.kind === "zero") this.#zeroChunks++;
      else if (value.kind === "known") this.#share(value.chunk, value.id);
      else {
        batch.push(value);
        bytes += value.end - value.start;
      }
    }
    return batch;
  }

  async #itemOf({ start, end, extents, below }: ReadChunk): Promise<PackItem> {
    const { parent, store, signal } = this.#options;
    const found: BelowChunk[] = [];
    for (const at of below) {
      const { index } = parent!;
      const id = index.id(at);
      const isZero = this.#parentZeroes!.has(at);
      const input = isZero ? null : { stored: await chunkInput(store, id, signal) };
      found.push({ id, start: index.start(at), end: index.end(at), input });
    }
    return { start, end, extents, below: found };
  }

  /** Which chunks of a batch have to be stored, by their number in the batch. */
  async #wantedOf(
    batch: readonly ReadChunk[],
    ids: readonly (ChunkId | null)[],
  ): Promise<number[]> {
    const { store, signal } = this.#options;
    const wanted: number[] = [];
    for (const [index, id] of ids.entries()) {
      const { chunk } = batch[index]!;
      if (id === null) {
        this.#zeroChunks++;
      } else if (this.#known.has(id)) {
        this.#share(chunk, id);
      } else {
        this.#ids[chunk] = id;
        this.#known.add(id);
        // With a folder the workers look for themselves.
        const mayHaveIt = this.#sink.target === null;
        if (mayHaveIt && (await store.exists(chunkObjectName(id), signal))) this.#sharedChunks++;
        else wanted.push(index);
      }
    }
    return wanted;
  }

  #share(chunk: number, id: ChunkId): void {
    this.#ids[chunk] = id;
    this.#sharedChunks++;
  }

  async #take(chunks: readonly StoredChunk[]): Promise<void> {
    for (const { storedBytes } of chunks) {
      this.#storedBytes += storedBytes;
      if (storedBytes === 0) this.#sharedChunks++;
      else this.#newChunks++;
    }
    await this.#sink.accept(chunks);
  }

  /**
   * The chunks without an id so far are zero. Their bytes are stored once, for other tools: we know
   * them by their id.
   */
  async #storeZeroes(): Promise<void> {
    const { store, chunkSizeBytes, level, digest, signal } = this.#options;
    const { sizeBytes } = this.#source;
    using encoder = new ChunkEncoder(level);
    const whole = zeroChunkId(chunkSizeBytes, digest);
    for (let chunk = 0; chunk < this.#ids.length; chunk++) {
      if (this.#ids[chunk] !== undefined) continue;
      const size = Math.min(chunkSizeBytes, sizeBytes - chunk * chunkSizeBytes);
      const id = size === chunkSizeBytes ? whole : zeroChunkId(size, digest);
      this.#ids[chunk] = id;
      if (this.#known.has(id)) continue;
      this.#known.add(id);
      const objectName = chunkObjectName(id);
      if (await store.exists(objectName, signal)) continue;
      await store.write(objectName, encoder.encode(new Uint8Array(size)), signal);
    }
  }
}

function lengthOf(extents: readonly Extent[]): number {
  return extents.reduce((sum, { start, end }) => sum + end - start, 0);
}
