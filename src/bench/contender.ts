/**
 * Who takes part: the C reference handler, `faultline serve`, the kernel's own mapping of the file,
 * and whatever command lines the user gives.
 *
 * A handler that takes one VM is started afresh for each measurement, as its VM would have it. One
 * that serves many is started once and kept, as on a host; its warm-up round is not counted.
 */
import { HandlerCommand } from "../kit/handler-command.ts";
import { HandlerProcess } from "../kit/handler-process.ts";
import type { PinnedCpus } from "./machine.ts";
import type { Workspace } from "./workspace.ts";

export const builtinNames = ["reference", "auto", "off", "mapping"] as const;
export type BuiltinName = (typeof builtinNames)[number];

/** What the reports call them. */
export const builtinTitles: Readonly<Record<BuiltinName, string>> = {
  reference: "C reference",
  auto: "serve --spin auto",
  off: "serve --spin off",
  mapping: "kernel mapping",
};

export interface Contender {
  /** One of the built-in names, or `handler 1` for the first of `--handler`. */
  readonly name: string;
  readonly title: string;
  /** Null: no handler at all, the kernel maps the file. */
  readonly command: HandlerCommand | null;
  readonly servesMany: boolean;
}

export function builtinContender(name: BuiltinName, workspace: Workspace): Contender {
  const title = builtinTitles[name];
  switch (name) {
    case "reference":
      return { name, title, command: workspace.referenceCommand(), servesMany: false };
    case "auto":
    case "off":
      return { name, title, command: HandlerCommand.ofServe(["--spin", name]), servesMany: true };
    case "mapping":
      return { name, title, command: null, servesMany: false };
  }
}

/** `servesMany`: whether they serve any number of VMs at one socket. */
export function userContenders(
  commands: readonly HandlerCommand[],
  servesMany: boolean,
): Contender[] {
  return commands.map((command, index) => {
    const name = `handler ${index + 1}`;
    return { name, title: name, command, servesMany };
  });
}

/** A contender on the machine, with the memory file that it serves. */
export class Contestant {
  readonly contender: Contender;
  readonly memoryPath: string;
  readonly cpus: PinnedCpus | null;
  readonly #workspace: Workspace;
  #kept: HandlerProcess | null = null;

  constructor(
    workspace: Workspace,
    contender: Contender,
    memoryPath: string,
    cpus: PinnedCpus | null,
  ) {
    this.#workspace = workspace;
    this.contender = contender;
    this.memoryPath = memoryPath;
    this.cpus = cpus;
  }

  /** Runs `body` with a handler that is ready, fresh or kept as the contender wants it. */
  async withHandler<T>(body: (handler: HandlerProcess | null) => Promise<T>): Promise<T> {
    if (this.contender.command === null) return await body(null);
    if (this.contender.servesMany) {
      this.#kept ??= await this.#start(this.contender.command);
      return await body(this.#kept);
    }
    await using handler = await this.#start(this.contender.command);
    return await body(handler);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#kept?.[Symbol.asyncDispose]();
  }

  async #start(command: HandlerCommand): Promise<HandlerProcess> {
    const target = { socketPath: this.#workspace.newSocketPath(), memoryPath: this.memoryPath };
    return await HandlerProcess.start(command, target, pinnedTo(this.cpus?.handler));
  }
}

/** The whole process, every thread of it. */
function pinnedTo(cpu: number | undefined): string[] {
  return cpu === undefined ? [] : ["taskset", "-c", String(cpu)];
}
