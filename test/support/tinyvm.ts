/** tinyvm and a plain handler as child processes, as a VMM and its handler are in earnest. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describeError } from "../../src/base/errors.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { within } from "../../src/kit/wait.ts";
import { createUserfaultfd } from "../../src/uffd/create.ts";

const TINYVM = join(builtRoot, "src/tinyvm/main.js");
const PLAIN_HANDLER = join(builtRoot, "test/support/plain-handler.js");
/** Faults cost some 100 µs each with the plain handler, and a CI machine may be slow. */
const RUN_BUDGET_MS = 60_000;

/** What a process guest needs: any user has it, but a container's seccomp profile may forbid it. */
export function requiresUserModeFaults(): { skip?: string } {
  try {
    createUserfaultfd({ userModeOnly: true }).close();
    return {};
  } catch (error) {
    if (process.env.FAULTLINE_REQUIRE_ALL === "1") throw error;
    return { skip: `needs userfaultfd, if only for user-mode faults: ${describeError(error)}` };
  }
}

/** One JSON line of tinyvm. */
export type TinyvmEvent = { readonly event: string } & Readonly<Record<string, unknown>>;

export interface TinyvmResult {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly events: readonly TinyvmEvent[];
  readonly errors: string;
}

/** A tinyvm under way; `result` when it has ended. */
export interface TinyvmRun {
  readonly child: ChildProcess;
  readonly events: readonly TinyvmEvent[];
  readonly result: Promise<TinyvmResult>;
}

export function startTinyvm(
  args: readonly string[],
  uid?: number,
  env: NodeJS.ProcessEnv = process.env,
): TinyvmRun {
  const identity = uid === undefined ? {} : { uid, gid: uid };
  const child = spawn(process.execPath, [TINYVM, ...args], {
    stdio: ["ignore", "pipe", "pipe"],
    cwd: "/",
    env,
    ...identity,
  });
  const events: TinyvmEvent[] = [];
  let errors = "";
  createInterface(child.stdout!).on("line", (line) => events.push(JSON.parse(line)));
  child.stderr!.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  const result = once(child, "close").then(([code, signal]) => ({ code, signal, events, errors }));
  return { child, events, result };
}

/** Runs tinyvm to its end; kills it if it takes too long. */
export async function runTinyvm(
  args: readonly string[],
  uid?: number,
  env?: NodeJS.ProcessEnv,
): Promise<TinyvmResult> {
  const { child, result } = startTinyvm(args, uid, env);
  try {
    return await within(`tinyvm ${args.join(" ")} ended`, result, RUN_BUDGET_MS);
  } finally {
    child.kill("SIGKILL");
  }
}

/** Boots a guest into `folder` and returns the snapshot event. */
export async function bootTinyvm(
  folder: string,
  guest: string,
  size: { readonly memoryMib: number; readonly fill: number; readonly workingSet: number },
): Promise<TinyvmEvent> {
  const sizes = ["--memory-mib", size.memoryMib, "--fill", size.fill, "--working-set"].map(String);
  const args = [...sizes, String(size.workingSet), "--out", folder, "--guest", guest];
  const { events, errors } = await runTinyvm(["boot", ...args]);
  const snapshot = events.find((each) => each.event === "snapshot");
  if (snapshot === undefined) throw new Error(`tinyvm boot took no snapshot: ${errors}`);
  return snapshot;
}

/** Returns when the handler listens. Every user may connect. Disposal kills it. */
export async function startPlainHandler(
  socketPath: string,
  memoryFile: string,
  ...flags: readonly string[]
): Promise<{ [Symbol.dispose](): void }> {
  const args = [PLAIN_HANDLER, socketPath, memoryFile, ...flags];
  const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "inherit"] });
  await within("the plain handler listened", once(createInterface(child.stdout), "line"), 10_000);
  chmodSync(socketPath, 0o666);
  return { [Symbol.dispose]: () => void child.kill("SIGKILL") };
}

/** A folder that every user may write to; disposal removes it. */
export function temporaryFolder(): { readonly path: string; [Symbol.dispose](): void } {
  const path = mkdtempSync(join(tmpdir(), "faultline-tinyvm-"));
  chmodSync(path, 0o777);
  return { path, [Symbol.dispose]: () => rmSync(path, { recursive: true, force: true }) };
}
