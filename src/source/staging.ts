/**
 * Where a directory store's objects are written before they get their names. Each writer has its
 * own folder, and holds its lock for as long as it lives: what lies in a folder that nobody has
 * locked was left by a writer that died, and the next writer removes it.
 *
 * ```
 *   ROOT/.staging/lock          taken for moments: to open and clear folders, to refresh and remove
 *   ROOT/.staging/PID-ab12/lock taken by its writer
 *   ROOT/.staging/PID-ab12/…    objects without a name yet
 * ```
 *
 * The locks are flock(2)'s on files: the kernel frees them at any death, and NFS knows them too.
 */
import { randomBytes } from "node:crypto";
import {
  closeSync,
  existsSync,
  fsyncSync,
  mkdirSync,
  openSync,
  readdirSync,
  renameSync,
  rmSync,
  writeSync,
} from "node:fs";
import { dirname, join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { FaultlineError } from "../base/errors.ts";
import { syncFileSystem, tryLock } from "../linux/file.ts";

const STAGING = ".staging";
const LOCK = "lock";
/** Nobody holds the store's lock for longer than some thousand file operations take. */
const LOCK_TIMEOUT_MS = 30_000;
const LOCK_POLL_MS = 5;

/** A file that is written, and what it shall be called below the store's root. */
export interface StagedObject {
  readonly path: string;
  readonly name: string;
}

export class Staging {
  readonly folder: string;
  readonly #root: string;
  readonly #lockFd: number;
  #isOpen = true;
  #nextName = 1;

  private constructor(root: string, folder: string, lockFd: number) {
    this.#root = root;
    this.folder = folder;
    this.#lockFd = lockFd;
  }

  /** A folder for this writer; clears those of the dead. */
  static async open(root: string, signal: AbortSignal): Promise<Staging> {
    mkdirSync(join(root, STAGING), { recursive: true });
    return await withStoreLock(root, signal, () => {
      clearUnlocked(root);
      const folder = join(root, STAGING, `${process.pid}-${randomBytes(4).toString("hex")}`);
      mkdirSync(folder);
      const lockFd = openSync(join(folder, LOCK), "wx+");
      tryLock(lockFd);
      return new Staging(root, folder, lockFd);
    });
  }

  /** A path in the folder that nothing has yet. */
  newPath(): string {
    return join(this.folder, String(this.#nextName++));
  }

  /** Makes one object durable, and gives it its name. */
  commitOne(bytes: Uint8Array, name: string): void {
    const path = this.newPath();
    const fd = openSync(path, "wx");
    try {
      writeWhole(fd, bytes);
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    this.#rename({ path, name });
    syncFolders(this.#root, dirname(join(this.#root, name)));
  }

  /**
   * Makes many objects durable with one flush, and then gives them their names: a name never stands
   * for less than the whole object, whenever the power fails. The names are durable after `flush`.
   */
  async commitMany(objects: readonly StagedObject[]): Promise<void> {
    if (objects.length === 0) return;
    await this.flush();
    for (const object of objects) this.#rename(object);
  }

  async flush(): Promise<void> {
    await syncFileSystem(this.#lockFd);
  }

  #rename({ path, name }: StagedObject): void {
    const target = join(this.#root, name);
    try {
      renameSync(path, target);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ENOENT") throw error;
      mkdirSync(dirname(target), { recursive: true });
      renameSync(path, target);
    }
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    rmSync(this.folder, { recursive: true, force: true });
    closeSync(this.#lockFd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** Clears the folders of writers that have died. */
export async function clearStaging(root: string, signal: AbortSignal): Promise<void> {
  if (!existsSync(join(root, STAGING))) return;
  await withStoreLock(root, signal, () => clearUnlocked(root));
}

/** Runs `action` while nobody else does so on this store. It must be short, and not wait. */
export async function withStoreLock<Result>(
  root: string,
  signal: AbortSignal,
  action: () => Result,
): Promise<Result> {
  mkdirSync(join(root, STAGING), { recursive: true });
  const fd = openSync(join(root, STAGING, LOCK), "a+");
  try {
    const deadline = performance.now() + LOCK_TIMEOUT_MS;
    while (!tryLock(fd)) {
      if (performance.now() > deadline) throw lockedTooLong(root);
      await delay(LOCK_POLL_MS, undefined, { signal });
    }
    return action();
  } finally {
    closeSync(fd);
  }
}

/** Writes all of it: a file system that is nearly full takes a part first. */
export function writeWhole(fd: number, bytes: Uint8Array, position?: number): void {
  for (let done = 0; done < bytes.length; ) {
    const at = position === undefined ? null : position + done;
    done += writeSync(fd, bytes, done, bytes.length - done, at);
  }
}

/** The caller holds the store's lock: a folder is never seen before its writer has locked it. */
function clearUnlocked(root: string): void {
  const staging = join(root, STAGING);
  for (const name of readdirSync(staging)) {
    if (name === LOCK) continue;
    const folder = join(staging, name);
    if (!isLocked(join(folder, LOCK))) rmSync(folder, { recursive: true, force: true });
  }
}

function isLocked(path: string): boolean {
  let fd: number;
  try {
    fd = openSync(path, "r+");
  } catch {
    return false; // Its writer died before it could lock, or while it cleared up.
  }
  try {
    return !tryLock(fd);
  } finally {
    closeSync(fd);
  }
}

/** A new name is durable when its folder is; a new folder, when the one above it is. */
function syncFolders(root: string, folder: string): void {
  for (let path = folder; ; path = dirname(path)) {
    const fd = openSync(path, "r");
    try {
      fsyncSync(fd);
    } finally {
      closeSync(fd);
    }
    if (path === root || path === dirname(path)) return;
  }
}

function lockedTooLong(root: string): FaultlineError {
  return new FaultlineError(
    "store-failed",
    `dir:${root} has been locked for ${LOCK_TIMEOUT_MS / 1000} s. See who holds ` +
      `${join(root, STAGING, LOCK)} (fuser), or try again.`,
  );
}
