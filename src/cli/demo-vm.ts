/** Runs tinyvm as the process it is, and reads the JSON lines it prints. */
import { spawn } from "node:child_process";
import { createInterface } from "node:readline";
import { FaultlineError } from "../base/errors.ts";

/** A tinyvm step takes a second or two; a minute means that it hangs. */
const DEADLINE_MS = 60_000;

export interface VmEvent {
  readonly event: string;
  readonly [field: string]: unknown;
}

/**
 * Runs `tinyvm ARGS…` to its end and returns what it said. `onEvent` hears each line as it comes.
 * @throws FaultlineError `session-failed`: it failed, with what it wrote on stderr
 */
export async function runTinyVm(
  args: readonly string[],
  onEvent: (event: VmEvent) => void = () => {},
): Promise<VmEvent[]> {
  const entry = new URL("../tinyvm/main.js", import.meta.url).pathname;
  const child = spawn(process.execPath, [entry, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  const timer = setTimeout(() => child.kill("SIGKILL"), DEADLINE_MS);
  const events: VmEvent[] = [];
  let complaint = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    complaint += text;
  });
  createInterface({ input: child.stdout }).on("line", (line) => {
    const event = JSON.parse(line) as VmEvent;
    events.push(event);
    onEvent(event);
  });
  const stop = (): void => void child.kill("SIGKILL");
  process.once("exit", stop);
  const exitCode = await new Promise<number | null>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", resolve);
  });
  process.off("exit", stop);
  clearTimeout(timer);
  if (exitCode !== 0) {
    throw new FaultlineError(
      "session-failed",
      `tinyvm ${args[0]} ended with ${exitCode === null ? "a signal" : `code ${exitCode}`}. ` +
        complaint.trim(),
    );
  }
  return events;
}

/** The event of a name; tinyvm always sends it if it succeeds. */
export function eventNamed(events: readonly VmEvent[], name: string): VmEvent {
  const found = events.find(({ event }) => event === name);
  if (found === undefined) throw new Error(`tinyvm sent no event "${name}"`);
  return found;
}
