/**
 * The dashboard on a loopback TCP address, for browsers: everybody on this host can connect there,
 * and any page that a browser has open can ask it. So all but the page itself wants the token, only
 * names of this host are answered, and nothing here changes anything.
 */
import type { IncomingMessage, ServerResponse } from "node:http";
import { FaultlineError } from "../../base/errors.ts";
import { createBoundedServer, type HttpAnswer, sendAnswer } from "../control/bounded-server.ts";
import { type ControlLimits, defaultLimits } from "../control/limits.ts";
import { type OperationContext, operations } from "../control/operations.ts";
import { HttpError, PROBLEM_TYPE, problemOf } from "../control/problem.ts";
import { findRoute, type Match, parseQuery } from "../control/router.ts";
import type { RawRouteName, RouteInput } from "../control/routes.ts";
import type { Logger } from "../log.ts";
import { isLoopback, type OpenListener, splitAddress, TcpListener } from "../tcp-listener.ts";
import type { Dashboard } from "./dashboard.ts";
import { isToken } from "./token.ts";

export interface DashboardServerOptions {
  /** `HOST:PORT`, a loopback address; port 0: any. */
  readonly address: string;
  readonly token: string;
  /** Default: it is bound here. */
  readonly open?: OpenListener;
  readonly dashboard: Dashboard;
  /** What answers requests that are no streams; null: there is nobody, and these are not there. */
  readonly context: OperationContext | null;
  readonly log: Logger;
  readonly limits?: Partial<ControlLimits>;
}

const MAX_CONNECTIONS = 64;
const PAGE_PATH = "/";
/** All that only looks. */
const readable: ReadonlySet<string> = new Set([
  PAGE_PATH,
  "/v1/watch",
  "/v1/sessions/{id}/watch",
  "/v1/sessions/{id}/pages/{page}",
  "/v1/sessions/{id}/report",
  "/v1/reports",
  "/v1/version",
  "/v1/host",
  "/v1/statistics",
  "/v1/images",
  "/v1/sessions",
  "/v1/sessions/{id}",
]);

type Operation = (context: OperationContext, input: RouteInput) => unknown;

export class DashboardServer {
  readonly #options: DashboardServerOptions;
  readonly #limits: ControlLimits;
  readonly #listener: TcpListener;

  constructor(options: DashboardServerOptions) {
    this.#options = options;
    this.#limits = { ...defaultLimits, connections: MAX_CONNECTIONS, ...options.limits };
    const server = createBoundedServer({
      limits: this.#limits,
      serve: (request, response) => this.#serve(request, response),
    });
    const { address, log, open = null } = options;
    const words = {
      serves: "Serves the dashboard",
      cannot: "The dashboard cannot be served on its address for now",
      failed: "The socket for the dashboard failed",
    };
    this.#listener = new TcpListener(server, address, log, words, open);
  }

  /** The port that it listens on, once it does. */
  get listening(): Promise<number> {
    return this.#listener.listening;
  }

  /** Null: it does not listen yet. */
  get address(): string | null {
    return this.#listener.address;
  }

  async close(): Promise<void> {
    await this.#listener.close();
  }

  /** Never rejects. */
  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    try {
      const answer = await this.#answer(request, response);
      if (answer !== null) sendAnswer(response, answer, this.#limits);
    } catch (error) {
      const { status, headers, body } = problemOf(error);
      if (status === 500 && !(error instanceof FaultlineError)) {
        this.#options.log.error({ err: error }, "A request of the dashboard failed");
      }
      const text = `${JSON.stringify(body)}\n`;
      sendAnswer(response, { status, type: PROBLEM_TYPE, text, headers }, this.#limits);
    }
  }

  /** Null: the answer is under way. */
  async #answer(request: IncomingMessage, response: ServerResponse): Promise<HttpAnswer | null> {
    const { method = "", url = "", headers } = request;
    assertNamesThisHost(headers.host ?? "");
    const match = findRoute(method, url);
    this.#assertReadable(match);
    if (match.route.path !== PAGE_PATH) this.#assertKnown(headers.authorization ?? "");
    const { name, route, id, page } = match;
    const query = parseQuery(route, url);
    if (route.isRaw === true) {
      const { dashboard } = this.#options;
      await dashboard.serve(name as RawRouteName, { id, query }, request, response);
      return null;
    }
    const input = { id, page, query, body: undefined } as unknown as RouteInput;
    const result =
      name === "pageStory"
        ? this.#options.dashboard.story(id!, page!)
        : await (operations[name as keyof typeof operations] as Operation)(
            this.#options.context!,
            input,
          );
    return { status: 200, type: "application/json", text: `${JSON.stringify(result)}\n` };
  }

  #assertReadable({ name, route }: Match): void {
    if (!readable.has(route.path)) {
      throw new HttpError(404, "This is not served here: ask on the control socket.");
    }
    if (route.method !== "GET") {
      const message = "Nothing can be changed here: use the control socket.";
      throw new HttpError(405, message, { headers: { allow: "GET, HEAD" } });
    }
    const isOurs = route.isRaw === true || name === "pageStory";
    if (isOurs || this.#options.context !== null) return;
    throw new HttpError(404, "Only a daemon answers this.");
  }

  #assertKnown(authorization: string): void {
    const [, given] = /^Bearer +(\S+)$/i.exec(authorization) ?? [];
    if (given !== undefined && isToken(given, this.#options.token)) return;
    throw new HttpError(
      401,
      given === undefined
        ? "The token is missing: `faultline dashboard` prints the address with it."
        : "The token is wrong: `faultline dashboard` prints the address with the right one.",
      { code: "not-allowed", headers: { "www-authenticate": 'Bearer realm="faultline"' } },
    );
  }
}

/** A name of somebody else's that leads here is a trick: his page would be of the same origin. */
function assertNamesThisHost(host: string): void {
  const name = /:\d+$/.test(host) ? splitAddress(host).host : host.replace(/^\[(.*)\]$/, "$1");
  if (isLoopback(name.toLowerCase())) return;
  throw new HttpError(
    403,
    `Only requests to this host by its own name are answered, and this one is to ` +
      `${JSON.stringify(host.slice(0, 100))}: use 127.0.0.1, localhost or [::1].`,
    { code: "not-allowed" },
  );
}
