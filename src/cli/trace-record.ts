/**
 * `faultline trace record`: writes what comes to a file. However it ends, the file is whole: what
 * is no whole block is cut off, and an end that did not come is added.
 */
import { closeSync, ftruncateSync, openSync, writeSync } from "node:fs";
import { constants } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { describeError, ExitCode, FaultlineError } from "../base/errors.ts";
import { formatBytes } from "../base/units.ts";
import type { ControlClient } from "../daemon/control/client.ts";
import type { SessionView } from "../daemon/host-service.ts";
import { encodeEnd } from "../trace/block-writer.ts";
import type { Ending } from "../trace/recording.ts";
import { RecordingScanner } from "../trace/scanner.ts";
import { type ControlFlags, findSession, openClient, print } from "./control-options.ts";
import { describeEnding } from "./trace-text.ts";

export interface RecordOptions extends ControlFlags {
  readonly output?: string;
  /** Seconds. */
  readonly for: number;
}

const REDRAW_MS = 100;
const ASK_AGAIN_MS = 20;
const CLEAR_LINE = "\r\u001b[K";

/** Returns the exit code. */
export async function recordToFile(vm: string, options: RecordOptions): Promise<number> {
  const client = openClient(options);
  const { id, state } = await findSession(client, vm);
  const path = options.output ?? `${id}.fltrace`;
  const stop = new AbortController();
  const interrupt = (signal: NodeJS.Signals): void => stop.abort(signal);
  process.once("SIGINT", interrupt);
  process.once("SIGTERM", interrupt);
  try {
    // Asked first: where that fails, there is no file.
    const pieces = await begin(client, id, state, options.for, stop.signal);
    if (pieces === null) return 128 + constants.signals[stop.signal.reason as NodeJS.Signals];
    using file = new RecordingFile(path);
    const failure = await file.take(pieces);
    const ending = file.finish(stop.signal.aborted ? "interrupted" : "broken");
    const { records, lost, wholeBytes } = file.scanner;
    const result = { file: path, session: id, records, lost, sizeBytes: wholeBytes, ending };
    const size = formatBytes(wholeBytes);
    const text = `${path}: ${records} records, ${lost} lost, ${size}; ${describeEnding(ending)}\n`;
    print(options, result, text);
    if (ending !== "broken") return ExitCode.ok;
    process.stderr.write(
      `faultline: The pager died or was replaced in the middle (${describeError(failure)}). ` +
        `${path} has what came until then; record again for what comes now.\n`,
    );
    return ExitCode.failed;
  } finally {
    // Whatever went wrong here: the daemon sends for as long as it was asked to, up to an hour.
    stop.abort();
    process.off("SIGINT", interrupt);
    process.off("SIGTERM", interrupt);
  }
}

/** Null: `signal` came before there was anything to record. */
async function begin(
  client: ControlClient,
  id: string,
  state: SessionView["state"],
  seconds: number,
  signal: AbortSignal,
): Promise<AsyncIterable<Uint8Array> | null> {
  try {
    if (state === "waiting") await untilItCame(client, id, seconds, signal);
    return await client.traceSession(id, seconds, signal);
  } catch (error) {
    if (signal.aborted) return null;
    throw error;
  }
}

/**
 * Waits for a session's VM, which may live for less than a second.
 * @throws FaultlineError `conflict`: nobody came in time, or `signal` came before
 */
async function untilItCame(
  client: ControlClient,
  id: string,
  seconds: number,
  signal: AbortSignal,
): Promise<void> {
  process.stderr.write(`Session ${id} waits for its VM.\n`);
  const deadlineMs = performance.now() + seconds * 1000;
  while (!signal.aborted && performance.now() < deadlineMs) {
    const { state } = await client.session(id);
    if (state !== "waiting") return;
    await delay(ASK_AGAIN_MS);
  }
  throw new FaultlineError(
    "conflict",
    `No VM has come to session ${id}: there is nothing to record.`,
  );
}

class RecordingFile {
  readonly scanner: RecordingScanner;
  readonly #path: string;
  readonly #fd: number;
  #sizeBytes = 0;
  #drawnMs = 0;

  constructor(path: string) {
    this.scanner = new RecordingScanner(path);
    this.#path = path;
    this.#fd = this.#trying(() => openSync(path, "w"));
  }

  /** Until there is no more. Returns why it broke off, if it did. */
  async take(pieces: AsyncIterable<Uint8Array>): Promise<unknown> {
    const broken = pieces[Symbol.asyncIterator]();
    for (;;) {
      let piece: IteratorResult<Uint8Array>;
      try {
        piece = await broken.next();
      } catch (error) {
        return error;
      }
      if (piece.done === true) return null;
      this.#write(piece.value);
      this.scanner.push(piece.value);
      this.#draw();
    }
  }

  /** Ends the file as `ending` says, if it has no end yet. Returns how it ends. */
  finish(ending: Ending): Ending {
    if (process.stderr.isTTY) process.stderr.write(CLEAR_LINE);
    const { header, wholeBytes } = this.scanner;
    if (this.scanner.ending !== null || header === null) return this.scanner.ending ?? ending;
    this.#trying(() => ftruncateSync(this.#fd, wholeBytes));
    this.#sizeBytes = wholeBytes;
    const end = encodeEnd(ending);
    this.#write(end);
    return ending;
  }

  [Symbol.dispose](): void {
    closeSync(this.#fd);
  }

  #write(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length; ) {
      const fromBytes = this.#sizeBytes + at;
      at += this.#trying(() => writeSync(this.#fd, bytes, at, bytes.length - at, fromBytes));
    }
    this.#sizeBytes += bytes.length;
  }

  #trying<Result>(write: () => Result): Result {
    try {
      return write();
    } catch (cause) {
      const message =
        `${this.#path} cannot be written. Name another file with -o: a regular one, in a folder ` +
        "that exists, on a disk with room";
      throw new FaultlineError("bad-option", message, { cause });
    }
  }

  #draw(): void {
    const nowMs = performance.now();
    if (!process.stderr.isTTY || nowMs - this.#drawnMs < REDRAW_MS) return;
    this.#drawnMs = nowMs;
    const { records, lost } = this.scanner;
    const size = formatBytes(this.#sizeBytes);
    process.stderr.write(`${CLEAR_LINE}${records} records, ${lost} lost, ${size}  (Ctrl-C ends)`);
  }
}
