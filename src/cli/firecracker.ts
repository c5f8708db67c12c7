/**
 * A Firecracker that `faultline restore` has started: waits for its API, has it load a snapshot,
 * passes signals on, and ends as it does.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { request as httpRequest } from "node:http";
import { constants } from "node:os";
import { setTimeout as delay } from "node:timers/promises";
import { describeError, FaultlineError } from "../base/errors.ts";

/** Of `PUT /snapshot/load`. */
export interface LoadRequest {
  readonly snapshot_path?: string;
  readonly mem_backend: { readonly backend_type: "Uffd"; readonly backend_path: string };
  readonly resume_vm: true;
}

/** The jailer copies files and makes device nodes first. */
const API_DEADLINE_MS = 10_000;
const LOOK_EVERY_MS = 10;
/** Loading reads the state and maps memory; none of it is read from the snapshot yet. */
const LOAD_DEADLINE_MS = 30_000;
const MAX_ANSWER_BYTES = 64 * 1024;
const passedOn = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

export class Firecracker implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #apiSocket: string;
  readonly #ended: Promise<void>;
  #failure: Error | null = null;
  readonly #passOn = (signal: NodeJS.Signals): void => {
    this.#child.kill(signal);
  };

  constructor(argv: readonly string[], apiSocket: string) {
    this.#apiSocket = apiSocket;
    this.#child = spawn(argv[0]!, argv.slice(1), { stdio: "inherit" });
    for (const signal of passedOn) process.on(signal, this.#passOn);
    this.#ended = once(this.#child, "exit").then(
      () => undefined,
      (error: Error) => {
        this.#failure = error;
      },
    );
  }

  get pid(): number {
    return this.#child.pid ?? 0;
  }

  /** @throws FaultlineError `session-failed` */
  async load(request: LoadRequest): Promise<void> {
    await this.#untilApiAnswers();
    const { status, text } = await this.#ask("PUT", "/snapshot/load", JSON.stringify(request));
    if (status === 204) return;
    throw failed(
      `Firecracker did not load the snapshot: ${faultMessage(text) ?? `status ${status}`}`,
    );
  }

  /** As a shell has it: the exit code, or 128 and the signal. */
  async exitCode(): Promise<number> {
    await this.#ended;
    const { exitCode, signalCode } = this.#child;
    return signalCode === null ? (exitCode ?? 0) : 128 + constants.signals[signalCode];
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.#isOver) this.#child.kill("SIGKILL");
    await this.#ended;
    for (const signal of passedOn) process.off(signal, this.#passOn);
  }

  get #isOver(): boolean {
    const { exitCode, signalCode } = this.#child;
    return this.#failure !== null || exitCode !== null || signalCode !== null;
  }

  async #untilApiAnswers(): Promise<void> {
    const endMs = performance.now() + API_DEADLINE_MS;
    while (!(await this.#answers())) {
      if (this.#failure !== null) {
        throw failed(`It cannot be started: ${describeError(this.#failure)}.`);
      }
      if (this.#isOver) throw failed(`It ended before it was asked: ${await this.exitCode()}.`);
      if (performance.now() > endMs) {
        throw failed(`Its API at ${this.#apiSocket} did not answer in ${API_DEADLINE_MS} ms.`);
      }
      await delay(LOOK_EVERY_MS);
    }
  }

  async #answers(): Promise<boolean> {
    try {
      await this.#ask("GET", "/", null);
      return true;
    } catch {
      return false;
    }
  }

  async #ask(
    method: string,
    path: string,
    body: string | null,
  ): Promise<{ readonly status: number; readonly text: string }> {
    const signal = AbortSignal.timeout(LOAD_DEADLINE_MS);
    const ask = httpRequest({
      socketPath: this.#apiSocket,
      method,
      path,
      signal,
      agent: false,
      headers:
        body === null
          ? {}
          : { "content-type": "application/json", "content-length": Buffer.byteLength(body) },
    });
    ask.end(body ?? undefined);
    try {
      const [response] = await once(ask, "response");
      let text = "";
      for await (const chunk of response.setEncoding("utf8")) {
        if (text.length < MAX_ANSWER_BYTES) text += chunk;
      }
      return { status: response.statusCode, text };
    } catch (cause) {
      throw new FaultlineError("session-failed", "Firecracker's API did not answer", { cause });
    }
  }
}

function failed(message: string): FaultlineError {
  return new FaultlineError("session-failed", message);
}

/** Firecracker says what is wrong in this field. */
function faultMessage(text: string): string | null {
  try {
    const { fault_message: message } = JSON.parse(text) as { fault_message?: unknown };
    return typeof message === "string" ? message.slice(0, 1000) : null;
  } catch {
    return null;
  }
}
