/** VMs whose handler has been killed, and `faultline rescue` for them. */
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { compile } from "../../src/kit/compile.ts";
import { HandlerCommand, shellWord } from "../../src/kit/handler-command.ts";
import { HandlerProcess } from "../../src/kit/handler-process.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { ServeProcess, type ServeStart } from "./serve-process.ts";

/** On a busy machine a VM gets that far in a fraction of it. */
const PROGRESS_BUDGET_MS = 20_000;

export type HandlerKind = "reference" | "serve";

/** The handlers that are killed: one in C that shares no code with ours, and ours. */
export async function startHandler(
  kind: HandlerKind,
  socketPath: string,
  memoryPath: string,
): Promise<HandlerProcess> {
  const target = { socketPath, memoryPath };
  if (kind === "serve") return await HandlerProcess.start(HandlerCommand.ofServe(), target);
  const binary = compile(join(repositoryRoot, "bench/reference/handler.c"), ["-pthread"]);
  const command = new HandlerCommand(`${shellWord(binary)} {socket} {memory}`);
  return await HandlerProcess.start(command, target);
}

/** KiB of memory that a VM has, of pages of any size. See proc(5), status. */
export function residentKib(pid: number): number {
  const status = readFileSync(`/proc/${pid}/status`, "utf8");
  const sizes = status.matchAll(/^(?:RssAnon|HugetlbPages):\s*(\d+)/gm);
  return [...sizes].reduce((sum, [, kib]) => sum + Number(kib), 0);
}

/** Kills a handler in the middle of its work: as soon as its VM has so much memory. */
export async function killWhen(handler: HandlerProcess, vmPid: number, kib: number): Promise<void> {
  await waitFor("the VM had memory", () => residentKib(vmPid) >= kib, PROGRESS_BUDGET_MS);
  handler.kill();
  await handler.ended(PROGRESS_BUDGET_MS);
}

/** Threads of a VM that wait for a page, whether somebody has read their faults or not. */
export function waitingThreads(pid: number): number {
  const folder = `/proc/${pid}/fdinfo`;
  const infos = readdirSync(folder).map((fd) => readFileSync(join(folder, fd), "utf8"));
  return Math.max(0, ...infos.map((info) => Number(/^total:\t(\d+)/m.exec(info)?.[1] ?? 0)));
}

export async function frozen(pid: number, threads = 1): Promise<void> {
  await waitFor("the VM stood still", () => waitingThreads(pid) >= threads, PROGRESS_BUDGET_MS);
}

const start: ServeStart = { command: "rescue" };

/** Returns when it has taken the VM over. */
export async function startRescue(
  pid: number,
  memory: string,
  ...flags: readonly string[]
): Promise<ServeProcess> {
  return await ServeProcess.start(["--pid", String(pid), "--memory", memory, ...flags], start);
}

/** Runs one that has to refuse. */
export async function runRescue(
  pid: number,
  memory: string,
  flags: readonly string[] = [],
  identity: Pick<ServeStart, "uid"> = {},
): Promise<ServeProcess> {
  const args = ["--pid", String(pid), "--memory", memory, ...flags];
  return await ServeProcess.run(args, { ...start, ...identity });
}
