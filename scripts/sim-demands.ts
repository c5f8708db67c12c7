/** What `npm run sim -- --demands FILE` plays: of a recording, or of what was exported of one. */
import { readFileSync } from "node:fs";
import { describeError, FaultlineError } from "../src/base/errors.ts";
import { decodeTrace } from "../src/bench/trace-file.ts";
import type { Demands } from "../src/sim/passage.ts";
import { readRecording } from "../src/trace/read-recording.ts";
import { touchesOf } from "../src/trace/touches.ts";

const REPLAY_MAGIC = "FLTRCE";
/** Far more than all worlds of a run come to. */
const MOST_TOUCHES = 2 ** 20;

/** @throws FaultlineError `bad-option`, `trace-corrupt` */
export function readDemands(path: string): Demands {
  let bytes: Buffer;
  try {
    bytes = readFileSync(path);
  } catch (error) {
    throw new FaultlineError(
      "bad-option",
      `--demands ${path} cannot be read: ${describeError(error)}.`,
    );
  }
  const isReplay = bytes.toString("latin1", 0, REPLAY_MAGIC.length) === REPLAY_MAGIC;
  const { pages, thinkUs } = isReplay
    ? decodeTrace(bytes, path)
    : touchesOf(readRecording(bytes, path), MOST_TOUCHES);
  if (pages.length > 0) return { pages, thinkUs };
  throw new FaultlineError("bad-option", `--demands ${path} cannot be used: it has no fault.`);
}
