/** `faultline trace export`: recordings for other programs. */
import { closeSync, openSync, writeFileSync } from "node:fs";
import { describeError, FaultlineError } from "../base/errors.ts";
import { encodeTrace, MAX_TRACE_TOUCHES } from "../bench/trace-file.ts";
import type { Recording } from "../trace/recording.ts";
import { touchesOf } from "../trace/touches.ts";
import { type TraceEvent, traceEvents } from "../trace/trace-events.ts";
import { describeDamage } from "./trace-text.ts";

/** Of text that is written at once: no string holds all of a long recording. */
const PIECE_CHARACTERS = 2 ** 20;
const RECORD_SOONER = "Restore with --trace, and record at once.";
const RECORD_ANEW = "It was cut off before: record it anew.";

/** Writes JSON in the trace-event format. Returns how many events. */
export function exportEvents(recording: Recording, path: string): number {
  try {
    const fd = openSync(path, "w");
    try {
      return writeEvents(recording, fd);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    throw new FaultlineError("bad-option", `${path} cannot be written: ${describeError(error)}.`);
  }
}

function writeEvents(recording: Recording, fd: number): number {
  const { session, memory, attachedAt } = recording.header;
  const about = { session, memory, attachedAt, recordsLost: String(recording.lost) };
  let piece = `{"displayTimeUnit":"ms","otherData":${JSON.stringify(about)},"traceEvents":[`;
  let count = 0;
  traceEvents(recording, (event: TraceEvent) => {
    piece += `${count === 0 ? "" : ","}\n${JSON.stringify(event)}`;
    count += 1;
    if (piece.length < PIECE_CHARACTERS) return;
    writeFileSync(fd, piece);
    piece = "";
  });
  writeFileSync(fd, `${piece}\n]}\n`);
  return count;
}

/** Writes what a guest has to do for `faultline bench` to be like the VM that was recorded. */
export function exportReplay(
  recording: Recording,
  path: string,
): { readonly pages: number; readonly sizeBytes: number } {
  const touches = touchesOf(recording, MAX_TRACE_TOUCHES);
  if (touches.pages.length === 0) {
    throw new FaultlineError(
      "trace-corrupt",
      `The recording of ${recording.header.session} has no fault in it: there is nothing to ` +
        `replay. ${describeDamage(recording) === null ? RECORD_SOONER : RECORD_ANEW}`,
    );
  }
  try {
    writeFileSync(path, encodeTrace(touches));
  } catch (error) {
    throw new FaultlineError("bad-option", `${path} cannot be written: ${describeError(error)}.`);
  }
  return { pages: touches.pages.length, sizeBytes: touches.sizeBytes };
}
