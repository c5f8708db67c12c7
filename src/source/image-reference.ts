/**
 * How users name stores and images. One place reads it, so that every command means the same:
 *
 * ```
 *   store   PATH | dir:PATH
 *   image   NAME | dir:PATH/NAME        NAME alone: in the store of --store or FAULTLINE_STORE
 * ```
 *
 * A new kind of store is a new entry in `kinds`.
 */
import { FaultlineError } from "../base/errors.ts";
import { DirectoryStore } from "./directory-store.ts";
import type { ObjectStore } from "./object-store.ts";

export const STORE_VARIABLE = "FAULTLINE_STORE";

/** Not `.` first (hidden, or a folder), nothing that a URL or a shell would change. */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/;
const NAME_RULE = "letters, digits, `.`, `_` and `-`, at most 128, and no `.` or `-` in front";

export interface ImageReference {
  /** As `openStore` takes it; null: the default store. */
  readonly store: string | null;
  readonly name: string;
}

export interface OpenOptions {
  /** Make an empty store if there is none. */
  readonly create?: boolean;
}

type Open = (reference: string, options: OpenOptions) => ObjectStore;

/** Each kind of store by the prefix of its references. */
const kinds: Readonly<Record<string, Open>> = {
  "dir:": (reference, options) => DirectoryStore.open(reference.slice("dir:".length), options),
};

/** Two letters at least: `C:` and the like are nobody's store, but stay paths. */
const PREFIX = /^[a-z][a-z0-9]+:/;

/** @throws FaultlineError `bad-option`, and what opening throws */
export function openStore(reference: string, options: OpenOptions = {}): ObjectStore {
  const prefix = PREFIX.exec(reference)?.[0] ?? "dir:";
  const open = kinds[prefix];
  if (reference === "" || reference === prefix || open === undefined) {
    throw new FaultlineError(
      "bad-option",
      `${reference === "" ? "An empty store" : `The store ${reference}`} cannot be used: give a ` +
        `folder, or one of ${Object.keys(kinds).join(", ")} followed by its place.`,
    );
  }
  return open(PREFIX.test(reference) ? reference : `dir:${reference}`, options);
}

/** @throws FaultlineError `bad-option` */
export function parseImageReference(text: string): ImageReference {
  const placeAt = PREFIX.exec(text)?.[0].length ?? 0;
  const slash = placeAt > 0 ? text.lastIndexOf("/") : -1;
  const name = text.slice(slash + 1);
  if ((placeAt > 0 && slash < placeAt) || !NAME.test(name)) {
    throw new FaultlineError(
      "bad-option",
      `${text === "" ? "An empty name" : text} names no image: give NAME or dir:PATH/NAME, where ` +
        `NAME has ${NAME_RULE}.`,
    );
  }
  // `dir:/NAME` lies in the root folder.
  const store = placeAt > 0 ? text.slice(0, Math.max(slash, placeAt + 1)) : null;
  return { store, name };
}

/** The store of a reference without one: that of `--store`, else of the environment. */
export function defaultStore(option: string | undefined): string {
  const store = option ?? process.env[STORE_VARIABLE];
  if (store !== undefined && store !== "") return store;
  throw new FaultlineError(
    "bad-option",
    `No store is named: give --store DIR, set ${STORE_VARIABLE}, or write dir:PATH/NAME.`,
  );
}
