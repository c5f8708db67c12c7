/**
 * Makes an image of a snapshot's memory: cuts it into chunks, stores those that the store does not
 * have, and publishes the index last. Until then there is no image, only chunks that the next run
 * finds and need not write again.
 *
 * Order of writing: chunks, then a refresh of all of them (so that a concurrent gc keeps even
 * those that are old, see gc.ts), then `NAME.state`, `NAME.json`, the working set that a child has
 * from its parent, and last `NAME.caibx`, which makes the image.
 */
import { readFileSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import { KIB, MIB, SMALL_PAGE_BYTES } from "../base/units.ts";
import { encodeIndex, MAX_INDEX_CHUNKS } from "../snapshot/caibx.ts";
import type { ChunkId, Digest } from "../snapshot/chunk-id.ts";
import { fixedIndex } from "../snapshot/image-index.ts";
import { encodeImageInfo, type ImageInfo } from "../snapshot/image-info.ts";
import type { ObjectStore } from "../source/object-store.ts";
import {
  indexObjectName,
  infoObjectName,
  type StoredImage,
  sha256,
  stateObjectName,
} from "../source/stored-image.ts";
import { imageWorkingSet, readWorkingSet } from "../source/working-set-place.ts";
import { openSink } from "./chunk-sink.ts";
import { openFileSource, type PackSource } from "./pack-source.ts";
import { Packing } from "./packing.ts";
import { MAX_ATTEMPTS, missingChunks, refreshChunks } from "./refresh-chunks.ts";
import { openSessionSource } from "./session-source.ts";

/** A VMM's state is some ten KiB, with many devices a few MiB. */
const MAX_STATE_BYTES = 64 * MIB;
export const LEAST_CHUNK_BYTES = SMALL_PAGE_BYTES;
export const MOST_CHUNK_BYTES = 4 * MIB;
export const DEFAULT_CHUNK_BYTES = 256 * KIB;
export const DEFAULT_LEVEL = 1;

export interface PackOptions {
  readonly store: ObjectStore;
  readonly name: string;
  /** The whole memory; or, with `isDiff`, what changed since `parent`. */
  readonly path: string;
  readonly isDiff: boolean;
  /** `path` is the session file of a paused VM: its memory is packed. */
  readonly isSession?: boolean;
  readonly parent: StoredImage | null;
  readonly chunkSizeBytes: number;
  readonly digest: Digest;
  readonly level: number;
  readonly jobs: number;
  readonly statePath?: string;
  readonly onProgress?: (doneBytes: number, totalBytes: number) => void;
  readonly signal: AbortSignal;
}

export interface PackReport {
  readonly name: string;
  readonly store: string;
  readonly memorySizeBytes: number;
  /** What was read of the file, or of files and process; the rest were holes. */
  readonly readBytes: number;
  /** Of a paused VM. */
  readonly session?: {
    /** Pages that may differ from what the VM was restored from. */
    readonly dirtyBytes: number;
    /** What was read of its process. */
    readonly processBytes: number;
  };
  readonly chunkSizeBytes: number;
  readonly digest: Digest;
  readonly chunks: number;
  readonly zeroChunks: number;
  /** Chunks that the store had, or that occur more than once. */
  readonly sharedChunks: number;
  readonly newChunks: number;
  /** What the new chunks take in the store. */
  readonly storedBytes: number;
}

/**
 * @throws FaultlineError what opening files throws; `bad-option`, `image-corrupt` (the parent),
 *   `memory-changed`, `vm-changed`, `session-file`, `store-failed`, `store-refused`
 */
export async function packImage(options: PackOptions): Promise<PackReport> {
  const { store, name, parent, signal } = options;
  await assertUnused(store, name, signal);
  using source = await openSource(options);
  assertFewChunks(source, options.chunkSizeBytes);
  if (parent !== null) assertFits(parent, options);
  const state = options.statePath === undefined ? null : readState(options.statePath);
  await using sink = await openSink(store, signal);
  let missing: ReadonlySet<ChunkId> = new Set();
  for (let attempt = 1; attempt <= MAX_ATTEMPTS; attempt++) {
    const packing = new Packing(options, source, sink, missing);
    const ids = await packing.run();
    source.assertUnchanged();
    missing = await refreshChunks(store, new Set(ids), signal);
    if (missing.size > 0) continue;
    await publish(options, source.sizeBytes, ids, state);
    return packing.report();
  }
  throw missingChunks(
    store,
    missing,
    "the parent lacks them (`faultline image verify`), or somebody keeps removing them. Restore " +
      "them, or pack the whole memory file without --parent.",
  );
}

async function assertUnused(store: ObjectStore, name: string, signal: AbortSignal): Promise<void> {
  if (!(await store.exists(indexObjectName(name), signal))) return;
  throw new FaultlineError(
    "bad-option",
    `There is an image ${name} in ${store.location} already, and images never change: choose ` +
      `another name, or remove ${indexObjectName(name)} first.`,
  );
}

async function openSource(options: PackOptions): Promise<PackSource> {
  const { path, isDiff, isSession, parent, signal } = options;
  if (isSession === true) return await openSessionSource(path, parent, signal);
  return openFileSource(path, isDiff, parent);
}

function assertFewChunks({ sizeBytes, path }: PackSource, chunkSizeBytes: number): void {
  const chunkCount = Math.ceil(sizeBytes / chunkSizeBytes);
  if (chunkCount <= MAX_INDEX_CHUNKS) return;
  throw new FaultlineError(
    "bad-option",
    `--chunk-size ${chunkSizeBytes} would cut ${path} into ${chunkCount} chunks, and an ` +
      `index has room for ${MAX_INDEX_CHUNKS}: choose larger ones.`,
  );
}

function assertFits(parent: StoredImage, options: PackOptions): void {
  const { index, name } = parent;
  if (parent.store.location !== options.store.location) {
    throw new FaultlineError(
      "bad-option",
      `The parent ${name} is in ${parent.store.location}, the new image would be in ` +
        `${options.store.location}: images that share chunks must be in one store.`,
    );
  }
  if (index.digest === options.digest) return;
  throw new FaultlineError(
    "bad-option",
    `--digest ${options.digest} does not fit: the chunks of the parent ${name} are called by ` +
      `${index.digest}, so none could be shared. Leave the option out.`,
  );
}

function readState(path: string): Uint8Array {
  let bytes: Uint8Array;
  try {
    bytes = readFileSync(path);
  } catch (cause) {
    const message = `The state file ${path} cannot be read. Give one that this user may read`;
    throw new FaultlineError("memory-missing", message, { cause });
  }
  if (bytes.length > 0 && bytes.length <= MAX_STATE_BYTES) return bytes;
  throw new FaultlineError(
    "bad-option",
    `--state ${path} has ${bytes.length} bytes: a VMM's state has 1 to ${MAX_STATE_BYTES}. Is it ` +
      "the memory file?",
  );
}

async function publish(
  options: PackOptions,
  sizeBytes: number,
  ids: readonly ChunkId[],
  state: Uint8Array | null,
): Promise<void> {
  const { store, name, parent, chunkSizeBytes, digest, signal } = options;
  const index = encodeIndex(fixedIndex(digest, sizeBytes, chunkSizeBytes, ids));
  const info: Omit<ImageInfo, "version"> = {
    indexSha256: sha256(index),
    created: new Date().toISOString(),
    memorySizeBytes: sizeBytes,
    pageSizeBytes: SMALL_PAGE_BYTES,
    chunkSizeBytes,
    digest,
    ...(parent === null ? {} : { parent: parent.name }),
    ...(state === null ? {} : { state: { sizeBytes: state.length, sha256: sha256(state) } }),
  };
  if (state !== null) await store.write(stateObjectName(name), state, signal);
  await store.write(infoObjectName(name), encodeImageInfo(info), signal);
  if (parent !== null) await inheritWorkingSet(options, parent, sizeBytes, info.indexSha256);
  await assertUnused(store, name, signal);
  await store.write(indexObjectName(name), index, signal);
}

/** The same guest needs much the same pages; what has changed is learnt by the next restores. */
async function inheritWorkingSet(
  { store, name, signal }: PackOptions,
  parent: StoredImage,
  sizeBytes: number,
  indexSha256: string,
): Promise<void> {
  const found = await readWorkingSet(parent, signal);
  if (found.kind !== "found" || found.set.sizeBytes !== sizeBytes) return;
  const child = { store, name, indexSha256, index: { sizeBytes } };
  await imageWorkingSet(child).write(found.set, signal);
}
