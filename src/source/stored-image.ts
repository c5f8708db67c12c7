/** An image as a store has it: its index and its companion, found by name. */
import { createHash } from "node:crypto";
import { FaultlineError } from "../base/errors.ts";
import { decodeIndex } from "../snapshot/caibx.ts";
import type { ImageIndex } from "../snapshot/image-index.ts";
import { decodeImageInfo, type ImageInfo } from "../snapshot/image-info.ts";
import type { ObjectStore } from "./object-store.ts";

export const INDEX_EXTENSION = ".caibx";
export const WORKING_SET_EXTENSION = ".workingset";
/** Damage on the way is rare, and not the same twice. */
const READ_ATTEMPTS = 3;

export interface StoredImage {
  readonly store: ObjectStore;
  readonly name: string;
  readonly index: ImageIndex;
  /** Of the index as it is stored: who the image is. */
  readonly indexSha256: string;
  /** Null for an image that casync or desync made. */
  readonly info: ImageInfo | null;
}

export const indexObjectName = (image: string): string => `${image}${INDEX_EXTENSION}`;
export const infoObjectName = (image: string): string => `${image}.json`;
export const stateObjectName = (image: string): string => `${image}.state`;
export const workingSetObjectName = (image: string): string => `${image}${WORKING_SET_EXTENSION}`;

/** An image, and the objects that describe it, byte by byte. */
export interface ImageFiles {
  readonly image: StoredImage;
  readonly indexBytes: Uint8Array;
  /** Null if `image.info` is. */
  readonly infoBytes: Uint8Array | null;
}

/** @throws FaultlineError `image-missing`, `image-corrupt`, and what the store throws */
export async function openImage(
  store: ObjectStore,
  name: string,
  signal: AbortSignal,
): Promise<StoredImage> {
  return (await readImageFiles(store, name, signal)).image;
}

/** @throws FaultlineError `image-missing`, `image-corrupt`, and what the store throws */
export async function readImageFiles(
  store: ObjectStore,
  name: string,
  signal: AbortSignal,
): Promise<ImageFiles> {
  const files = await findImageFiles(store, name, signal);
  if (files !== null) return files;
  throw new FaultlineError(
    "image-missing",
    `There is no image ${name} in ${store.location} (no ${indexObjectName(name)}). ` +
      "`faultline image ls` lists what is there.",
  );
}

/**
 * Whatever is damaged, or does not belong together, is read again: it may have been so on the way.
 * @throws FaultlineError `image-corrupt`, and what the store throws
 */
export async function findImageFiles(
  store: ObjectStore,
  name: string,
  signal: AbortSignal,
): Promise<ImageFiles | null> {
  for (let attempt = 1; ; attempt++) {
    const isLast = attempt === READ_ATTEMPTS;
    try {
      const files = await readOnce(store, name, signal);
      // Somebody replaced one of the two, for good: a companion of another index is none.
      if (files?.infoBytes == null || files.image.info !== null) return files;
      if (isLast) return { ...files, infoBytes: null };
    } catch (error) {
      if (isLast || !(error instanceof FaultlineError && error.code === "image-corrupt"))
        throw error;
    }
  }
}

/** With a companion of another index, `infoBytes` alone is not null. */
async function readOnce(
  store: ObjectStore,
  name: string,
  signal: AbortSignal,
): Promise<ImageFiles | null> {
  const indexBytes = await store.read(indexObjectName(name), signal);
  if (indexBytes === null) return null;
  // Before more is asked for: it may be damaged.
  const index = indexOf(store, name, indexBytes);
  const infoBytes = await store.read(infoObjectName(name), signal);
  return { image: imageOf(store, name, index, indexBytes, infoBytes), indexBytes, infoBytes };
}

/**
 * An image from objects that were read from its store before.
 * @throws FaultlineError `image-corrupt`
 */
export function decodeImageFiles(
  store: ObjectStore,
  name: string,
  indexBytes: Uint8Array,
  infoBytes: Uint8Array | null,
): ImageFiles {
  const index = indexOf(store, name, indexBytes);
  return { image: imageOf(store, name, index, indexBytes, infoBytes), indexBytes, infoBytes };
}

function indexOf(store: ObjectStore, name: string, bytes: Uint8Array): ImageIndex {
  return decodeIndex(bytes, `${indexObjectName(name)} in ${store.location}`);
}

function imageOf(
  store: ObjectStore,
  name: string,
  index: ImageIndex,
  indexBytes: Uint8Array,
  infoBytes: Uint8Array | null,
): StoredImage {
  const image = { store, name, index, indexSha256: sha256(indexBytes) };
  if (infoBytes === null) return { ...image, info: null };
  const described = decodeImageInfo(infoBytes, `${infoObjectName(name)} in ${store.location}`);
  return { ...image, info: described.indexSha256 === image.indexSha256 ? described : null };
}

/** The names of the images of a store, in order. */
export async function imageNames(store: ObjectStore, signal: AbortSignal): Promise<string[]> {
  const names: string[] = [];
  for await (const { name } of store.list("", signal, "folder")) {
    if (name.endsWith(INDEX_EXTENSION) && !name.includes("/")) {
      names.push(name.slice(0, -INDEX_EXTENSION.length));
    }
  }
  return names.sort();
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
