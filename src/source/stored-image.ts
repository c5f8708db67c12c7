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

/** @throws FaultlineError `image-missing`, `image-corrupt`, and what the store throws */
export async function openImage(
  store: ObjectStore,
  name: string,
  signal: AbortSignal,
): Promise<StoredImage> {
  const indexName = indexObjectName(name);
  const bytes = await store.read(indexName, signal);
  if (bytes === null) {
    throw new FaultlineError(
      "image-missing",
      `There is no image ${name} in ${store.location} (no ${indexName}). ` +
        "`faultline image ls` lists what is there.",
    );
  }
  const index = decodeIndex(bytes, `${indexName} in ${store.location}`);
  return { store, name, index, info: await readInfo(store, name, bytes, signal) };
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
): Promise<ImageInfo | null> {
  const bytes = await store.read(infoObjectName(name), signal);
  if (bytes === null) return null;
  const info = decodeImageInfo(bytes, `${infoObjectName(name)} in ${store.location}`);
  return info.indexSha256 === sha256(indexBytes) ? info : null;
}

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}
