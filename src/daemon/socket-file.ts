/**
 * The socket file that VMMs connect to: created with the right mode from the start, taken over from
 * a dead server but never from a live one, removed at the end if it is still ours.
 */
import {
  closeSync,
  constants,
  lchownSync,
  lstatSync,
  openSync,
  type Stats,
  unlinkSync,
} from "node:fs";
import { dirname } from "node:path";
import { FaultlineError, SysError } from "../base/errors.ts";
import { EAGAIN, ECONNREFUSED, ENOENT } from "../linux/abi-posix.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { tryLock } from "../linux/file.ts";
import { connectUnix, listenUnix } from "../linux/socket.ts";

export interface SocketOwner {
  readonly uid: number;
  readonly gid: number;
}

/** The folder's lock is held for a few system calls only: this long means that it is not ours. */
const LOCK_TIMEOUT_MS = 2000;
const LOCK_RETRY_MS = 10;
/** Everyone but the owner is kept out: connecting means handing over a VM's memory. */
const PRIVATE_UMASK = 0o177;
const NO_INODE = -1;

export class SocketFile {
  readonly path: string;
  readonly listener: OwnedFd;
  readonly #inode: number;

  private constructor(path: string, listener: OwnedFd) {
    this.path = path;
    this.listener = listener;
    this.#inode = statOrNull(path)?.ino ?? NO_INODE;
  }

  /**
   * Binds with mode 0600 and listens.
   * @throws FaultlineError `socket-path`, `socket-in-use`, `socket-failed`
   */
  static listen(path: string, backlog: number, owner?: SocketOwner): SocketFile {
    assertIsFilePath(path);
    const folder = openFolder(path);
    try {
      waitForLock(folder, path);
      removeStale(path);
      const listener = bindPrivately(path, backlog);
      const file = new SocketFile(path, listener);
      if (owner !== undefined) file.#giveTo(owner);
      return file;
    } finally {
      closeSync(folder);
    }
  }

  /** One that an earlier process of ours has bound. Its file may be gone. */
  static adopt(path: string, listener: OwnedFd): SocketFile {
    return new SocketFile(path, listener);
  }

  /** Stops listening and removes the file, unless somebody has replaced it. */
  close(): void {
    this.listener.close();
    if (statOrNull(this.path)?.ino === this.#inode) unlinkSync(this.path);
  }

  #giveTo(owner: SocketOwner): void {
    try {
      // Not through a link that somebody with rights in the folder has put there meanwhile.
      lchownSync(this.path, owner.uid, owner.gid);
    } catch (cause) {
      this.close();
      throw new FaultlineError(
        "socket-failed",
        `The socket ${this.path} cannot be given to ${owner.uid}:${owner.gid}; only root may`,
        { cause },
      );
    }
  }
}

/** An abstract name has no file whose mode could keep others out. */
function assertIsFilePath(path: string): void {
  if (path !== "" && !path.startsWith("@")) return;
  throw new FaultlineError(
    "socket-path",
    `The socket path ${JSON.stringify(path)} names no file. Give the path of a file to create.`,
  );
}

/** Two servers that find the same stale socket must not remove each other's: one at a time. */
function openFolder(path: string): number {
  const folder = dirname(path);
  try {
    return openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  } catch (cause) {
    throw new FaultlineError(
      "socket-path",
      `The folder ${folder} of the socket cannot be opened. Create it: mkdir -p ${folder}`,
      { cause },
    );
  }
}

function waitForLock(folder: number, path: string): void {
  const attempts = LOCK_TIMEOUT_MS / LOCK_RETRY_MS;
  const never = new Int32Array(new SharedArrayBuffer(4));
  for (let attempt = 0; attempt < attempts; attempt++) {
    if (tryLock(folder)) return;
    Atomics.wait(never, 0, 0, LOCK_RETRY_MS);
  }
  throw new FaultlineError(
    "socket-failed",
    `The folder ${dirname(path)} has been locked (flock) by another process for ` +
      `${LOCK_TIMEOUT_MS} ms. Choose a folder that is only for sockets.`,
  );
}

function removeStale(path: string): void {
  const stats = statOrNull(path);
  if (stats === null) return;
  if (!stats.isSocket()) {
    throw new FaultlineError(
      "socket-in-use",
      `${path} exists and is no socket. Choose another path, or remove it yourself.`,
    );
  }
  try {
    connectUnix(path, "nonblocking").close();
  } catch (error) {
    if (error instanceof SysError && error.errno === ECONNREFUSED) {
      unlinkSync(path);
      return;
    }
    if (error instanceof SysError && error.errno === ENOENT) return;
    // EAGAIN: somebody listens, and so many are waiting to connect that there is no room for us.
    if (!(error instanceof SysError && error.errno === EAGAIN)) {
      throw new FaultlineError("socket-failed", `The socket ${path} cannot be taken over`, {
        cause: error,
      });
    }
  }
  throw new FaultlineError(
    "socket-in-use",
    `Another process serves on ${path}. Stop it, or choose another path.`,
  );
}

function bindPrivately(path: string, backlog: number): OwnedFd {
  const umask = process.umask(PRIVATE_UMASK);
  try {
    return listenUnix(path, backlog);
  } catch (cause) {
    if (cause instanceof FaultlineError && cause.code === "socket-path") throw cause;
    throw new FaultlineError("socket-failed", `The socket ${path} cannot be created`, { cause });
  } finally {
    process.umask(umask);
  }
}

function statOrNull(path: string): Stats | null {
  return lstatSync(path, { throwIfNoEntry: false }) ?? null;
}
