/**
 * Removes the chunks of a store that no index needs: mark and sweep. So too the working sets of
 * images that are not there any more: a server may write one after its image was removed.
 *
 * Why it is safe beside a pack: a chunk is removed only if no index names it AND it is older than
 * `minAgeMs`. A pack makes all its chunks young just before it writes its index, those too that it
 * found in the store. Refreshing and removing exclude each other, so a pack either finds that a
 * chunk is gone, and fails, or has made it too young to be removed. A pack may take as long as it
 * likes; only the moment between its refresh and its index must be shorter than `minAgeMs`.
 */
import { decodeIndex } from "../snapshot/caibx.ts";
import { CHUNK_TREE, type ChunkId, chunkOfObjectName } from "../snapshot/chunk-id.ts";
import type { CollectableStore } from "../source/collectable-store.ts";
import type { StoredObject } from "../source/object-store.ts";
import { INDEX_EXTENSION, WORKING_SET_EXTENSION } from "../source/stored-image.ts";

/** casync's indexes of files and of directory trees: both may share a store with images. */
const INDEX_EXTENSIONS = [INDEX_EXTENSION, ".caidx"];
/** What is removed before anybody is told. */
const SWEEP_AT_ONCE = 4096;

export interface GcOptions {
  /** What is younger stays, whatever the indexes say. */
  readonly minAgeMs: number;
  readonly dryRun: boolean;
  readonly signal: AbortSignal;
}

export interface GcReport {
  readonly store: string;
  readonly indexes: number;
  readonly usedChunks: number;
  /** Removed, or what would be. */
  readonly removedChunks: number;
  readonly removedBytes: number;
  /** Of images that are not there. */
  readonly removedWorkingSets: number;
  /** Unused, but too young. */
  readonly spared: number;
  readonly dryRun: boolean;
}

/** @throws FaultlineError `image-corrupt`: with one index unreadable, nothing is removed */
export async function collectGarbage(
  store: CollectableStore,
  { minAgeMs, dryRun, signal }: GcOptions,
): Promise<GcReport> {
  const thanMs = Date.now() - minAgeMs;
  const { used, indexes, orphans } = await markUsed(store, signal);
  const sweep = new Sweep(store, thanMs, dryRun, signal);
  let usedChunks = 0;
  let spared = 0;
  for await (const object of store.list(`${CHUNK_TREE}/`, signal)) {
    const id = chunkOfObjectName(object.name);
    if (id === null) continue;
    if (used.has(id)) usedChunks++;
    else if (object.modifiedMs >= thanMs) spared++;
    else await sweep.add(object);
  }
  await sweep.finish();
  const { removedCount, removedBytes } = sweep;
  const sets = new Sweep(store, thanMs, dryRun, signal);
  for (const set of orphans) if (set.modifiedMs < thanMs) await sets.add(set);
  await sets.finish();
  if (!dryRun) await store.removeLeftovers(signal);
  return {
    store: store.location,
    indexes,
    usedChunks,
    removedChunks: removedCount,
    removedBytes,
    removedWorkingSets: sets.removedCount,
    spared,
    dryRun,
  };
}

interface Marked {
  readonly used: ReadonlySet<ChunkId>;
  readonly indexes: number;
  /** Working sets without an image. */
  readonly orphans: readonly StoredObject[];
}

async function markUsed(store: CollectableStore, signal: AbortSignal): Promise<Marked> {
  const used = new Set<ChunkId>();
  const images = new Set<string>();
  const sets: StoredObject[] = [];
  let indexes = 0;
  for await (const object of store.list("", signal, "folder")) {
    const { name } = object;
    if (name.includes("/")) continue;
    if (name.endsWith(WORKING_SET_EXTENSION)) sets.push(object);
    if (!INDEX_EXTENSIONS.some((end) => name.endsWith(end))) continue;
    const bytes = await store.read(name, signal);
    if (bytes === null) continue; // Removed meanwhile.
    const index = decodeIndex(bytes, `${name} in ${store.location}`);
    for (let chunk = 0; chunk < index.chunkCount; chunk++) used.add(index.id(chunk));
    if (name.endsWith(INDEX_EXTENSION)) images.add(name.slice(0, -INDEX_EXTENSION.length));
    indexes++;
  }
  const isOrphan = ({ name }: StoredObject): boolean =>
    !images.has(name.slice(0, -WORKING_SET_EXTENSION.length));
  return { used, indexes, orphans: sets.filter(isOrphan) };
}

class Sweep {
  removedCount = 0;
  removedBytes = 0;
  readonly #store: CollectableStore;
  readonly #thanMs: number;
  readonly #dryRun: boolean;
  readonly #signal: AbortSignal;
  readonly #found = new Map<string, number>();

  constructor(store: CollectableStore, thanMs: number, dryRun: boolean, signal: AbortSignal) {
    this.#store = store;
    this.#thanMs = thanMs;
    this.#dryRun = dryRun;
    this.#signal = signal;
  }

  async add({ name, sizeBytes }: StoredObject): Promise<void> {
    this.#found.set(name, sizeBytes);
    if (this.#found.size >= SWEEP_AT_ONCE) await this.finish();
  }

  async finish(): Promise<void> {
    if (this.#found.size === 0) return;
    const names = [...this.#found.keys()];
    const removed = this.#dryRun
      ? names
      : await this.#store.removeOlder(names, this.#thanMs, this.#signal);
    this.removedCount += removed.length;
    for (const name of removed) this.removedBytes += this.#found.get(name)!;
    this.#found.clear();
  }
}
