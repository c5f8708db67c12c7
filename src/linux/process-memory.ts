/**
 * The memory of another process, read from outside. Which of its pages are there is told by
 * /proc/PID/pagemap; bytes come by process_vm_readv(2), which waits for a page that is missing
 * under userfaultfd, so callers make sure that there is none.
 */
import { closeSync, openSync, readSync } from "node:fs";
import { FaultlineError, SysError } from "../base/errors.ts";
import { formatHex, SMALL_PAGE_BYTES } from "../base/units.ts";
import { EPERM, ESRCH, iovec } from "./abi-posix.ts";
import { writeU64 } from "./layout.ts";
import * as sys from "./sys.ts";

/** An entry of pagemap: 8 bytes, of which the last holds what we ask. See proc_pid_pagemap(5). */
const ENTRY_BYTES = 8;
const FLAGS_BYTE = 7;
const PRESENT = 0x80;
const SWAPPED = 0x40;
const ENTRIES_AT_ONCE = 8192;

/** Which pages a process has: mapped now, or swapped out. */
export class PagePresence {
  readonly #pid: number;
  readonly #pagemapFd: number;
  #memoryFd = -1;
  readonly #entries = Buffer.alloc(ENTRIES_AT_ONCE * ENTRY_BYTES);
  readonly #byte = Buffer.alloc(1);

  private constructor(pid: number, pagemapFd: number) {
    this.#pid = pid;
    this.#pagemapFd = pagemapFd;
  }

  /** @throws FaultlineError `no-process-access`, `session-file`: it is gone */
  static open(pid: number): PagePresence {
    return new PagePresence(pid, openOf(pid, "pagemap"));
  }

  /**
   * Calls `onPage` for every small page of a range that is present, or swapped out, ascending. What
   * counts as swapped out may also be the mere memory of a protection. Pages of files and shared
   * memory that are only in the page cache are not told.
   */
  forEachPage(
    start: number,
    lengthBytes: number,
    onPage: (address: number, isPresent: boolean) => void,
  ): void {
    const limit = start + lengthBytes;
    for (let from = start; from < limit; ) {
      const wanted = Math.min(ENTRIES_AT_ONCE, (limit - from) / SMALL_PAGE_BYTES) * ENTRY_BYTES;
      const position = (from / SMALL_PAGE_BYTES) * ENTRY_BYTES;
      const count = readSync(this.#pagemapFd, this.#entries, 0, wanted, position);
      // The memory of a process that has ended has no pages.
      if (count < ENTRY_BYTES) throw goneError(this.#pid);
      for (let at = 0; at + ENTRY_BYTES <= count; at += ENTRY_BYTES, from += SMALL_PAGE_BYTES) {
        const flags = this.#entries[at + FLAGS_BYTE]! & (PRESENT | SWAPPED);
        if (flags !== 0) onPage(from, (flags & PRESENT) !== 0);
      }
    }
  }

  /**
   * Whether a page can be read without waiting, though it may not be mapped: reading through
   * /proc/PID/mem fails at a page that is missing under userfaultfd, and raises no fault. It takes
   * more rights than the rest: those of a debugger.
   * @throws FaultlineError as `open`
   */
  isReadable(address: number): boolean {
    return this.tryRead(address, this.#byte);
  }

  /** Fills `target`, in the same way; false: some of it is missing. */
  tryRead(address: number, target: Uint8Array): boolean {
    if (this.#memoryFd === -1) this.#memoryFd = openOf(this.#pid, "mem");
    try {
      return readSync(this.#memoryFd, target, 0, target.length, address) === target.length;
    } catch {
      return false;
    }
  }

  [Symbol.dispose](): void {
    closeSync(this.#pagemapFd);
    if (this.#memoryFd !== -1) closeSync(this.#memoryFd);
  }
}

const local = new sys.Scratch(iovec.size);
const remote = new sys.Scratch(iovec.size);

/**
 * Fills `target` with the bytes at `address` of another process. See process_vm_readv(2).
 * @throws FaultlineError `no-process-access`, `session-file`: it is gone; SysError EFAULT
 */
export function readProcess(pid: number, target: Uint8Array, address: number): void {
  const base = sys.addressOf(target);
  for (let done = 0; done < target.length; ) {
    setVector(local, base + done, target.length - done);
    setVector(remote, address + done, target.length - done);
    const count = sys.process_vm_readv(pid, local.address, 1, remote.address, 1, 0);
    if (count <= 0) throw readError(pid, address + done);
    done += count;
  }
}

function setVector(vector: sys.Scratch, base: number, lengthBytes: number): void {
  writeU64(vector.words, iovec.offset.iov_base, base);
  writeU64(vector.words, iovec.offset.iov_len, lengthBytes);
}

function readError(pid: number, address: number): FaultlineError {
  const error = sys.sysError("process_vm_readv", `at ${formatHex(address)} of process ${pid}`);
  if (error.errno === ESRCH) return goneError(pid);
  if (error.errno === EPERM) return deniedError(pid, error);
  return error;
}

function openOf(pid: number, name: "pagemap" | "mem"): number {
  try {
    return openSync(`/proc/${pid}/${name}`, "r");
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException;
    if (code === "EACCES" || code === "EPERM") throw deniedError(pid, cause);
    if (code === "ENOENT" || code === "ESRCH") throw goneError(pid);
    throw new SysError("open", 0, code ?? "unknown", `/proc/${pid}/${name}`);
  }
}

function deniedError(pid: number, cause: unknown): FaultlineError {
  return new FaultlineError(
    "no-process-access",
    `The memory of process ${pid} may not be read. Run as the user of the VMM, if that may trace ` +
      "its own processes (kernel.yama.ptrace_scope=0), or with CAP_SYS_PTRACE",
    { cause },
  );
}

function goneError(pid: number): FaultlineError {
  return new FaultlineError("session-file", `Process ${pid} has no memory any more: it has ended.`);
}
