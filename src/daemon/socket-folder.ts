/**
 * The folder of a socket, held by a descriptor: whatever is done to the names in it is done in the
 * folder that was looked at, even if somebody with rights above it moves things about meanwhile.
 *
 * A VMM's user may own the jail that its socket is in. Between a look at the folder's path and a
 * bind(2) by that path he could replace the folder by a symbolic link, and have a socket created,
 * given to him, or a file removed, wherever this daemon may.
 */
import { closeSync, constants, fstatSync, openSync, readlinkSync } from "node:fs";
import { basename, dirname } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { O_PATH } from "../linux/abi-posix.ts";

const DIRECTORY = constants.O_RDONLY | constants.O_DIRECTORY;

export class SocketFolder {
  readonly fd: number;
  /** Where it is, without symbolic links. */
  readonly realPath: string;

  /** @throws the error of open(2) */
  constructor(path: string) {
    this.fd = openSync(path, DIRECTORY);
    this.realPath = readlinkSync(`/proc/self/fd/${this.fd}`);
  }

  /** @throws FaultlineError `socket-path` */
  static of(socketPath: string): SocketFolder {
    const folder = dirname(socketPath);
    try {
      return new SocketFolder(folder);
    } catch (cause) {
      throw new FaultlineError(
        "socket-path",
        `The folder ${folder} of the socket cannot be opened. Create it: mkdir -p ${folder}`,
        { cause },
      );
    }
  }

  /** Of a path without symbolic links: null if it leads somewhere else by now, or nowhere. */
  static ofReal(socketPath: string): SocketFolder | null {
    try {
      const folder = new SocketFolder(dirname(socketPath));
      if (folder.realPath === dirname(socketPath)) return folder;
      folder[Symbol.dispose]();
      return null;
    } catch {
      return null;
    }
  }

  /** A path to a name in it, for this process only. */
  pathOf(name: string): string {
    return `/proc/self/fd/${this.fd}/${basename(name)}`;
  }

  [Symbol.dispose](): void {
    closeSync(this.fd);
  }
}

/**
 * Does something to a socket file by a path that means it alone, even if its name is given to
 * something else meanwhile. A file that is no socket of ours is not touched: chown(2) by name could
 * give away what the owner of the folder has moved there.
 * @throws Error it is not ours (any more), or what `work` throws
 */
export function withOwnSocket(path: string, work: (path: string) => void): void {
  const fd = openSync(path, O_PATH | constants.O_NOFOLLOW);
  try {
    const { uid, nlink, mode } = fstatSync(fd);
    const isSocket = (mode & constants.S_IFMT) === constants.S_IFSOCK;
    if (!isSocket || nlink !== 1 || uid !== process.geteuid?.()) {
      throw new Error("somebody has replaced it meanwhile");
    }
    work(`/proc/self/fd/${fd}`);
  } finally {
    closeSync(fd);
  }
}
