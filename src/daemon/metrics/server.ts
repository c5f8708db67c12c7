/**
 * Metrics for those who cannot reach the control socket: `GET /metrics` on a TCP address, nothing
 * else, and without any protection. The bounds are those of the control API.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import { describeError } from "../../base/errors.ts";
import { createBoundedServer, type HttpAnswer, sendAnswer } from "../control/bounded-server.ts";
import { type ControlLimits, defaultLimits } from "../control/limits.ts";
import { HttpError, PROBLEM_TYPE, problemOf } from "../control/problem.ts";
import { findRoute, parseQuery } from "../control/router.ts";
import { type RouteInput, routes } from "../control/routes.ts";
import type { Logger } from "../log.ts";

export interface MetricsServerOptions {
  /** `HOST:PORT`, as in the settings; port 0: any. */
  readonly address: string;
  readonly metrics: (withSessions: boolean) => string | Promise<string>;
  readonly log: Logger;
  readonly limits?: Partial<ControlLimits>;
}

/** Few ask, and each answer takes the main thread some milliseconds. */
const MAX_CONNECTIONS = 16;
/** The port may still belong to a pager that is about to end. */
const RETRY_MS = 1000;

export class MetricsServer {
  /** The port that it listens on, once it does. */
  readonly listening: Promise<number>;
  readonly #options: MetricsServerOptions;
  readonly #limits: ControlLimits;
  readonly #server: Server;
  #retry: NodeJS.Timeout | null = null;
  #isTold = false;

  /** Tries again for as long as the address cannot be had: no VM is to suffer from that. */
  constructor(options: MetricsServerOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, connections: MAX_CONNECTIONS, ...options.limits };
    this.#server = createBoundedServer({
      limits: this.#limits,
      serve: (request, response) => this.#serve(request, response),
    });
    this.listening = new Promise((resolve) => {
      this.#server.once("listening", () => resolve(this.#port()));
    });
    this.#listen();
  }

  async close(): Promise<void> {
    if (this.#retry !== null) clearTimeout(this.#retry);
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }

  #listen(): void {
    const { address, log } = this.#options;
    const { host, port } = splitAddress(address);
    const onError = (error: Error): void => {
      // Once: it is tried again for as long as it takes.
      const fields = { address, reason: describeError(error) };
      if (!this.#isTold) log.error(fields, "Metrics cannot be served on their address for now");
      this.#isTold = true;
      this.#retry = setTimeout(() => this.#listen(), RETRY_MS).unref();
    };
    this.#server.once("error", onError);
    this.#server.listen(port, host, () => {
      this.#server.off("error", onError);
      this.#server.on("error", (error) => log.error({ error }, "The socket for metrics failed"));
      log.info({ address: `${host}:${this.#port()}` }, "Serves metrics");
    });
  }

  #port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }

  /** Never rejects. */
  async #serve(
    { method = "", url = "" }: IncomingMessage,
    response: ServerResponse,
  ): Promise<void> {
    let answer: HttpAnswer;
    try {
      const { name, route } = findRoute(method, url);
      if (name !== "metrics") throw new HttpError(404, "Here is /metrics, and nothing else.");
      const query = parseQuery(route, url) as RouteInput<"metrics">["query"];
      const text = await this.#options.metrics(query.sessions === "true");
      answer = { status: 200, type: routes.metrics.answer, text };
    } catch (error) {
      const { status, body } = problemOf(error);
      if (status === 500) this.#options.log.error({ err: error }, "Metrics could not be told");
      answer = { status, type: PROBLEM_TYPE, text: `${JSON.stringify(body)}\n` };
    }
    sendAnswer(response, answer, this.#limits);
  }
}

/** `[::1]:9090` and `127.0.0.1:9090`. */
function splitAddress(address: string): { host: string; port: number } {
  const at = address.lastIndexOf(":");
  const host = address.slice(0, at).replace(/^\[(.*)\]$/, "$1");
  return { host, port: Number(address.slice(at + 1)) };
}
