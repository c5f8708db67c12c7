/** What all commands that talk to the daemon have in common: its socket, JSON, and naming a VM. */
import type { Command } from "commander";
import { FaultlineError } from "../base/errors.ts";
import { ControlClient } from "../daemon/control/client.ts";
import type { SessionView } from "../daemon/host-service.ts";

export const VM_ARGUMENT = "a session's id, the beginning of it, or the process id of its VMM";
const CONTROL_VARIABLE = "FAULTLINE_CONTROL";
const SOCKET_NAME = "faultline/control.sock";
/** Of sessions that a short id could mean. */
const MAX_NAMED = 5;

export interface ControlFlags {
  readonly control?: string;
  readonly json: boolean;
}

export function withControlOptions(command: Command): Command {
  return command
    .option("--control <path>", `the daemon's socket (default: $${CONTROL_VARIABLE}, or its own)`)
    .option("--json", "print the result as JSON", false);
}

export function openClient(flags: ControlFlags): ControlClient {
  return new ControlClient({ socketPath: flags.control ?? defaultControlSocket(process.env) });
}

/** Where a daemon of this user has its socket. */
export function defaultControlSocket(environment: NodeJS.ProcessEnv): string {
  const named = environment[CONTROL_VARIABLE] ?? "";
  if (named !== "") return named;
  if (process.getuid?.() === 0) return `/run/${SOCKET_NAME}`;
  const folder = environment.XDG_RUNTIME_DIR ?? "";
  if (folder !== "") return `${folder}/${SOCKET_NAME}`;
  throw new FaultlineError(
    "no-daemon",
    "Without XDG_RUNTIME_DIR the daemon's socket is not known: give --control or " +
      `${CONTROL_VARIABLE}.`,
  );
}

/** The session that a user means. Names are used again: one that has ended comes last. */
export async function findSession(client: ControlClient, text: string): Promise<SessionView> {
  const sessions = await client.sessions({ withEnded: true });
  const live = sessions.filter(({ state }) => state !== "ended");
  const exact =
    live.find(({ id }) => id === text) ??
    live.find(({ vm }) => vm !== null && String(vm.pid) === text) ??
    sessions.findLast(({ id }) => id === text);
  if (exact !== undefined) return exact;
  const isMeant = ({ id }: SessionView): boolean => text !== "" && id.startsWith(text);
  const liveMeant = live.filter(isMeant);
  const meant = liveMeant.length > 0 ? liveMeant : sessions.filter(isMeant);
  const [only, ...others] = meant;
  if (only !== undefined && others.length === 0) return only;
  if (only === undefined) {
    throw new FaultlineError(
      "no-session",
      `No session is called ${JSON.stringify(text)}, and no VM has this process id. ` +
        "`faultline ps --all` lists them.",
    );
  }
  const named = meant.slice(0, MAX_NAMED).map(({ id }) => id);
  const more = meant.length > MAX_NAMED ? ", …" : "";
  throw new FaultlineError(
    "no-session",
    `${meant.length} sessions begin with ${JSON.stringify(text)}: ${named.join(", ")}${more}. ` +
      "Give more of the id.",
  );
}

/** A parser for `NAME=VALUE`, which may come often. */
export function label(
  value: string,
  all: Readonly<Record<string, string>>,
): Readonly<Record<string, string>> {
  const at = value.indexOf("=");
  if (at > 0) return { ...all, [value.slice(0, at)]: value.slice(at + 1) };
  throw new FaultlineError("bad-option", `--label ${value} cannot be used: give NAME=VALUE.`);
}

/** The result on stdout, for machines or for people. */
export function print(flags: ControlFlags, result: unknown, text: string): void {
  process.stdout.write(flags.json ? `${JSON.stringify(result)}\n` : text);
}
