/** A control API on a socket of its own, over whatever `HostService` a test brings. */
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { connect, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { ControlClient } from "../../src/daemon/control/client.ts";
import type { ControlLimits } from "../../src/daemon/control/limits.ts";
import type { OperationContext } from "../../src/daemon/control/operations.ts";
import { ControlServer } from "../../src/daemon/control/server.ts";
import { createLogger } from "../../src/daemon/log.ts";
import { within } from "../../src/kit/wait.ts";
import { atExit } from "./end-cleanly.ts";

export interface RawAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string | string[] | undefined>>;
  readonly text: string;
  /** The text as JSON. */
  readonly json: Readonly<Record<string, unknown>>;
}

export class ControlStage {
  readonly folder: string;
  readonly socketPath: string;
  readonly client: ControlClient;
  readonly #server: ControlServer;
  readonly #forget: () => void;

  private constructor(folder: string, socketPath: string, server: ControlServer) {
    this.folder = folder;
    this.socketPath = socketPath;
    this.client = new ControlClient({ socketPath });
    this.#server = server;
    this.#forget = atExit(() => rmSync(folder, { recursive: true, force: true }));
  }

  static async start(
    context: OperationContext,
    limits: Partial<ControlLimits> = {},
  ): Promise<ControlStage> {
    const folder = mkdtempSync(join(tmpdir(), "faultline-control-"));
    const path = join(folder, "control.sock");
    const log = createLogger("silent", "json");
    const server = await ControlServer.start({ ...context, path, log, limits });
    return new ControlStage(folder, path, server);
  }

  /** A request as it is written, with a body of any kind. */
  async ask(
    method: string,
    path: string,
    body?: unknown,
    headers: Readonly<Record<string, string>> = {},
  ): Promise<RawAnswer> {
    const text = typeof body === "string" ? body : JSON.stringify(body);
    const type = body === undefined ? {} : { "content-type": "application/json" };
    const answered = new Promise<RawAnswer>((resolve, reject) => {
      const sent = request(
        {
          socketPath: this.socketPath,
          method,
          path,
          agent: false,
          headers: { ...type, ...headers },
        },
        (response) => {
          let received = "";
          response.setEncoding("utf8");
          response.on("data", (chunk: string) => {
            received += chunk;
          });
          response.on("end", () =>
            resolve({
              status: response.statusCode!,
              headers: response.headers,
              text: received,
              json: asJson(received),
            }),
          );
        },
      );
      sent.on("error", reject);
      sent.end(text);
    });
    return await within(`${method} ${path} was answered`, answered, 10_000);
  }

  /** A connection for what no client would send. */
  connect(): Socket {
    return connect(this.socketPath);
  }

  /** What the server has refused, as too much came at once. */
  get refused(): { readonly connections: number; readonly requests: number } {
    const { refusedConnections: connections, refusedRequests: requests } = this.#server;
    return { connections, requests };
  }

  async close(): Promise<void> {
    await this.#server.close();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
    this.#forget();
    rmSync(this.folder, { recursive: true, force: true });
  }
}

function asJson(text: string): RawAnswer["json"] {
  try {
    return JSON.parse(text) as RawAnswer["json"];
  } catch {
    return {};
  }
}

/** All that comes on a connection until the other side ends it. */
export async function untilClosed(socket: Socket, budgetMs = 10_000): Promise<string> {
  let text = "";
  socket.setEncoding("latin1");
  socket.on("data", (chunk: string) => {
    text += chunk;
  });
  const closed = new Promise<void>((resolve) => {
    socket.on("error", () => undefined);
    socket.on("close", () => resolve());
  });
  try {
    await within("the server closed the connection", closed, budgetMs);
  } finally {
    socket.destroy();
  }
  return text;
}
