/** The supervisor's log: JSON lines of the same form as the pager's, without a library. */
import { writeSync } from "node:fs";

export type LogLevel = "error" | "warn" | "info" | "debug";
export type Log = (
  level: LogLevel,
  msg: string,
  fields?: Readonly<Record<string, unknown>>,
) => void;

const STDERR = 2;

/** Lines of these levels on stderr. */
export function createLog(levels: readonly LogLevel[] = ["error", "warn", "info"]): Log {
  // Asking has an effect that is needed: a pipe that nobody reads does not block any more.
  void process.stderr.isTTY;
  return (level, msg, fields = {}) => {
    if (!levels.includes(level)) return;
    const line = { level, time: new Date().toISOString(), ...fields, msg };
    try {
      writeSync(STDERR, `${JSON.stringify(line)}\n`);
    } catch {
      // Nobody reads, or the disk is full: no VM waits for a log.
    }
  };
}
