/**
 * Metrics for those who cannot reach the control socket: `GET /metrics` on a TCP address, nothing
 * else, and without any protection. The bounds are those of the control API.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { createBoundedServer, type HttpAnswer, sendAnswer } from "../control/bounded-server.ts";
import { type ControlLimits, defaultLimits } from "../control/limits.ts";
import { HttpError, PROBLEM_TYPE, problemOf } from "../control/problem.ts";
import { findRoute, parseQuery } from "../control/router.ts";
import { type RouteInput, routes } from "../control/routes.ts";
import type { Logger } from "../log.ts";
import { TcpListener } from "../tcp-listener.ts";

export interface MetricsServerOptions {
  /** `HOST:PORT`, as in the settings; port 0: any. */
  readonly address: string;
  readonly metrics: (withSessions: boolean) => string | Promise<string>;
  readonly log: Logger;
  readonly limits?: Partial<ControlLimits>;
}

/** Few ask, and each answer takes the main thread some milliseconds. */
const MAX_CONNECTIONS = 16;

export class MetricsServer {
  readonly #options: MetricsServerOptions;
  readonly #limits: ControlLimits;
  readonly #listener: TcpListener;

  constructor(options: MetricsServerOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, connections: MAX_CONNECTIONS, ...options.limits };
    const server = createBoundedServer({
      limits: this.#limits,
      serve: (request, response) => this.#serve(request, response),
    });
    this.#listener = new TcpListener(server, options.address, options.log, {
      serves: "Serves metrics",
      cannot: "Metrics cannot be served on their address for now",
      failed: "The socket for metrics failed",
    });
  }

  /** The port that it listens on, once it does. */
  get listening(): Promise<number> {
    return this.#listener.listening;
  }

  async close(): Promise<void> {
    await this.#listener.close();
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
