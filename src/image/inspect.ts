/** What an image consists of, and what it shares with the others of its store. */
import { FaultlineError } from "../base/errors.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import { countNeeded, USUAL_NEED } from "../base/working-set.ts";
import { CHUNK_TREE, type ChunkId, chunkOfObjectName, type Digest } from "../snapshot/chunk-id.ts";
import type { ChunkSizes, ImageIndex } from "../snapshot/image-index.ts";
import { ZeroChunks } from "../source/chunk-codec.ts";
import type { ObjectStore } from "../source/object-store.ts";
import { imageNames, openImage, type StoredImage } from "../source/stored-image.ts";
import { readWorkingSet, type WorkingSetFinding } from "../source/working-set-place.ts";
import { type UniqueChunk, uniqueChunks } from "./read-chunks.ts";

export interface InspectReport {
  readonly name: string;
  readonly store: string;
  readonly memorySizeBytes: number;
  readonly digest: Digest;
  readonly chunkSizes: ChunkSizes;
  readonly chunks: number;
  readonly zeroChunks: number;
  readonly zeroBytes: number;
  /** Different chunks that are not zero. */
  readonly uniqueChunks: number;
  readonly uniqueBytes: number;
  /** What only a store that can be listed can tell. */
  readonly inStore: StoreShare | { readonly unknown: string };
  readonly created: string | null;
  readonly parent: string | null;
  readonly stateBytes: number | null;
  /** Null: no restore has left one yet. */
  readonly workingSet: WorkingSetSummary | { readonly unusable: string } | null;
}

export interface WorkingSetSummary {
  readonly restores: number;
  readonly pages: number;
  readonly bytes: number;
  /** Of these, what at least three of four restores need. */
  readonly usualPages: number;
  readonly usualBytes: number;
  /** What it takes in the store. */
  readonly storedBytes: number;
}

export interface StoreShare {
  /** What the different chunks take in the store. */
  readonly storedBytes: number;
  /** Of these chunks, what other images of the store use too. */
  readonly sharedChunks: number;
  readonly sharedBytes: number;
  /** Chunks that the store lacks. */
  readonly missingChunks: number;
}

export async function inspectImage(
  image: StoredImage,
  signal: AbortSignal,
): Promise<InspectReport> {
  const { store, name, index, info } = image;
  const zero = countZeroes(index);
  const unique = uniqueChunks(image, false);
  return {
    name,
    store: store.location,
    memorySizeBytes: index.sizeBytes,
    digest: index.digest,
    chunkSizes: index.chunkSizes,
    chunks: index.chunkCount,
    zeroChunks: zero.chunks,
    zeroBytes: zero.bytes,
    uniqueChunks: unique.length,
    uniqueBytes: unique.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0),
    inStore: await shareOf(image, unique, signal),
    created: info?.created ?? null,
    parent: info?.parent ?? null,
    stateBytes: info?.state?.sizeBytes ?? null,
    workingSet: summarize(await readWorkingSet(image, signal)),
  };
}

function summarize(found: WorkingSetFinding): InspectReport["workingSet"] {
  if (found.kind === "none") return null;
  if (found.kind !== "found") return { unusable: found.reason };
  const pages = found.set.pages.length;
  const usualPages = countNeeded(found.set, USUAL_NEED);
  return {
    restores: found.set.restores,
    pages,
    bytes: pages * SMALL_PAGE_BYTES,
    usualPages,
    usualBytes: usualPages * SMALL_PAGE_BYTES,
    storedBytes: found.bytes.length,
  };
}

async function shareOf(
  { store, name }: StoredImage,
  unique: readonly UniqueChunk[],
  signal: AbortSignal,
): Promise<InspectReport["inStore"]> {
  let sizes: ReadonlyMap<ChunkId, number>;
  let elsewhere: ReadonlySet<ChunkId>;
  try {
    sizes = await storedSizes(store, signal);
    elsewhere = await chunksOfOthers(store, name, signal);
  } catch (error) {
    // A web server has no list, and not every user of a bucket may see it.
    if (!(error instanceof FaultlineError) || error.code !== "store-refused") throw error;
    return { unknown: error.message };
  }
  let [storedBytes, sharedBytes, sharedChunks, missingChunks] = [0, 0, 0, 0];
  for (const { id, sizeBytes } of unique) {
    const stored = sizes.get(id);
    storedBytes += stored ?? 0;
    if (stored === undefined) missingChunks++;
    if (!elsewhere.has(id)) continue;
    sharedChunks++;
    sharedBytes += sizeBytes;
  }
  return { storedBytes, sharedChunks, sharedBytes, missingChunks };
}

export interface ListedImage {
  readonly name: string;
  readonly memorySizeBytes: number;
  readonly chunks: number;
  readonly created: string | null;
  readonly parent: string | null;
  /** What is wrong with its index or companion; the numbers are then 0. */
  readonly damage: string | null;
}

/** Every image of a store; a damaged one does not hide the others. */
export async function listImages(store: ObjectStore, signal: AbortSignal): Promise<ListedImage[]> {
  const images: ListedImage[] = [];
  for (const name of await imageNames(store, signal)) {
    images.push(await describeImage(store, name, signal));
  }
  return images;
}

async function describeImage(
  store: ObjectStore,
  name: string,
  signal: AbortSignal,
): Promise<ListedImage> {
  try {
    const { index, info } = await openImage(store, name, signal);
    return {
      name,
      memorySizeBytes: index.sizeBytes,
      chunks: index.chunkCount,
      created: info?.created ?? null,
      parent: info?.parent ?? null,
      damage: null,
    };
  } catch (error) {
    if (!(error instanceof FaultlineError) || error.code !== "image-corrupt") throw error;
    const damage = error.message;
    return { name, memorySizeBytes: 0, chunks: 0, created: null, parent: null, damage };
  }
}

function countZeroes(index: ImageIndex): { readonly chunks: number; readonly bytes: number } {
  const zeroes = new ZeroChunks(index);
  let chunks = 0;
  let bytes = 0;
  for (let chunk = 0; chunk < index.chunkCount; chunk++) {
    if (!zeroes.has(chunk)) continue;
    chunks++;
    bytes += index.size(chunk);
  }
  return { chunks, bytes };
}

async function storedSizes(
  store: ObjectStore,
  signal: AbortSignal,
): Promise<ReadonlyMap<ChunkId, number>> {
  const sizes = new Map<ChunkId, number>();
  for await (const { name, sizeBytes } of store.list(`${CHUNK_TREE}/`, signal)) {
    const id = chunkOfObjectName(name);
    if (id !== null) sizes.set(id, sizeBytes);
  }
  return sizes;
}

async function chunksOfOthers(
  store: ObjectStore,
  name: string,
  signal: AbortSignal,
): Promise<ReadonlySet<ChunkId>> {
  const ids = new Set<ChunkId>();
  for (const other of await imageNames(store, signal)) {
    if (other === name) continue;
    const { index } = await openImage(store, other, signal);
    for (let chunk = 0; chunk < index.chunkCount; chunk++) ids.add(index.id(chunk));
  }
  return ids;
}
