/** File descriptors with exactly one owner. */
import { readlinkSync } from "node:fs";
import { assert } from "../base/assert.ts";
import { F_DUPFD_CLOEXEC, F_GETFL, F_SETFD, F_SETFL, FD_CLOEXEC, O_NONBLOCK } from "./abi-posix.ts";
import * as sys from "./sys.ts";

/** Owns a descriptor: closes it once, or hands it over with `intoRawFd()`. */
export class OwnedFd {
  #fd: number;

  constructor(fd: number) {
    assert(Number.isInteger(fd) && fd >= 0, `not a file descriptor: ${fd}`);
    this.#fd = fd;
  }

  get fd(): number {
    assert(this.#fd >= 0, "file descriptor used after close");
    return this.#fd;
  }

  get isOpen(): boolean {
    return this.#fd >= 0;
  }

  /** Gives the descriptor to a new owner; this object is closed from then on. */
  intoRawFd(): number {
    const fd = this.fd;
    this.#fd = -1;
    return fd;
  }

  close(): void {
    if (this.#fd < 0) return;
    // A close that fails has closed all the same on Linux (close(2)): retrying would hit a
    // stranger.
    sys.close(this.#fd);
    this.#fd = -1;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** What the kernel calls the thing behind a descriptor: a path, or `anon_inode:[userfaultfd]`. */
export function describeFd(fd: number): string {
  try {
    return readlinkSync(`/proc/self/fd/${fd}`);
  } catch {
    return "a closed descriptor";
  }
}

export function isNonblocking(fd: number): boolean {
  return (sys.check(sys.fcntl(fd, F_GETFL, 0), "fcntl(F_GETFL)") & O_NONBLOCK) !== 0;
}

/** Sets O_NONBLOCK on the open file description, so on every duplicate of it too. */
export function setNonblocking(fd: number): void {
  const flags = sys.check(sys.fcntl(fd, F_GETFL, 0), "fcntl(F_GETFL)");
  sys.check(sys.fcntl(fd, F_SETFL, flags | O_NONBLOCK), "fcntl(F_SETFL)");
}

/** For a descriptor that was inherited: programs that are started from here do not get it. */
export function setCloseOnExec(fd: number): void {
  sys.check(sys.fcntl(fd, F_SETFD, FD_CLOEXEC), "fcntl(F_SETFD)", `descriptor ${fd}`);
}

export function duplicateFd(fd: number): OwnedFd {
  return new OwnedFd(sys.check(sys.fcntl(fd, F_DUPFD_CLOEXEC, 0), "fcntl(F_DUPFD_CLOEXEC)"));
}

/**
 * Makes sure that this process can open `count` more descriptors; `fd` is any open one.
 * @throws SysError EMFILE or ENFILE
 */
export function assertFreeFds(fd: number, count: number): void {
  const taken: OwnedFd[] = [];
  try {
    while (taken.length < count) taken.push(duplicateFd(fd));
  } finally {
    for (const duplicate of taken) duplicate.close();
  }
}
