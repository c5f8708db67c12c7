/** Servers that tests start: on free ports, in their own folder, and gone when the test is. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { closeSync, openSync, readFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { waitFor } from "../../src/kit/wait.ts";

/** Ports that nobody had a moment ago. All are taken before the first is given back. */
export async function freePorts(count: number): Promise<number[]> {
  const servers = Array.from({ length: count }, () => createServer().listen(0, "127.0.0.1"));
  await Promise.all(servers.map((server) => once(server, "listening")));
  const ports = servers.map((server) => (server.address() as AddressInfo).port);
  await Promise.all(servers.map((server) => once(server.close(), "close")));
  return ports;
}

export class ServerProcess {
  readonly #argv: readonly string[];
  readonly #logPath: string;
  readonly #child: ChildProcess;

  /** What it says goes to `logPath`. The kernel ends it when we end, however that happens. */
  constructor(argv: readonly string[], logPath: string) {
    this.#argv = argv;
    this.#logPath = logPath;
    const log = openSync(logPath, "a");
    const bound = ["--pdeathsig", "KILL", "--", ...argv];
    this.#child = spawn("setpriv", bound, { stdio: ["ignore", log, log] });
    closeSync(log);
    this.#child.on("error", () => undefined); // the pid that is missing tells
  }

  get isRunning(): boolean {
    const { pid, exitCode, signalCode } = this.#child;
    return pid !== undefined && exitCode === null && signalCode === null;
  }

  /** Waits for it to end by itself. */
  async finish(budgetMs: number): Promise<void> {
    await waitFor(`\`${this.#argv.join(" ")}\` ended`, () => !this.isRunning, budgetMs);
    if (this.#child.exitCode !== 0) throw this.failure();
  }

  /** Waits for a server to be of use. */
  async until(what: string, isReady: () => Promise<boolean>, budgetMs: number): Promise<void> {
    await waitFor(
      what,
      async () => {
        if (!this.isRunning) throw this.failure();
        return await isReady().catch(() => false);
      },
      budgetMs,
    );
  }

  failure(): Error {
    const log = readFileSync(this.#logPath, "utf8").slice(-4000);
    return new Error(`\`${this.#argv.join(" ")}\` ended. It said:\n${log}`);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.isRunning) return;
    const exited = once(this.#child, "exit");
    this.#child.kill("SIGKILL");
    await exited;
  }
}
