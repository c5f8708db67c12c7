/**
 * What requests may name: memory files and stores in the configured folders, the configured stores,
 * sockets in the configured folders. Paths are resolved first, so that neither `..` nor a symbolic
 * link leads out of them.
 */
import { realpathSync } from "node:fs";
import { basename, dirname, isAbsolute, join, resolve, sep } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { parseImageReference, parseStoreReference } from "../source/image-reference.ts";

export interface Places {
  readonly memoryFolders: readonly string[];
  readonly stores: readonly string[];
  readonly socketFolders: readonly string[];
}

/** Memory that a request may have, in the words that open it. */
export interface AllowedMemory {
  /** An absolute path, or `STORE/NAME`. */
  readonly memory: string;
  readonly layers: readonly string[];
}

/** @throws FaultlineError `not-allowed`, `memory-missing`, `bad-request`, `bad-option` */
export function allowedMemory(
  memory: string,
  layers: readonly string[],
  places: Places,
): AllowedMemory {
  if (isAbsolute(memory)) {
    const inside = (path: string): string => allowedFile(path, places.memoryFolders);
    return { memory: inside(memory), layers: layers.map(inside) };
  }
  if (layers.length > 0) {
    throw new FaultlineError(
      "bad-request",
      "layers are files above a memory file, and memory names an image: pack the diff as an " +
        "image of its own.",
    );
  }
  return { memory: allowedImage(memory, places), layers };
}

/**
 * The folder, resolved, and the name of a socket to be.
 * @throws FaultlineError `not-allowed`, `socket-path`
 */
export function allowedSocket(path: string, folders: readonly string[]): string {
  if (!isAbsolute(path)) {
    throw new FaultlineError("bad-request", `socketPath ${path} is not an absolute path.`);
  }
  const name = basename(path);
  if (path.endsWith("/") || name === "." || name === "..") {
    throw new FaultlineError("bad-request", `socketPath ${path} names a folder, not a file in it.`);
  }
  let folder: string;
  try {
    folder = realpathSync(dirname(path));
  } catch (cause) {
    throw new FaultlineError(
      "socket-path",
      `The folder ${dirname(path)} of the socket cannot be opened. Create it first`,
      { cause },
    );
  }
  if (isWithin(folder, folders)) return join(folder, name);
  throw notAllowed(`socketPath ${path}`, "socketFolders", folders);
}

function allowedFile(path: string, folders: readonly string[]): string {
  if (!isAbsolute(path)) {
    throw new FaultlineError("bad-request", `The layer ${path} is not an absolute path.`);
  }
  // Before anything is said of the file: whether it exists is nobody's business out there.
  if (!isWithin(resolve(path), folders)) throw notAllowed(path, "memoryFolders", folders);
  let real: string;
  try {
    real = realpathSync(path);
  } catch (cause) {
    throw new FaultlineError("memory-missing", `The memory file ${path} cannot be opened`, {
      cause,
    });
  }
  if (isWithin(real, folders)) return real;
  throw notAllowed(`${path}, which leads to ${real},`, "memoryFolders", folders);
}

function allowedImage(text: string, places: Places): string {
  const { store, name } = parseImageReference(text);
  const [first] = places.stores;
  if (store === null) {
    if (first !== undefined) return imageIn(first, name);
    throw notAllowed(`The image ${name} without a place`, "stores", places.stores);
  }
  const wanted = parseStoreReference(store);
  if (places.stores.some((known) => isSamePlace(known, store))) return imageIn(store, name);
  if (wanted.kind !== "directory") throw notAllowed(`The store ${store}`, "stores", places.stores);
  return imageIn(allowedFile(resolve(wanted.path), places.memoryFolders), name);
}

function imageIn(store: string, name: string): string {
  const place = parseStoreReference(store);
  return place.kind === "directory" ? `dir:${resolve(place.path)}/${name}` : `${store}/${name}`;
}

function isSamePlace(one: string, other: string): boolean {
  const canonical = (text: string): string => {
    const place = parseStoreReference(text);
    return place.kind === "directory" ? resolve(place.path) : text.replace(/\/+$/, "");
  };
  return canonical(one) === canonical(other);
}

/** `path` is one of `folders`, or lies in one; these may be symbolic links themselves. */
function isWithin(path: string, folders: readonly string[]): boolean {
  return folders.some((folder) =>
    [folder, realOrSame(folder)].some(
      (root) => path === root || path.startsWith(root.endsWith(sep) ? root : root + sep),
    ),
  );
}

function realOrSame(folder: string): string {
  try {
    return realpathSync(folder);
  } catch {
    return folder;
  }
}

function notAllowed(what: string, setting: string, list: readonly string[]): FaultlineError {
  const known = list.length === 0 ? "none" : list.join(", ");
  return new FaultlineError(
    "not-allowed",
    `${what} lies in none of the daemon's ${setting} (${known}). Add its place there.`,
  );
}
