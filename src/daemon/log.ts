/**
 * The log: JSON lines for machines, one readable line each for people. On stderr, and synchronous:
 * the last line before a crash is the one that counts. Never per fault. Lines that cannot be
 * written (nobody reads the pipe, the disk is full) are counted and told later: no VM waits.
 *
 * error: somebody must act · warn: abnormal, served all the same · info: the life of VMs ·
 * debug: numbers that help to tune.
 */
import { writeSync } from "node:fs";
import { styleText } from "node:util";
import { type Logger, pino } from "pino";

export type { Logger } from "pino";

export const logLevels = ["error", "warn", "info", "debug", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];
export const logFormats = ["auto", "text", "json"] as const;
export type LogFormat = (typeof logFormats)[number];

const STDERR = 2;
const timestamp = pino.stdTimeFunctions.isoTime;

export function createLogger(level: LogLevel, format: LogFormat): Logger {
  // Asking has an effect that is needed whatever the format is: a pipe does not block any more.
  const isTerminal = process.stderr.isTTY === true;
  const isText = format === "text" || (format === "auto" && isTerminal);
  let lostLines = 0;
  const writeLine = (line: string): void => {
    writeSync(STDERR, isText ? humanLine(line) : line);
  };
  const write = (line: string): void => {
    try {
      if (lostLines > 0) writeLine(lossLine(lostLines));
      lostLines = 0;
      writeLine(line);
    } catch {
      // EAGAIN: nobody reads. EPIPE: the reader is gone. ENOSPC: the disk is full.
      lostLines += 1;
    }
  };
  return pino(
    { level, base: null, timestamp, formatters: { level: (label) => ({ level: label }) } },
    { write },
  );
}

function lossLine(count: number): string {
  const msg = "Lines of this log were lost: it could not be written";
  const line = { level: "warn", time: new Date().toISOString(), count, msg };
  return `${JSON.stringify(line)}\n`;
}

type Style = "red" | "yellow" | "gray" | "reset";
const levelStyles: Readonly<Record<string, Style>> = {
  error: "red",
  warn: "yellow",
  debug: "gray",
};

/** `12:30:59.123 warn  Refused a VM (pid=17, reason=…)` */
function humanLine(json: string): string {
  const { time, level, msg, ...fields } = JSON.parse(json) as Record<string, unknown>;
  const clock = String(time).slice(11, 23);
  const style = levelStyles[String(level)] ?? "reset";
  const label = styleText(style, String(level).padEnd(5), { stream: process.stderr });
  const details = Object.entries(fields).map(([name, value]) => `${name}=${String(value)}`);
  const tail = details.length > 0 ? ` (${details.join(", ")})` : "";
  return `${clock} ${label} ${String(msg)}${tail}\n`;
}
