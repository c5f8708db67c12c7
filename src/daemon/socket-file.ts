/**
 * The socket file that VMMs connect to: created with the right mode from the start, taken over from
 * a dead server but never from a live one, removed at the end if it is still ours.
 */
import { chmodSync, chownSync, lstatSync, type Stats, unlinkSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { FaultlineError, SysError } from "../base/errors.ts";
import { EAGAIN, ECONNREFUSED, ENOENT } from "../linux/abi-posix.ts";
import type { OwnedFd } from "../linux/fd.ts";
import { tryLock } from "../linux/file.ts";
import { assertSocketPath, connectUnix, listenUnix } from "../linux/socket.ts";
import { SocketFolder, withOwnSocket } from "./socket-folder.ts";

export interface SocketOwner {
  readonly uid: number;
  readonly gid: number;
}

export interface SocketOptions {
  /** Null: this user. */
  readonly owner?: SocketOwner | null;
  /** Default: 0600. */
  readonly mode?: number;
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
  /** The path without symbolic links. */
  readonly #realPath: string;
  readonly #inode: number;

  private constructor(path: string, listener: OwnedFd, folder: SocketFolder | null) {
    this.path = path;
    this.listener = listener;
    this.#realPath = join(folder?.realPath ?? dirname(path), basename(path));
    this.#inode = folder === null ? NO_INODE : (statOrNull(folder.pathOf(path))?.ino ?? NO_INODE);
  }

  /**
   * Binds with mode 0600 and listens.
   * @throws FaultlineError `socket-path`, `socket-in-use`, `socket-failed`
   */
  static listen(path: string, backlog: number, options: SocketOptions = {}): SocketFile {
    assertIsFilePath(path);
    using folder = SocketFolder.of(path);
    waitForLock(folder.fd, path);
    removeStale(path, path);
    const listener = bindPrivately(path, path, backlog);
    return new SocketFile(path, listener, folder).#hand(folder, options);
  }

  /**
   * The same where others have rights too: `path` is known to be without symbolic links, and leads
   * there still or to a refusal. Nobody's lock is waited for.
   */
  static listenAmongOthers(path: string, backlog: number, options: SocketOptions = {}): SocketFile {
    assertIsFilePath(path);
    assertSocketPath(path);
    using folder = SocketFolder.of(path);
    if (folder.realPath !== dirname(path)) {
      throw new FaultlineError(
        "socket-path",
        `The folder ${dirname(path)} of the socket has become ${folder.realPath} while it was ` +
          "looked at. Try again.",
      );
    }
    removeStale(folder.pathOf(path), path);
    const listener = bindPrivately(folder.pathOf(path), path, backlog);
    return new SocketFile(path, listener, folder).#hand(folder, options);
  }

  /** One that an earlier process of ours has bound, by its real path. Its file may be gone. */
  static adopt(path: string, listener: OwnedFd): SocketFile {
    using folder = SocketFolder.ofReal(path);
    return new SocketFile(path, listener, folder);
  }

  /** Stops listening and removes the file, unless somebody has replaced it. */
  close(): void {
    this.listener.close();
    using folder = SocketFolder.ofReal(this.#realPath);
    if (folder === null) return;
    const own = folder.pathOf(this.#realPath);
    if (statOrNull(own)?.ino === this.#inode) unlinkSync(own);
  }

  /** To those who may connect. The mode first: of what is another's, it cannot be changed. */
  #hand(folder: SocketFolder, { owner, mode }: SocketOptions): this {
    if (owner == null && mode === undefined) return this;
    try {
      withOwnSocket(folder.pathOf(this.path), (own) => {
        if (mode !== undefined) chmodSync(own, mode);
        if (owner != null) chownSync(own, owner.uid, owner.gid);
      });
    } catch (cause) {
      this.close();
      const what = owner == null ? "given its mode" : `given to ${owner.uid}:${owner.gid}`;
      throw new FaultlineError(
        "socket-failed",
        `The socket ${this.path} cannot be ${what}. Only root may give files away, and who has ` +
          "CAP_CHOWN",
        { cause },
      );
    }
    return this;
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

/** `named` is the same file in words of the user's. */
function removeStale(path: string, named: string): void {
  const stats = statOrNull(path);
  if (stats === null) return;
  if (!stats.isSocket()) {
    throw new FaultlineError(
      "socket-in-use",
      `${named} exists and is no socket. Choose another path, or remove it yourself.`,
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
      throw new FaultlineError("socket-failed", `The socket ${named} cannot be taken over`, {
        cause: error,
      });
    }
  }
  throw new FaultlineError(
    "socket-in-use",
    `Another process serves on ${named}. Stop it, or choose another path.`,
  );
}

function bindPrivately(path: string, named: string, backlog: number): OwnedFd {
  const umask = process.umask(PRIVATE_UMASK);
  try {
    return listenUnix(path, backlog);
  } catch (cause) {
    if (cause instanceof FaultlineError && cause.code === "socket-path") throw cause;
    throw new FaultlineError("socket-failed", `The socket ${named} cannot be created`, { cause });
  } finally {
    process.umask(umask);
  }
}

function statOrNull(path: string): Stats | null {
  return lstatSync(path, { throwIfNoEntry: false }) ?? null;
}
