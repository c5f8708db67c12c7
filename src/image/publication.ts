/**
 * The objects that make a copied image: its state, its companion, its working set, and last its
 * index. All are read and checked before the first chunk is copied, so that hours of copying do not
 * end in a refusal.
 *
 * A working set is the one thing about an image that changes: if there is one on both sides, the
 * one that was learnt from more restores stays. One that is damaged is left out.
 */
import { FaultlineError } from "../base/errors.ts";
import type { ObjectStore } from "../source/object-store.ts";
import {
  findImageFiles,
  type ImageFiles,
  indexObjectName,
  infoObjectName,
  sha256,
  stateObjectName,
  workingSetObjectName,
} from "../source/stored-image.ts";
import { readWorkingSet, type WorkingSetFinding } from "../source/working-set-place.ts";

/** `kept`: the one that was there is from as many restores, or more. */
export type WorkingSetTransfer =
  | { readonly kind: "none" | "copied" | "kept" }
  | { readonly kind: "leftOut"; readonly reason: string };

interface Companions {
  readonly state: Uint8Array | null;
  readonly workingSet: WorkingSetFinding;
}

export class Publication {
  readonly #files: ImageFiles;
  readonly #state: Uint8Array | null;
  readonly #workingSet: WorkingSetFinding;
  readonly #to: ObjectStore;
  readonly #signal: AbortSignal;

  private constructor(
    files: ImageFiles,
    companions: Companions,
    to: ObjectStore,
    signal: AbortSignal,
  ) {
    this.#files = files;
    this.#state = companions.state;
    this.#workingSet = companions.workingSet;
    this.#to = to;
    this.#signal = signal;
  }

  /** @throws FaultlineError `bad-option`: another image of this name is there; `image-corrupt` */
  static async prepare(
    files: ImageFiles,
    to: ObjectStore,
    signal: AbortSignal,
  ): Promise<Publication> {
    const state = await readState(files, signal);
    const workingSet = await readWorkingSet(files.image, signal);
    const publication = new Publication(files, { state, workingSet }, to, signal);
    await publication.#findThere();
    return publication;
  }

  /** Only when every chunk is there. Tells what became of the working set. */
  async publish(): Promise<WorkingSetTransfer> {
    const { image, infoBytes, indexBytes } = this.#files;
    const { name } = image;
    const stateName = stateObjectName(name);
    const there = await this.#findThere();
    const isThere = there !== null;
    // Of an image that is there, only what is missing is written: somebody may be reading it.
    if (this.#state !== null && !(isThere && (await this.#to.exists(stateName, this.#signal)))) {
      await this.#to.write(stateName, this.#state, this.#signal);
    }
    if (infoBytes !== null && (there?.infoBytes ?? null) === null) {
      await this.#to.write(infoObjectName(name), infoBytes, this.#signal);
    }
    const workingSet = await this.#publishWorkingSet();
    if (!isThere) await this.#to.write(indexObjectName(name), indexBytes, this.#signal);
    return workingSet;
  }

  async #publishWorkingSet(): Promise<WorkingSetTransfer> {
    const ours = this.#workingSet;
    if (ours.kind === "none") return { kind: "none" };
    if (ours.kind !== "found") return { kind: "leftOut", reason: ours.reason };
    const { image } = this.#files;
    const theirs = await readWorkingSet({ ...image, store: this.#to }, this.#signal);
    const isKnown = theirs.kind === "found" && theirs.set.restores >= ours.set.restores;
    if (isKnown) return { kind: "kept" };
    await this.#to.write(workingSetObjectName(image.name), ours.bytes, this.#signal);
    return { kind: "copied" };
  }

  /** The image as it is there: null, or the same one. */
  async #findThere(): Promise<ImageFiles | null> {
    const { image, indexBytes, infoBytes } = this.#files;
    const there = await findImageFiles(this.#to, image.name, this.#signal);
    if (there === null) return null;
    const isSameInfo =
      infoBytes === null || there.infoBytes === null || isEqual(infoBytes, there.infoBytes);
    if (isSameInfo && isEqual(indexBytes, there.indexBytes)) return there;
    throw new FaultlineError(
      "bad-option",
      `There is another image ${image.name} in ${this.#to.location} already, and images never ` +
        `change: remove ${indexObjectName(image.name)} there first, or copy to another place.`,
    );
  }
}

/** The VMM's state, as the companion promises it; null if there is none. */
async function readState({ image }: ImageFiles, signal: AbortSignal): Promise<Uint8Array | null> {
  const { store, name, info } = image;
  if (info?.state === undefined) return null;
  const wanted = info.state;
  const objectName = stateObjectName(name);
  const isWhole = (bytes: Uint8Array | null): boolean =>
    bytes?.length === wanted.sizeBytes && sha256(bytes) === wanted.sha256;
  let bytes = await store.read(objectName, signal);
  if (!isWhole(bytes)) {
    bytes = await (store.refetch ?? store.read).call(store, objectName, signal);
  }
  if (isWhole(bytes)) return bytes;
  const failure = bytes === null ? "is missing" : "does not match its digest";
  throw new FaultlineError(
    "image-corrupt",
    `The VMM's state of ${name}, ${objectName} in ${store.location}, ${failure}. Restore it, or ` +
      "pack the snapshot again.",
  );
}

function isEqual(left: Uint8Array, right: Uint8Array): boolean {
  return Buffer.compare(left, right) === 0;
}
