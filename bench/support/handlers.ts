/** Both sides: the C reference handler, and `faultline serve`, each as a user would start it. */
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { Child } from "../../src/kit/child.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import type { Workspace } from "./workspace.ts";

const CLI = join(builtRoot, "src", "cli", "main.js");
const READY_DEADLINE_MS = 20_000;

export interface HandlerOptions {
  readonly socketPath: string;
  readonly memoryPath: string;
  /** Pins the whole process, every thread of it. */
  readonly cpu?: number;
}

export interface ServeOptions extends HandlerOptions {
  readonly flags?: readonly string[];
  /** Where its log goes: a new file. Default: our own stderr. */
  readonly logPath?: string;
}

/** A handler that said that it is ready. */
export interface Started {
  readonly child: Child;
  /** From just before the process was created until its ready line was here. */
  readonly readyMs: number;
}

export function referenceCommand(workspace: Workspace, options: HandlerOptions): string[] {
  return [...pinned(options), workspace.programs.handler, options.socketPath, options.memoryPath];
}

export function serveCommand(options: ServeOptions): string[] {
  const { memoryPath, socketPath, flags = [] } = options;
  const files = ["--memory", memoryPath, "--socket", socketPath];
  return [...pinned(options), process.execPath, CLI, "serve", ...files, "--log", "warn", ...flags];
}

/** Takes one VM. */
export async function startReference(
  workspace: Workspace,
  options: HandlerOptions,
): Promise<Started> {
  return await start(referenceCommand(workspace, options));
}

export async function startServe(options: ServeOptions): Promise<Started> {
  if (options.logPath === undefined) return await start(serveCommand(options));
  const log = openSync(options.logPath, "wx");
  try {
    return await start(serveCommand(options), log);
  } finally {
    closeSync(log);
  }
}

async function start(argv: readonly string[], stderr?: number): Promise<Started> {
  const startMs = performance.now();
  const child = new Child(argv, stderr);
  try {
    await child.line(READY_DEADLINE_MS);
  } catch (error) {
    await child[Symbol.asyncDispose]();
    throw error;
  }
  return { child, readyMs: performance.now() - startMs };
}

function pinned({ cpu }: HandlerOptions): string[] {
  return cpu === undefined ? [] : ["taskset", "--cpu-list", String(cpu)];
}
