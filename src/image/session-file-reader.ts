/**
 * A session file (`snapshot/session-file.ts`) as the packer uses it: the VM that it is about still
 * lives, and nothing is recorded in it while it is read.
 */
import { closeSync, fstatSync, openSync, readSync } from "node:fs";
import { FaultlineError } from "../base/errors.ts";
import { bootId, processTimes } from "../linux/process.ts";
import {
  busyOffset,
  decodeSessionHeader,
  type SessionLayout,
  sessionFileBytes,
} from "../snapshot/session-file.ts";

/** The handler records events in microseconds; one that takes longer has died or is stopped. */
const SETTLE_DEADLINE_MS = 2000;
const SETTLE_PAUSE_MS = 1;
/** Two bits for each page of 4 KiB: more than 1 PiB of memory. */
const MAX_FILE_BYTES = 2 ** 36;

export interface Bitmaps {
  readonly written: Buffer;
  readonly removed: Buffer;
}

export class SessionFileReader {
  readonly path: string;
  readonly layout: SessionLayout;
  readonly #fd: number;
  readonly #guestTicks: number;

  private constructor(path: string, fd: number) {
    this.path = path;
    this.#fd = fd;
    const { size } = fstatSync(fd);
    const start = Buffer.alloc(Math.min(size, 2 ** 20));
    readSync(fd, start, 0, start.length, 0);
    this.layout = decodeSessionHeader(start, Math.min(size, MAX_FILE_BYTES), path);
    this.#guestTicks = this.#assertAlive();
  }

  /** @throws FaultlineError `session-file` */
  static open(path: string): SessionFileReader {
    let fd: number;
    try {
      fd = openSync(path, "r");
    } catch (cause) {
      throw new FaultlineError(
        "session-file",
        `The session file ${path} cannot be opened. \`faultline serve --track-dirty FOLDER\` ` +
          "keeps FOLDER/PID.session as long as the VM lives",
        { cause },
      );
    }
    try {
      return new SessionFileReader(path, fd);
    } catch (error) {
      closeSync(fd);
      if (error instanceof FaultlineError) throw error;
      const message = `The session file ${path} cannot be read. Is it a file`;
      throw new FaultlineError("session-file", message, { cause: error });
    }
  }

  /**
   * What is recorded, when all that the handler knows of is.
   * @throws FaultlineError `session-file`: it never is
   */
  async bitmaps(signal: AbortSignal): Promise<Bitmaps> {
    const deadlineMs = performance.now() + SETTLE_DEADLINE_MS;
    for (;;) {
      signal.throwIfAborted();
      const before = this.#busyWord();
      const bitmaps = this.#readBitmaps();
      // Even, and still the same: nothing was recorded meanwhile.
      if (before % 2 === 0 && this.#busyWord() === before) return bitmaps;
      if (performance.now() > deadlineMs) break;
      await new Promise((resolve) => setTimeout(resolve, SETTLE_PAUSE_MS));
    }
    throw new FaultlineError(
      "session-file",
      `${this.path} is being written to, and does not come to rest. If the VM runs, pause it. If ` +
        "its handler has died or is stopped in the middle of an event, what the VM did last is " +
        "not recorded: have the VMM write its memory file instead.",
    );
  }

  /**
   * The VM stood still since `bitmaps` were read, as far as that can be told from outside.
   * @throws FaultlineError `vm-changed`, `session-file`
   */
  assertStill(bitmaps: Bitmaps): void {
    const guestTicks = this.#assertAlive();
    const now = this.#readBitmaps();
    const isSame =
      now.written.equals(bitmaps.written) &&
      now.removed.equals(bitmaps.removed) &&
      guestTicks === this.#guestTicks;
    if (isSame) return;
    throw new FaultlineError(
      "vm-changed",
      `The VM of process ${this.layout.pid} ran while its memory was read, so the image would ` +
        "mix moments. Pause the VM (Firecracker: PATCH /vm), pack, then resume it.",
    );
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  /** Returns the ticks that its virtual CPUs have run. */
  #assertAlive(): number {
    const { pid, startTicks } = this.layout;
    const times = processTimes(pid);
    const isSame = times?.startTicks === startTicks && this.layout.bootId === bootId();
    if (times !== null && isSame) return times.guestTicks;
    const what =
      times === null
        ? `process ${pid} has ended`
        : `the process that is now ${pid} is another; that VM has ended`;
    throw new FaultlineError(
      "session-file",
      `The VM of ${this.path} is gone: ${what}, and its memory with it. Remove the file.`,
    );
  }

  #busyWord(): number {
    const word = Buffer.alloc(4);
    readSync(this.#fd, word, 0, 4, busyOffset);
    return word.readUInt32LE(0);
  }

  #readBitmaps(): Bitmaps {
    const { headerBytes, bitmapBytes } = this.layout;
    const bytes = Buffer.alloc(sessionFileBytes(this.layout) - headerBytes);
    readSync(this.#fd, bytes, 0, bytes.length, headerBytes);
    return { written: bytes.subarray(0, bitmapBytes), removed: bytes.subarray(bitmapBytes) };
  }
}
