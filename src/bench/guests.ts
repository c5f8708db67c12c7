/** The guests: one that times every fault, and many that are just there. Both are C programs. */
import { describeError, FaultlineError } from "../base/errors.ts";
import { Child } from "../kit/child.ts";
import type { HandlerTarget } from "../kit/handler-command.ts";
import { HandlerProcess } from "../kit/handler-process.ts";
import { within } from "../kit/wait.ts";
import type { Workspace } from "./workspace.ts";

/** A handler that has not answered all faults by then does not answer any more. */
const ANSWER_DEADLINE_MS = 120_000;
/** A handler ends with its VM, so its end may be seen before the VM's last words. */
const LAST_WORDS_MS = 1000;

/** See bench/reference/faulter.c. */
export interface FaultTimes {
  readonly faults: number;
  readonly threads: number;
  readonly first_us: number;
  readonly p50_us: number;
  readonly p90_us: number;
  readonly p99_us: number;
  readonly max_us: number;
  readonly mean_us: number;
  readonly total_ms: number;
  readonly pages_per_s: number;
  readonly mismatches: number;
}

export interface GuestPlan {
  readonly memoryPath: string;
  readonly faults: number;
  readonly order: "random" | "sequential";
  readonly threads?: number;
  readonly seed?: number;
  /** Between two faults of a thread. */
  readonly pauseUs?: number;
  /** The file is not read beforehand: it is larger than memory. */
  readonly readsLate?: boolean;
  readonly cpu?: number;
}

/** `socketPath` null: without a handler, on a mapping of the file. */
export function faulterCommand(
  workspace: Workspace,
  socketPath: string | null,
  plan: GuestPlan,
): string[] {
  const { memoryPath, faults, order, threads = 1, seed = 1, pauseUs = 0, cpu } = plan;
  return [
    workspace.program("faulter"),
    ...[socketPath ?? "--mapping", memoryPath, String(faults), "--order", order],
    ...(order === "random" ? ["--seed", String(seed)] : []),
    ...(threads === 1 ? [] : ["--threads", String(threads)]),
    ...(pauseUs === 0 ? [] : ["--pause", String(pauseUs)]),
    ...(plan.readsLate === true ? ["--file", "late"] : []),
    ...(cpu === undefined ? [] : ["--cpu", String(cpu)]),
  ];
}

/**
 * Runs one guest to its end. Throws `handler-failed` if it got no answer, or if a single word was
 * wrong: then no number counts.
 */
export async function timeFaults(
  workspace: Workspace,
  handler: HandlerProcess | null,
  plan: GuestPlan,
): Promise<FaultTimes> {
  const socketPath = handler?.target.socketPath ?? null;
  await using guest = new Child(faulterCommand(workspace, socketPath, plan));
  const times = await answerOf<FaultTimes>(guest, handler);
  assertRight(times, handler);
  await guest.finish();
  return times;
}

interface VmsAnswer {
  readonly held: number;
  readonly cycled: number;
  readonly mismatches: number;
  readonly ms: number;
  readonly first_us: number;
}

/** Many VMs; see bench/reference/vms.c. Disposal kills them. */
export class ManyVms {
  readonly #child: Child;
  #handler: HandlerProcess | null;

  /** A target alone: its process is somebody else's to watch. */
  constructor(workspace: Workspace, handler: HandlerProcess | HandlerTarget, touchedPages: number) {
    this.#handler = handler instanceof HandlerProcess ? handler : null;
    const { socketPath, memoryPath } = handler instanceof HandlerProcess ? handler.target : handler;
    this.#child = new Child([
      workspace.program("vms"),
      ...[socketPath, memoryPath, String(touchedPages)],
    ]);
  }

  get command(): string {
    return this.#child.argv.join(" ");
  }

  /** The next VMs connect to this handler. */
  async moveTo(handler: HandlerProcess): Promise<void> {
    this.#handler = handler;
    await this.moveToSocket(handler.target.socketPath);
  }

  /** The next VMs connect there. */
  async moveToSocket(socketPath: string): Promise<void> {
    await this.#order(`socket ${socketPath}`);
  }

  /** So many more VMs, which stay. */
  async hold(count: number): Promise<void> {
    await this.#order(`hold ${count}`);
  }

  /** So many VMs that come, touch their pages and go, one after the other. Gives milliseconds. */
  async cycle(count: number): Promise<number> {
    return (await this.#order(`cycle ${count}`)).ms;
  }

  /** One VM that comes and goes. Gives microseconds from its handshake to its first page. */
  async cycleOnce(): Promise<number> {
    return (await this.#order("cycle 1")).first_us;
  }

  /** The VMs that stayed end; they have ended when this returns. */
  async release(): Promise<void> {
    await this.#order("release");
  }

  /** All VMs end. */
  async finish(): Promise<void> {
    await this.#child.finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child[Symbol.asyncDispose]();
  }

  async #order(line: string): Promise<VmsAnswer> {
    this.#child.say(line);
    const answer = await answerOf<VmsAnswer>(this.#child, this.#handler);
    assertRight(answer, this.#handler);
    return answer;
  }
}

/** The guest's answer, or `handler-failed` as soon as it is clear that none will come. */
export async function answerOf<T>(
  guest: Child,
  handler: HandlerProcess | null,
  deadlineMs = ANSWER_DEADLINE_MS,
): Promise<T> {
  const answer = guest.answer<T>(deadlineMs);
  answer.catch(() => undefined);
  const ended = handler?.ended(deadlineMs);
  try {
    if (ended !== undefined) await Promise.race([answer, ended]);
    return await (handler?.exit == null ? answer : within("the VM ended", answer, LAST_WORDS_MS));
  } catch (error) {
    const reason = handler?.exit == null ? `: ${describeError(error)}` : "";
    throw failure(handler, `left a VM without an answer${reason}`);
  }
}

export function assertRight(
  answer: { readonly mismatches: number },
  handler: HandlerProcess | null,
): void {
  if (answer.mismatches === 0) return;
  throw failure(handler, `gave a VM ${answer.mismatches} pages with wrong bytes`);
}

function failure(handler: HandlerProcess | null, what: string): FaultlineError {
  if (handler === null)
    return new FaultlineError("handler-failed", `A handler or mapping ${what}.`);
  const { exit, messages, commandLine } = handler;
  const end = exit === null ? "" : ` It ended with ${exit.signal ?? `code ${exit.code}`}.`;
  const said = messages === "" ? " It wrote nothing." : ` It wrote:\n${messages}`;
  return new FaultlineError("handler-failed", `\`${commandLine}\` ${what}.${end}${said}`);
}
