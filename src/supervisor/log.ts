/** The supervisor's log: JSON lines of the same form as the pager's, without a library. */
import { writeSync } from "node:fs";

/** From the few lines to the many. */
const levels = ["error", "warn", "info", "debug"] as const;
export type LogLevel = (typeof levels)[number];
export type Log = (
  level: LogLevel,
  msg: string,
  fields?: Readonly<Record<string, unknown>>,
) => void;

const STDERR = 2;

/** Lines of this level, and of what is worse, on stderr. */
export function createLog(threshold: LogLevel | "silent"): Log {
  // Asking has an effect that is needed: a pipe that nobody reads does not block any more.
  void process.stderr.isTTY;
  return (level, msg, fields = {}) => {
    if (threshold === "silent" || levels.indexOf(level) > levels.indexOf(threshold)) return;
    const line = { level, time: new Date().toISOString(), ...fields, msg };
    try {
      writeSync(STDERR, `${JSON.stringify(line)}\n`);
    } catch {
      // Nobody reads, or the disk is full: no VM waits for a log.
    }
  };
}
