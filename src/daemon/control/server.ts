/**
 * The control API: HTTP on a Unix socket. Who may connect is a matter of the file's mode and owner.
 * Node's own HTTP server does the protocol and its deadlines; the rest is the table of routes.
 */
import type { IncomingMessage, Server, ServerResponse } from "node:http";
import type { Duplex } from "node:stream";
import { describeError, FaultlineError } from "../../base/errors.ts";
import { duplicateFd } from "../../linux/fd.ts";
import type { Logger } from "../log.ts";
import { SocketFile } from "../socket-file.ts";
import { createBoundedServer, type HttpAnswer, sendAnswer } from "./bounded-server.ts";
import { type ControlLimits, defaultLimits } from "./limits.ts";
import { dashboardOf, type OperationContext, operations } from "./operations.ts";
import { HttpError, PROBLEM_TYPE, problemOf } from "./problem.ts";
import { readBody } from "./request-body.ts";
import { findRoute, type Match, parseBody, parseQuery } from "./router.ts";
import type { RawRouteName, RouteInput } from "./routes.ts";
import { StreamAnswer, sendStream } from "./streams.ts";

/** Connections that wait to be accepted: as many as there may be at once. */
const BACKLOG = 256;

export interface ControlOptions extends OperationContext {
  /** A socket that listens; the server owns it from now on. Or: */
  readonly fd?: number;
  /** where to create one, for this user only. */
  readonly path?: string;
  readonly log: Logger;
  readonly limits?: Partial<ControlLimits>;
}

interface StreamedAnswer {
  readonly status: number;
  readonly type: string;
  readonly stream: StreamAnswer;
}

type Operation = (context: OperationContext, input: RouteInput) => unknown;

export class ControlServer {
  readonly #context: OperationContext;
  readonly #limits: ControlLimits;
  readonly #log: Logger;
  readonly #server: Server;
  readonly #file: SocketFile | null;
  readonly #unanswered = new Set<ServerResponse>();
  readonly #streams = new Set<StreamAnswer>();
  #waiting = 0;
  /** Closed, or answered with 429, as too many came at once. */
  refusedConnections = 0;
  refusedRequests = 0;

  private constructor(options: ControlOptions, file: SocketFile | null) {
    this.#context = options;
    this.#limits = { ...defaultLimits, ...options.limits };
    this.#log = options.log;
    this.#file = file;
    this.#server = createBoundedServer({
      limits: this.#limits,
      serve: (request, response) => this.#serve(request, response),
      isAnswering: (socket) => this.#isAnswering(socket),
    });
    this.#server.on("drop", () => {
      this.refusedConnections += 1;
    });
  }

  /** @throws FaultlineError `socket-path`, `socket-in-use`, `socket-failed` */
  static async start(options: ControlOptions): Promise<ControlServer> {
    const { fd, path } = options;
    if ((fd === undefined) === (path === undefined)) {
      throw new FaultlineError("bad-option", "Give the control API an fd or a path, one of them.");
    }
    const file = path === undefined ? null : SocketFile.listen(path, BACKLOG);
    const server = new ControlServer(options, file);
    try {
      await server.#listen(fd ?? duplicateFd(file!.listener.fd).intoRawFd());
      return server;
    } catch (error) {
      file?.close();
      throw error;
    }
  }

  /** Takes no more requests, lets those under way end, and then ends them. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeIdleConnections();
    for (const { source } of this.#streams) source.end();
    this.#file?.close();
    const timer = setTimeout(() => this.#server.closeAllConnections(), this.#limits.closeTimeoutMs);
    await closed;
    clearTimeout(timer);
  }

  async #listen(fd: number): Promise<void> {
    await new Promise<void>((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ fd }, () => {
        this.#server.off("error", reject);
        resolve();
      });
    });
    this.#server.on("error", (error) =>
      this.#log.error({ reason: describeError(error) }, "The control socket failed"),
    );
  }

  /** Never rejects. */
  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const startMs = performance.now();
    this.#unanswered.add(response);
    response.once("close", () => this.#unanswered.delete(response));
    let answer: HttpAnswer | null;
    try {
      answer = await this.#answer(request, response);
    } catch (error) {
      answer = this.#problem(request, error);
    }
    const { method, url = "" } = request;
    const durationMs = Math.round(performance.now() - startMs);
    const status = answer?.status ?? response.statusCode;
    this.#log.debug({ method, url: url.slice(0, 200), status, durationMs }, "Asked");
    if (answer !== null) sendAnswer(response, answer, this.#limits);
  }

  async #send(response: ServerResponse, { status, type, stream }: StreamedAnswer): Promise<void> {
    this.#streams.add(stream);
    try {
      await sendStream(response, { status, type }, stream, this.#limits);
    } finally {
      this.#streams.delete(stream);
    }
  }

  /** Null: the answer is under way. */
  async #answer(request: IncomingMessage, response: ServerResponse): Promise<HttpAnswer | null> {
    const { method = "", url = "" } = request;
    const match = findRoute(method, url);
    const { name, route, id, page } = match;
    const query = parseQuery(route, url);
    const body = parseBody(route, await readBody(request, route, this.#limits.bodyBytes));
    if (route.isRaw === true) {
      const dashboard = await dashboardOf(this.#context).load();
      await dashboard.serve(name as RawRouteName, { id, query }, request, response);
      return null;
    }
    const result = await this.#carryOut(match, { id, page, query, body } as RouteInput);
    const { status } = route;
    if (result instanceof StreamAnswer) {
      await this.#send(response, { status, type: String(route.answer), stream: result });
      return null;
    }
    const isText = typeof route.answer === "string" && !route.answer.includes("json");
    return {
      status,
      type: typeof route.answer === "string" ? route.answer : "application/json",
      text: isText ? String(result) : `${JSON.stringify(result)}\n`,
    };
  }

  /** Whoever only looks is answered at once, however many wait for something. */
  async #carryOut({ name, route }: Match, input: RouteInput): Promise<unknown> {
    const run = operations[name as keyof typeof operations] as Operation;
    if (route.method === "GET") return await run(this.#context, input);
    if (this.#waiting >= this.#limits.requests) {
      this.refusedRequests += 1;
      const message = `${this.#limits.requests} requests are under way: try again.`;
      throw new HttpError(429, message, { code: "limit" });
    }
    this.#waiting += 1;
    try {
      return await run(this.#context, input);
    } finally {
      this.#waiting -= 1;
    }
  }

  /** The one whose request is not whole yet is the one that is refused. */
  #isAnswering(socket: Duplex): boolean {
    for (const { req, headersSent } of this.#unanswered) {
      if (req.socket === socket && (headersSent || req.complete)) return true;
    }
    return false;
  }

  #problem(request: IncomingMessage, error: unknown): HttpAnswer {
    const { status, headers, body } = problemOf(error);
    const isGone = request.destroyed && !request.complete;
    if (status === 500 && !isGone) {
      const { method, url = "" } = request;
      const isBug = error instanceof Error && !(error instanceof FaultlineError);
      const reason = isBug ? error.stack : describeError(error);
      const fields = { method, url: url.slice(0, 200), reason };
      this.#log.error(fields, "A request to the control API failed");
    }
    return { status, type: PROBLEM_TYPE, text: `${JSON.stringify(body)}\n`, headers };
  }
}
