/** The guests: one that times every fault, and many that are just there. */
import { Child } from "../../src/kit/child.ts";
import type { HandlerOptions } from "./handlers.ts";
import type { Workspace } from "./workspace.ts";

/** See bench/reference/faulter.c. */
export interface FaultTimes {
  readonly faults: number;
  readonly first_us: number;
  readonly p50_us: number;
  readonly p90_us: number;
  readonly p99_us: number;
  readonly max_us: number;
  readonly mean_us: number;
  readonly total_ms: number;
  readonly mismatches: number;
}

export function faulterCommand(
  workspace: Workspace,
  { socketPath, memoryPath, cpu }: HandlerOptions,
  faults: number,
  pauseUs = 0,
): string[] {
  const pinned = cpu === undefined ? [] : ["--cpu", String(cpu)];
  const what = [socketPath, memoryPath, String(faults)];
  const pause = pauseUs === 0 ? [] : ["--pause", String(pauseUs)];
  return [workspace.programs.faulter, ...what, "--order", "random", ...pause, ...pinned];
}

/** Runs one guest to its end. Throws if a single word was wrong: then no number counts. */
export async function timeFaults(
  workspace: Workspace,
  options: HandlerOptions,
  faults: number,
  pauseUs = 0,
): Promise<FaultTimes> {
  await using guest = new Child(faulterCommand(workspace, options, faults, pauseUs));
  const times = await guest.answer<FaultTimes>();
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

/** Many VMs at one socket; see bench/reference/vms.c. Disposal kills them. */
export class ManyVms {
  readonly #child: Child;

  constructor(workspace: Workspace, options: HandlerOptions, touchedPages: number) {
    const { socketPath, memoryPath } = options;
    this.#child = new Child([workspace.programs.vms, socketPath, memoryPath, String(touchedPages)]);
  }

  get command(): string {
    return this.#child.argv.join(" ");
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

  /** All VMs end. */
  async finish(): Promise<void> {
    await this.#child.finish();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#child[Symbol.asyncDispose]();
  }

  async #order(line: string): Promise<VmsAnswer> {
    this.#child.say(line);
    const answer = await this.#child.answer<VmsAnswer>();
    if (answer.mismatches > 0) throw new Error(`${answer.mismatches} words were wrong.`);
    return answer;
  }
}
