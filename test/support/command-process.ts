/** `faultline …` as a child process, beside which this process goes on. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { atExit } from "./end-cleanly.ts";

const MAIN = join(builtRoot, "src/cli/main.js");
const BUDGET_MS = 30_000;

export interface CommandEnd {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export class CommandProcess {
  stdout = "";
  stderr = "";
  readonly #child: ChildProcess;
  readonly #ended: Promise<CommandEnd>;

  constructor(args: readonly string[], environment: NodeJS.ProcessEnv = {}) {
    this.#child = spawn(process.execPath, [MAIN, ...args], {
      stdio: ["ignore", "pipe", "pipe"],
      env: { ...process.env, ...environment },
    });
    const forget = atExit(() => this.kill("SIGKILL"));
    this.#child.stdout!.setEncoding("utf8").on("data", (text: string) => {
      this.stdout += text;
    });
    this.#child.stderr!.setEncoding("utf8").on("data", (text: string) => {
      this.stderr += text;
    });
    this.#ended = once(this.#child, "close").then(([code, signal]) => {
      forget();
      return { code, signal, stdout: this.stdout, stderr: this.stderr };
    });
  }

  kill(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async prints(pattern: RegExp): Promise<void> {
    try {
      await waitFor(`it printed ${pattern}`, () => pattern.test(this.stdout), BUDGET_MS);
    } catch (cause) {
      throw new Error(`It printed:\n${this.stdout}${this.stderr}`, { cause });
    }
  }

  async ended(): Promise<CommandEnd> {
    return await within("the command ended", this.#ended, BUDGET_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.kill("SIGKILL");
    await this.#ended;
  }
}

/** Runs it to its end. */
export async function runCommand(
  args: readonly string[],
  environment: NodeJS.ProcessEnv = {},
): Promise<CommandEnd> {
  await using command = new CommandProcess(args, environment);
  return await command.ended();
}
