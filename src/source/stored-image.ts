/** An image as a store has it: its index and its companion, found by name. */
import { createHash } from "node:crypto";
import { FaultlineError } from "../base/errors.ts";
import { decodeIndex } from "../snapshot/caibx.ts";
import type { ImageIndex } from "../snapshot/image-index.ts";
import { decodeImageInfo, type ImageInfo } from "../snapshot/image-info.ts";
import type { ObjectStore } from "./object-store.ts";

const INDEX_EXTENSION = ".caibx";

export interface StoredImage {
  readonly store: ObjectStore;
  readonly name: string;
  readonly index: ImageIndex;
  /** Null for an image that casync or desync made. */
  readonly info: ImageInfo | null;
}

export const indexObjectName = (image: string): string => `${image}${INDEX_EXTENSION}`;
export const infoObjectName = (image: string): string => `${image}.json`;
export const stateObjectName = (image: string): string => `${image}.state`;

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

/** @throws FaultlineError `image-corrupt`, and what the store throws */
export async function findImageFiles(
  store: ObjectStore,
  name: string,
  signal: AbortSignal,
): Promise<ImageFiles | null> {
  const indexName = indexObjectName(name);
  const indexBytes = await store.read(indexName, signal);
  if (indexBytes === null) return null;
  const index = decodeIndex(indexBytes, `${indexName} in ${store.location}`);
  const { info, infoBytes } = await readInfo(store, name, indexBytes, signal);
  return { image: { store, name, index, info }, indexBytes, infoBytes };
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

/** A companion of another index (somebody replaced one of the two) says nothing about this one. */
async function readInfo(
  store: ObjectStore,
  name: string,
  indexBytes: Uint8Array,
  signal: AbortSignal,
): Promise<{ readonly info: ImageInfo | null; readonly infoBytes: Uint8Array | null }> {
  const bytes = await store.read(infoObjectName(name), signal);
  if (bytes !== null) {
    const info = decodeImageInfo(bytes, `${infoObjectName(name)} in ${store.location}`);
    if (info.indexSha256 === sha256(indexBytes)) return { info, infoBytes: bytes };
  }
  return { info: null, infoBytes: null };
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
