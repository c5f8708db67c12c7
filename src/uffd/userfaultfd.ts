/**
 * A userfaultfd and the operations that are legal on it. See userfaultfd(2), ioctl_userfaultfd(2).
 *
 * Resolving operations return an outcome instead of throwing: a page that is there already, a
 * VM that died, events that must be read first are everyday results. Only what can be nothing but a
 * mistake of the caller (EINVAL, EBADF) throws a `SysError`.
 */
import { assert } from "../base/assert.ts";
import type { Outcome } from "../base/outcome.ts";
import { SMALL_PAGE_BYTES } from "../base/units.ts";
import {
  EAGAIN,
  EBUSY,
  EEXIST,
  EFAULT,
  EINTR,
  ENOENT,
  ENOMEM,
  ENOSPC,
  ESRCH,
} from "../linux/abi-posix.ts";
import * as abi from "../linux/abi-userfaultfd.ts";
import { describeFd, type OwnedFd } from "../linux/fd.ts";
import { readS64, readU64, writeU64 } from "../linux/layout.ts";
import * as sys from "../linux/sys.ts";
import { type CreateOptions, createUserfaultfd, negotiateApi } from "./create.ts";
import { eventStream } from "./event-stream.ts";
import type { EventBatch, UffdEvent } from "./events.ts";
import { featureBits, featureNames, type UffdFeature } from "./features.ts";

export type RegisterMode = "missing" | "minor" | "writeProtect";
export type PageOperation =
  | "wake"
  | "copy"
  | "zeropage"
  | "move"
  | "writeProtect"
  | "continue"
  | "poison";

export interface UserfaultfdOptions extends CreateOptions {
  readonly features?: Iterable<UffdFeature>;
}

/** Don't wake the waiters of the range: a later `wake()` does. */
export interface WakeOption {
  readonly dontWake?: boolean;
}

// One argument structure per thread serves every call: ioctls are synchronous. Keeping it at a
// fixed address, and the flags as plain numbers, is what lets a fault pass without allocation.
const argument = new sys.Scratch(40);
const words = argument.words;
const argumentAddress = argument.address;

const registerModeBits: Readonly<Record<RegisterMode, number>> = {
  missing: abi.UFFDIO_REGISTER_MODE_MISSING,
  writeProtect: abi.UFFDIO_REGISTER_MODE_WP,
  minor: abi.UFFDIO_REGISTER_MODE_MINOR,
};

const operationBits: readonly (readonly [PageOperation, number])[] = [
  ["wake", abi._UFFDIO_WAKE],
  ["copy", abi._UFFDIO_COPY],
  ["zeropage", abi._UFFDIO_ZEROPAGE],
  ["move", abi._UFFDIO_MOVE],
  ["writeProtect", abi._UFFDIO_WRITEPROTECT],
  ["continue", abi._UFFDIO_CONTINUE],
  ["poison", abi._UFFDIO_POISON],
];

export class Userfaultfd {
  readonly #owned: OwnedFd;
  readonly #beforeClose = new Set<() => void>();
  /** Bytes done by the last operation that returned `installed` or `partial`. */
  doneBytes = 0;

  private constructor(owned: OwnedFd) {
    this.#owned = owned;
  }

  /**
   * Creates a descriptor and negotiates `features`.
   * @throws FaultlineError `no-userfaultfd` (access), `unsupported` (a feature)
   */
  static create(options: UserfaultfdOptions = {}): Userfaultfd {
    const owned = createUserfaultfd(options);
    try {
      negotiateApi(owned.fd, featureBits(options.features ?? []));
      return new Userfaultfd(owned);
    } catch (error) {
      owned.close();
      throw error;
    }
  }

  /** Takes over a descriptor on which UFFDIO_API was done, as received from a VMM. */
  static fromFd(owned: OwnedFd): Userfaultfd {
    const kind = describeFd(owned.fd);
    assert(kind === "anon_inode:[userfaultfd]", `fd ${owned.fd} is ${kind}, not a userfaultfd`);
    return new Userfaultfd(owned);
  }

  /** Every feature this kernel has, found out with a descriptor of its own. */
  static supportedFeatures(options: CreateOptions = {}): Set<UffdFeature> {
    using probe = createUserfaultfd(options);
    return featureNames(negotiateApi(probe.fd, 0));
  }

  get fd(): number {
    return this.#owned.fd;
  }

  /**
   * Registers a page-aligned range of the process that created the descriptor. Any holder may do
   * it. Returns the operations that the kernel offers on the range. See UFFDIO_REGISTER.
   */
  register(start: number, lengthBytes: number, modes: readonly RegisterMode[]): Set<PageOperation> {
    let mode = 0;
    for (const name of modes) mode |= registerModeBits[name];
    const at = abi.uffdio_register.offset;
    setRange(start, lengthBytes);
    writeU64(words, at.mode, mode);
    this.#control(abi.UFFDIO_REGISTER, "UFFDIO_REGISTER");
    const offered = readU64(words, at.ioctls);
    return new Set(operationBits.filter(([, bit]) => (offered & (1 << bit)) !== 0).map(([n]) => n));
  }

  /** Later touches get zero pages from the kernel, without an event. See UFFDIO_UNREGISTER. */
  unregister(start: number, lengthBytes: number): void {
    setRange(start, lengthBytes);
    this.#control(abi.UFFDIO_UNREGISTER, "UFFDIO_UNREGISTER");
  }

  /** Wakes every waiter in the range, resolved or not. See UFFDIO_WAKE. */
  wake(start: number, lengthBytes: number): void {
    setRange(start, lengthBytes);
    this.#control(abi.UFFDIO_WAKE, "UFFDIO_WAKE");
  }

  /**
   * Installs pages with the bytes at `source`, an address in this process that need not be aligned.
   * `mode`: UFFDIO_COPY_MODE_* bits. See UFFDIO_COPY.
   */
  copy(target: number, source: number, lengthBytes: number, mode = 0): Outcome {
    const at = abi.uffdio_copy.offset;
    writeU64(words, at.dst, target);
    writeU64(words, at.src, source);
    writeU64(words, at.len, lengthBytes);
    writeU64(words, at.mode, mode);
    return this.#resolve(abi.UFFDIO_COPY, at.copy, lengthBytes);
  }

  /** Installs zero pages; not on hugetlb (EINVAL). See UFFDIO_ZEROPAGE. */
  zeropage(start: number, lengthBytes: number, options?: WakeOption): Outcome {
    const at = abi.uffdio_zeropage.offset;
    setRange(start, lengthBytes);
    writeU64(words, at.mode, options?.dontWake === true ? abi.UFFDIO_ZEROPAGE_MODE_DONTWAKE : 0);
    return this.#resolve(abi.UFFDIO_ZEROPAGE, at.zeropage, lengthBytes);
  }

  /** Maps pages that are in the page cache already (memfd, hugetlb). See UFFDIO_CONTINUE. */
  continue(start: number, lengthBytes: number, options?: WakeOption): Outcome {
    const at = abi.uffdio_continue.offset;
    setRange(start, lengthBytes);
    writeU64(words, at.mode, options?.dontWake === true ? abi.UFFDIO_CONTINUE_MODE_DONTWAKE : 0);
    return this.#resolve(abi.UFFDIO_CONTINUE, at.mapped, lengthBytes);
  }

  /** Makes the range raise SIGBUS when touched (Linux ≥ 6.6). See UFFDIO_POISON. */
  poison(start: number, lengthBytes: number, options?: WakeOption): Outcome {
    const at = abi.uffdio_poison.offset;
    setRange(start, lengthBytes);
    writeU64(words, at.mode, options?.dontWake === true ? abi.UFFDIO_POISON_MODE_DONTWAKE : 0);
    return this.#resolve(abi.UFFDIO_POISON, at.updated, lengthBytes);
  }

  /**
   * Moves private pages inside the process that created the descriptor, which must be the caller
   * (EINVAL otherwise). Linux ≥ 6.8. See UFFDIO_MOVE.
   */
  move(
    target: number,
    source: number,
    lengthBytes: number,
    options?: WakeOption & { readonly allowSourceHoles?: boolean },
  ): Outcome {
    const at = abi.uffdio_move.offset;
    const holes = options?.allowSourceHoles === true ? abi.UFFDIO_MOVE_MODE_ALLOW_SRC_HOLES : 0;
    const wake = options?.dontWake === true ? abi.UFFDIO_MOVE_MODE_DONTWAKE : 0;
    writeU64(words, at.dst, target);
    writeU64(words, at.src, source);
    writeU64(words, at.len, lengthBytes);
    writeU64(words, at.mode, holes | wake);
    return this.#resolve(abi.UFFDIO_MOVE, at.move, lengthBytes);
  }

  /**
   * Protects a range from writes, or lifts the protection, which wakes. See UFFDIO_WRITEPROTECT.
   */
  writeProtect(
    start: number,
    lengthBytes: number,
    isProtected: boolean,
    options?: WakeOption,
  ): Outcome {
    // The kernel refuses DONTWAKE together with WP: protecting wakes nobody anyway.
    const wake = options?.dontWake === true ? abi.UFFDIO_WRITEPROTECT_MODE_DONTWAKE : 0;
    setRange(start, lengthBytes);
    const mode = isProtected ? abi.UFFDIO_WRITEPROTECT_MODE_WP : wake;
    writeU64(words, abi.uffdio_writeprotect.offset.mode, mode);
    return this.#resolve(abi.UFFDIO_WRITEPROTECT, -1, lengthBytes);
  }

  /**
   * Reads what is pending, up to the batch's capacity, without blocking. Returns how many messages
   * came. Several faults may name one page; treat messages as hints, never count them.
   */
  drain(batch: EventBatch): number {
    const count = sys.read(this.#owned.fd, batch.words, batch.capacity * abi.uffd_msg.size);
    if (count === -1) {
      batch.length = 0;
      if (sys.errno() === EAGAIN || sys.errno() === EINTR) return 0;
      throw sys.sysError("read(userfaultfd)");
    }
    batch.length = count / abi.uffd_msg.size;
    return batch.length;
  }

  /**
   * Events as they come, on Node's event loop and without blocking it. Ends when `signal` aborts or
   * the descriptor is closed. Nothing tells of the death of the watched process: watch a pidfd too.
   * Addresses are rounded down to `pageSizeBytes`, by default 4 KiB. One stream at a time.
   */
  events(signal?: AbortSignal, pageSizeBytes = SMALL_PAGE_BYTES): AsyncGenerator<UffdEvent, void> {
    return eventStream(this, signal, pageSizeBytes, this.#beforeClose);
  }

  get isOpen(): boolean {
    return this.#owned.isOpen;
  }

  /** Gives the descriptor to a new owner. */
  intoRawFd(): number {
    this.#endStreams();
    return this.#owned.intoRawFd();
  }

  /** If nobody else holds the userfaultfd, all waiters wake and read ZERO pages. */
  close(): void {
    this.#endStreams();
    this.#owned.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }

  #endStreams(): void {
    for (const end of this.#beforeClose) end();
  }

  #control(request: number, name: string): void {
    if (sys.ioctl(this.#owned.fd, request, argumentAddress) === -1) {
      throw sys.sysError(`ioctl(${name})`);
    }
  }

  /**
   * `resultOffset`: where the kernel writes the bytes done; -1 if the operation has no such field.
   */
  #resolve(request: number, resultOffset: number, lengthBytes: number): Outcome {
    // Kernels before 6.15 leave the field untouched when events are pending: never read old values.
    if (resultOffset >= 0) writeU64(words, resultOffset, 0);
    if (sys.ioctl(this.#owned.fd, request, argumentAddress) === 0) {
      this.doneBytes = lengthBytes;
      return "installed";
    }
    this.doneBytes = 0;
    const errno = sys.errno();
    switch (errno) {
      case EAGAIN: {
        const done = resultOffset < 0 ? 0 : readS64(words, resultOffset);
        if (done <= 0) return "deferred";
        this.doneBytes = done;
        return "partial";
      }
      case EEXIST:
        return "alreadyPresent";
      case EINTR:
        return "deferred";
      case ENOENT:
        return "unregistered";
      case EFAULT:
        return "badSource";
      case ESRCH:
      case ENOSPC: // How 4.11 to 4.13 said ESRCH.
        return "gone";
      case ENOMEM:
        return "outOfMemory";
      case EBUSY:
        return "busy";
      default:
        throw sys.sysError(`ioctl(${request.toString(16)})`);
    }
  }
}

function setRange(start: number, lengthBytes: number): void {
  writeU64(words, 0, start);
  writeU64(words, 8, lengthBytes);
}
