/** Runs tinyvm as the process it is, and reads the JSON lines it prints. */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { type ErrorCode, errorCodes, FaultlineError } from "../base/errors.ts";

/** A tinyvm step takes a second or two; a minute means that it hangs. */
const DEADLINE_MS = 60_000;

export interface VmEvent {
  readonly event: string;
  readonly [field: string]: unknown;
}

/** Who wants to know of a tinyvm while it runs. */
export interface VmWatch {
  readonly onStart?: (pid: number) => void;
  /** Each line as it comes. */
  readonly onEvent?: (event: VmEvent) => void;
  /** Default: a minute. */
  readonly deadlineMs?: number;
}

/**
 * Runs `tinyvm ARGS…` to its end and returns what it said.
 * @throws FaultlineError what it failed with; `session-failed` if it died or did not say
 */
export async function runTinyVm(
  args: readonly string[],
  { onStart, onEvent, deadlineMs = DEADLINE_MS }: VmWatch = {},
): Promise<VmEvent[]> {
  const entry = new URL("../tinyvm/main.js", import.meta.url).pathname;
  const child = spawn(process.execPath, [entry, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  if (child.pid !== undefined) onStart?.(child.pid);
  const timer = setTimeout(() => child.kill("SIGKILL"), deadlineMs);
  const events: VmEvent[] = [];
  let complaint = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    complaint += text;
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    const event = JSON.parse(line) as VmEvent;
    events.push(event);
    onEvent?.(event);
  });
  const stop = (): void => void child.kill("SIGKILL");
  // Before others: what it writes is removed then. A stopped process obeys this signal, too.
  process.prependOnceListener("exit", stop);
  const exitCode = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  process.off("exit", stop);
  clearTimeout(timer);
  if (exitCode !== 0) throw failureOf(args[0] ?? "", exitCode, complaint.trim());
  return events;
}

/** tinyvm says `tinyvm: CODE: message`: its error becomes ours. */
function failureOf(step: string, exitCode: number | null, complaint: string): FaultlineError {
  const match = /^tinyvm: ([a-z-]+): ([\s\S]*)$/.exec(complaint);
  if (match !== null && match[1]! in errorCodes) {
    return new FaultlineError(match[1] as ErrorCode, match[2]!);
  }
  const end = exitCode === null ? "was ended by a signal" : `ended with code ${exitCode}`;
  return new FaultlineError("session-failed", `tinyvm ${step} ${end}. ${complaint}`.trim());
}

/** The event of a name; tinyvm always sends it if it succeeds. */
export function eventNamed(events: readonly VmEvent[], name: string): VmEvent {
  const found = events.find(({ event }) => event === name);
  if (found === undefined) throw new Error(`tinyvm sent no event "${name}"`);
  return found;
}
