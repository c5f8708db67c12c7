/**
 * A store in a folder of a local (or mounted) file system.
 *
 * An object gets its name when its bytes are on disk (staging.ts), so that a kill or a power cut at
 * any moment leaves each object whole or absent. Names that begin with a dot are not objects.
 */
import { closeSync, mkdirSync, openSync, statSync, unlinkSync, utimesSync } from "node:fs";
import { opendir, readFile, rm, stat } from "node:fs/promises";
import { join, resolve } from "node:path";
import { FaultlineError, SysError } from "../base/errors.ts";
import type { CollectableStore } from "./collectable-store.ts";
import { checkObjectName, isObjectName } from "./object-name.ts";
import type { ListDepth, StoredObject } from "./object-store.ts";
import { clearStaging, Staging, withStoreLock } from "./staging.ts";

/** What refresh and removeOlder do in one go, others waiting: some milliseconds. */
const NAMES_PER_LOCK = 1024;

/** A folder is no object, nor has a file any below it. The last one is what rm() of Node says. */
const MISSING = ["ENOENT", "ENOTDIR", "EISDIR", "ERR_FS_EISDIR"];

export interface FolderOptions {
  /** Make the folder if there is none, to write to it. */
  readonly create?: boolean;
  /** Whether it is there is told by the first request only. */
  readonly isUnchecked?: boolean;
}

export class DirectoryStore implements CollectableStore {
  readonly path: string;
  readonly location: string;
  #staging: Promise<Staging> | null = null;

  private constructor(path: string) {
    this.path = path;
    this.location = `dir:${path}`;
  }

  /**
   * @throws FaultlineError `store-failed`, `store-refused`
   */
  static open(path: string, options: FolderOptions = {}): DirectoryStore {
    const store = new DirectoryStore(resolve(path));
    if (options.isUnchecked === true) return store;
    store.#try("", () => {
      if (options.create === true) mkdirSync(store.path, { recursive: true });
      closeSync(openSync(`${store.path}/.`, "r"));
    });
    return store;
  }

  /**
   * Where an object lies, for those who can read files.
   * @throws FaultlineError `store-refused`
   */
  pathOf(name: string): string {
    checkObjectName(this.location, name);
    return join(this.path, name);
  }

  async read(name: string, signal: AbortSignal): Promise<Uint8Array | null> {
    const read = (): Promise<Uint8Array> => readFile(this.pathOf(name), { signal });
    return await this.#unlessMissing(name, signal, read, null);
  }

  async exists(name: string, signal: AbortSignal): Promise<boolean> {
    const isFile = async (): Promise<boolean> => (await stat(this.pathOf(name))).isFile();
    return await this.#unlessMissing(name, signal, isFile, false);
  }

  async write(name: string, bytes: Uint8Array, signal: AbortSignal): Promise<void> {
    signal.throwIfAborted();
    this.pathOf(name);
    const staging = await this.staging(signal);
    this.#try(name, () => staging.commitOne(bytes, name));
  }

  async *list(
    prefix: string,
    signal: AbortSignal,
    depth: ListDepth = "all",
  ): AsyncIterable<StoredObject> {
    const folder = prefix.slice(0, prefix.lastIndexOf("/") + 1);
    // What could lie outside is nobody's object.
    if (folder !== "" && !isObjectName(folder.slice(0, -1))) return;
    for await (const object of this.#walk(folder, signal, depth === "all")) {
      if (object.name.startsWith(prefix)) yield object;
    }
  }

  async remove(name: string, signal: AbortSignal): Promise<void> {
    await this.#unlessMissing(name, signal, () => rm(this.pathOf(name)), undefined);
  }

  async refresh(names: readonly string[], signal: AbortSignal): Promise<string[]> {
    const now = new Date();
    return await this.#eachLocked(names, signal, (path) => {
      return !this.#isThere(() => utimesSync(path, now, now));
    });
  }

  async removeOlder(
    names: readonly string[],
    thanMs: number,
    signal: AbortSignal,
  ): Promise<string[]> {
    return await this.#eachLocked(names, signal, (path) => {
      const isOlder = this.#isThere(() => statSync(path).mtimeMs < thanMs);
      return isOlder && this.#isThere(() => unlinkSync(path));
    });
  }

  async removeLeftovers(signal: AbortSignal): Promise<void> {
    await this.#tryAsync(signal, () => clearStaging(this.path, signal));
  }

  /** This process's folder for objects in the making. */
  async staging(signal: AbortSignal): Promise<Staging> {
    this.#staging ??= this.#tryAsync(signal, () => Staging.open(this.path, signal));
    const opening = this.#staging;
    try {
      return await opening;
    } catch (error) {
      // The next writer tries again: this one may only have been aborted.
      if (this.#staging === opening) this.#staging = null;
      throw error;
    }
  }

  async close(): Promise<void> {
    const staging = this.#staging;
    this.#staging = null;
    // One that could not be opened has told so already.
    (await staging?.catch(() => null))?.close();
  }

  /** What a failed file operation means to the user of a store. */
  errorFor(name: string, error: unknown): unknown {
    if (error instanceof FaultlineError && !(error instanceof SysError)) return error;
    const code =
      error instanceof SysError ? error.errnoName : (error as NodeJS.ErrnoException).code;
    if (code === undefined) return error;
    const what = name === "" ? this.location : `${name} in ${this.location}`;
    if (code === "EACCES" || code === "EPERM" || code === "EROFS") {
      const message = `${what} is not allowed for this user: check the rights of the folder`;
      return new FaultlineError("store-refused", message, { cause: error });
    }
    const cure = cures[code] ?? "check the folder and its disk";
    const message = `${what} cannot be read or written: ${cure}`;
    return new FaultlineError("store-failed", message, { cause: error });
  }

  async *#walk(folder: string, signal: AbortSignal, isDeep: boolean): AsyncIterable<StoredObject> {
    signal.throwIfAborted();
    const open = (): ReturnType<typeof opendir> => opendir(join(this.path, folder));
    const entries = await this.#unlessMissing(folder, signal, open, null);
    if (entries === null) return;
    const folders: string[] = [];
    for await (const entry of entries) {
      if (entry.name.startsWith(".")) continue;
      const name = `${folder}${entry.name}`;
      if (entry.isDirectory()) {
        if (isDeep) folders.push(`${name}/`);
        continue;
      }
      // A file that is removed meanwhile is not there.
      const found = await this.#unlessMissing(
        name,
        signal,
        () => stat(join(this.path, name)),
        null,
      );
      if (found?.isFile()) yield { name, sizeBytes: found.size, modifiedMs: found.mtimeMs };
    }
    for (const name of folders) yield* this.#walk(name, signal, isDeep);
  }

  /** The names for which `action` is true. */
  async #eachLocked(
    names: readonly string[],
    signal: AbortSignal,
    action: (path: string) => boolean,
  ): Promise<string[]> {
    const chosen: string[] = [];
    for (let from = 0; from < names.length; from += NAMES_PER_LOCK) {
      signal.throwIfAborted();
      const some = names.slice(from, from + NAMES_PER_LOCK);
      await this.#tryAsync(signal, () =>
        withStoreLock(this.path, signal, () => {
          for (const name of some) if (action(this.pathOf(name))) chosen.push(name);
        }),
      );
    }
    return chosen;
  }

  #isThere(action: () => unknown): boolean {
    try {
      return action() !== false;
    } catch (error) {
      if (isMissing(error)) return false;
      throw error;
    }
  }

  async #unlessMissing<Result, Instead>(
    name: string,
    signal: AbortSignal,
    action: () => Promise<Result>,
    instead: Instead,
  ): Promise<Result | Instead> {
    signal.throwIfAborted();
    try {
      return await action();
    } catch (error) {
      // Node's own error of an abort has lost the reason.
      signal.throwIfAborted();
      if (isMissing(error)) return instead;
      throw this.errorFor(name, error);
    }
  }

  #try<Result>(name: string, action: () => Result): Result {
    try {
      return action();
    } catch (error) {
      throw this.errorFor(name, error);
    }
  }

  async #tryAsync<Result>(signal: AbortSignal, action: () => Promise<Result>): Promise<Result> {
    try {
      return await action();
    } catch (error) {
      signal.throwIfAborted();
      throw this.errorFor("", error);
    }
  }
}

const cures: Readonly<Record<string, string>> = {
  ENOSPC: "make room on its disk",
  EDQUOT: "raise the quota of its disk, or make room",
  ENOENT: "create the folder first, or check the path",
  EEXIST: "a file is where its folder should be",
  ENOTDIR: "a part of the path is no folder",
  EMFILE: "raise the limit of open files (ulimit -n)",
  EXDEV: "keep the whole store on one file system",
};

function isMissing(error: unknown): boolean {
  const { code = "" } = error as NodeJS.ErrnoException;
  return MISSING.includes(code);
}
