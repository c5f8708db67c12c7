/**
 * The command line of a page-fault handler: `CMD {socket} {memory}`, as users give it to
 * `faultline conformance` and `faultline bench`. A shell runs it, so that quotes, variables and
 * paths mean what they mean everywhere else.
 */
import { join } from "node:path";
import { FaultlineError } from "../base/errors.ts";
import { builtRoot } from "./paths.ts";

const PLACEHOLDER = /\{([^{}]*)\}/g;
const REQUIRED = ["socket", "memory"] as const;

export interface HandlerTarget {
  /** Where the handler has to listen. */
  readonly socketPath: string;
  /** The snapshot's memory file. */
  readonly memoryPath: string;
}

export class HandlerCommand {
  readonly template: string;

  /** Throws `bad-option` if a placeholder is missing or unknown. */
  constructor(template: string) {
    const names = [...template.matchAll(PLACEHOLDER)].map((match) => match[1]!);
    const lacking = REQUIRED.filter((name) => !names.includes(name));
    const unknown = names.filter((name) => !(REQUIRED as readonly string[]).includes(name));
    if (lacking.length > 0 || unknown.length > 0) {
      throw new FaultlineError(
        "bad-option",
        `--handler ${template} cannot be used: give a command with {socket}, where the handler ` +
          "is to listen, and {memory}, the memory file, and no other words in braces.",
      );
    }
    this.template = template;
  }

  /** `faultline serve` of this installation. */
  static ofServe(flags: readonly string[] = []): HandlerCommand {
    const main = join(builtRoot, "src", "cli", "main.js");
    const words = [process.execPath, main, "serve"].map(shellWord);
    const options = ["--memory {memory} --socket {socket} --log warn", ...flags.map(shellWord)];
    return new HandlerCommand([...words, ...options].join(" "));
  }

  /** The command for `sh -c`. */
  shellLine({ socketPath, memoryPath }: HandlerTarget): string {
    const values = { socket: socketPath, memory: memoryPath };
    return this.template.replace(PLACEHOLDER, (_, name: keyof typeof values) =>
      shellWord(values[name]),
    );
  }
}

/** One word for the shell. */
export function shellWord(word: string): string {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}
