/**
 * The log: JSON lines for machines, one readable line each for people. On stderr, and synchronous:
 * the last line before a crash is the one that counts. Never per fault.
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

export function createLogger(level: LogLevel, format: LogFormat): Logger {
  const isText = format === "text" || (format === "auto" && process.stderr.isTTY === true);
  const options = { level, base: null, timestamp: pino.stdTimeFunctions.isoTime };
  const write = (line: string): void => {
    try {
      writeSync(STDERR, isText ? humanLine(line) : line);
    } catch {
      // Whoever read the log is gone (EPIPE) or the disk is full: VMs are served all the same.
    }
  };
  return pino({ ...options, formatters: { level: (label) => ({ level: label }) } }, { write });
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
