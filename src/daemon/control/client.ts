/**
 * The control API for programs: a method for each route, typed by the schemas that the daemon
 * checks requests with. Errors have the daemon's codes.
 *
 *     const client = new ControlClient({ socketPath: "/run/faultline/control.sock" });
 *     const { id, firecracker } = await client.createSession({ memory: "/srv/vm.mem" });
 */
import { randomBytes } from "node:crypto";
import { setTimeout as delay } from "node:timers/promises";
import * as v from "valibot";
import { errorCodes, FaultlineError } from "../../base/errors.ts";
import type { ReportSummary, RestoreReport } from "../../report/restore-report.ts";
import type { DashboardPlace, PageStory } from "../dashboard/protocol.ts";
import type {
  HostStatistics,
  HostView,
  ImageView,
  PrefetchView,
  SessionSpec,
  SessionView,
} from "../host-service.ts";
import { HttpError } from "./problem.ts";
import { type Route, type RouteAnswer, type RouteInput, type RouteName, routes } from "./routes.ts";
import { schemas } from "./schemas.ts";
import { askForStream } from "./stream-transport.ts";
import { AnswerLost, askOnce, type ControlAnswer } from "./transport.ts";

export interface ControlClientOptions {
  readonly socketPath: string;
  /** For an answer, from the first try to the last. Default: 15 s. */
  readonly deadlineMs?: number;
}

export interface SessionFilter {
  readonly withEnded?: boolean;
  readonly labels?: Readonly<Record<string, string>>;
}

/** A session that waits for its VM, and what Firecracker is to be told. */
export interface CreatedSession extends SessionView {
  readonly firecracker: { readonly backend_type: "Uffd"; readonly backend_path: string };
}

const DEFAULT_DEADLINE_MS = 15_000;
/** Prefetching reads a whole working set from far away; opening an image, its index. */
const LONG_DEADLINE_MS = 600_000;
/** How often a request is sent at most, and the pause before it is sent again. */
const MAX_TRIES = 3;
const RETRY_PAUSE_MS = 50;

type Input<Name extends RouteName> = Partial<RouteInput<Name>>;

export class ControlClient {
  readonly #socketPath: string;
  readonly #deadlineMs: number;

  constructor({ socketPath, deadlineMs = DEFAULT_DEADLINE_MS }: ControlClientOptions) {
    this.#socketPath = socketPath;
    this.#deadlineMs = deadlineMs;
  }

  /** Survives that the daemon is replaced meanwhile, as the name is chosen here. */
  async createSession(spec: SessionSpec): Promise<CreatedSession> {
    const id = spec.id ?? randomBytes(4).toString("hex");
    const body = { ...spec, id } as RouteInput<"createSession">["body"];
    for (let tries = 1; ; tries++) {
      try {
        // Only the answer may have been lost.
        const session = tries === 1 ? null : await this.#find(id);
        if (session === null) return await this.#ask("createSession", { body }, LONG_DEADLINE_MS);
        const { socketPath } = session;
        return { ...session, firecracker: { backend_type: "Uffd", backend_path: socketPath } };
      } catch (error) {
        const mayRetry = error instanceof AnswerLost && spec.id === undefined && tries < MAX_TRIES;
        if (!mayRetry) throw error;
      }
    }
  }

  async sessions({ withEnded = false, labels = {} }: SessionFilter = {}): Promise<SessionView[]> {
    const label = Object.entries(labels).map(([name, value]) => `${name}=${value}`);
    const query = { ...(withEnded ? { ended: "true" as const } : {}), label };
    return (await this.#ask("listSessions", { query })).sessions;
  }

  async session(id: string): Promise<SessionView> {
    return await this.#ask("session", { id });
  }

  /**
   * The file of a recording, piece by piece, until its time is over, the session ends, or `signal`
   * says so: then, and where the daemon is gone, its end is missing, and reading it throws.
   */
  async traceSession(
    id: string,
    seconds: number,
    signal: AbortSignal,
  ): Promise<AsyncIterable<Uint8Array>> {
    const input: Input<"traceSession"> = { id, query: { seconds: String(seconds) } };
    const path = pathOf(routes.traceSession, input as Input<RouteName>);
    const asked = { path, deadlineMs: this.#deadlineMs, signal };
    const response = await askForStream(this.#socketPath, asked);
    const { statusCode = 0 } = response;
    if (statusCode !== routes.traceSession.status) {
      throw refusal(statusCode, Buffer.concat(await response.toArray()).toString());
    }
    return response;
  }

  async completeSession(id: string): Promise<SessionView> {
    return await this.#ask("completeSession", { id });
  }

  async detachSession(id: string, isForced = false): Promise<SessionView> {
    return await this.#ask("detachSession", { id, body: { force: isForced } });
  }

  async killSession(id: string): Promise<SessionView> {
    return await this.#ask("killSession", { id });
  }

  /**
   * Where the time of a session's restore has gone; its session may be over. Of the last of this
   * id, or of the one whose VM connected then.
   */
  async report(id: string, connectedAt?: string): Promise<RestoreReport> {
    const query = connectedAt === undefined ? {} : { connectedAt };
    return await this.#ask("report", { id, query });
  }

  /** The newest first; of one memory, or of all. */
  async reports(memory?: string): Promise<ReportSummary[]> {
    const query = memory === undefined ? {} : { memory };
    return (await this.#ask("listReports", { query })).reports;
  }

  async images(): Promise<ImageView[]> {
    return (await this.#ask("listImages", {})).images;
  }

  async prefetchImage(memory: string): Promise<PrefetchView> {
    return await this.#ask("prefetchImage", { body: { memory } }, LONG_DEADLINE_MS);
  }

  async host(): Promise<HostView> {
    return await this.#ask("host", {});
  }

  async statistics(): Promise<HostStatistics> {
    return await this.#ask("statistics", {});
  }

  async version(): Promise<RouteAnswer<"version">> {
    return await this.#ask("version", {});
  }

  /** @throws FaultlineError if not all of the daemon answers */
  async health(): Promise<void> {
    await this.#ask("health", {});
  }

  /** @throws FaultlineError if it takes no sessions now */
  async ready(): Promise<void> {
    await this.#ask("ready", {});
  }

  async drain(isDraining: boolean): Promise<HostView> {
    return await this.#ask("drain", { body: { draining: isDraining } });
  }

  /** Returns when the next pager answers. */
  async reload(): Promise<HostView> {
    try {
      await this.#ask("reload", {});
    } catch (error) {
      // The old one may be gone before it has told us.
      if (!(error instanceof AnswerLost)) throw error;
    }
    return await this.host();
  }

  /** Text for Prometheus; with some numbers of each VM if asked for. */
  async metrics(withSessions = false): Promise<string> {
    const query = withSessions ? { sessions: "true" as const } : {};
    return (await this.#ask("metrics", { query })) as string;
  }

  /** What is known of one page of an attached VM. */
  async page(id: string, page: number): Promise<PageStory> {
    return await this.#ask("pageStory", { id, page });
  }

  /** Where the dashboard is to be had besides this socket. */
  async dashboard(): Promise<DashboardPlace> {
    return await this.#ask("dashboard", {});
  }

  async openApi(): Promise<unknown> {
    return await this.#ask("openapi", {});
  }

  async #find(id: string): Promise<SessionView | null> {
    try {
      return await this.session(id);
    } catch (error) {
      if (error instanceof FaultlineError && error.code === "no-session") return null;
      throw error;
    }
  }

  async #ask<Name extends RouteName>(
    name: Name,
    input: Input<Name>,
    deadlineMs = this.#deadlineMs,
  ): Promise<RouteAnswer<Name>> {
    const route: Route = routes[name];
    const asked = {
      method: route.method,
      path: pathOf(route, input),
      body: input.body === undefined ? null : JSON.stringify(input.body),
    };
    const endMs = performance.now() + deadlineMs;
    for (let tries = 1; ; tries++) {
      const leftMs = Math.max(1, Math.round(endMs - performance.now()));
      try {
        const answer = await askOnce(this.#socketPath, { ...asked, deadlineMs: leftMs });
        return read(route, answer) as RouteAnswer<Name>;
      } catch (error) {
        const mayRetry = error instanceof AnswerLost && route.isRepeatable && tries < MAX_TRIES;
        if (!mayRetry || performance.now() + RETRY_PAUSE_MS > endMs) throw error;
        await delay(RETRY_PAUSE_MS);
      }
    }
  }
}

function pathOf(route: Route, { id, page, query }: Input<RouteName>): string {
  if (id !== undefined && !v.is(schemas.SessionSpec.entries.id, id)) {
    throw new FaultlineError("no-session", `There is no session ${JSON.stringify(id)}.`);
  }
  const named = id === undefined ? route.path : route.path.replace("{id}", id);
  const path = named.replace("{page}", String(page));
  const search = new URLSearchParams(
    Object.entries(query ?? {}).flatMap(([name, value]) =>
      [value as string | readonly string[]].flat().map((each): [string, string] => [name, each]),
    ),
  );
  return search.size === 0 ? path : `${path}?${search}`;
}

function read(route: Route, { status, type, text }: ControlAnswer): unknown {
  if (status !== route.status) throw refusal(status, text);
  if (typeof route.answer === "string" && !type.includes("json")) return text;
  const json = parse(text);
  if (typeof route.answer === "string") return json;
  const result = v.safeParse(route.answer, json);
  if (result.success) return result.output;
  const [issue] = result.issues;
  throw strangeAnswer(`${v.getDotPath(issue) ?? "the answer"}: ${issue.message}`);
}

function refusal(status: number, text: string): FaultlineError {
  const result = v.safeParse(schemas.Problem, parse(text));
  if (!result.success) throw strangeAnswer(`status ${status}`);
  const { code, detail, field } = result.output;
  const isKnown = Object.hasOwn(errorCodes, code);
  return new HttpError(status, detail, {
    code: isKnown ? (code as keyof typeof errorCodes) : "system",
    ...(field === undefined ? {} : { field }),
  });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    throw strangeAnswer("no JSON");
  }
}

function strangeAnswer(what: string): FaultlineError {
  return new FaultlineError(
    "no-daemon",
    `What answers on the control socket is no daemon of this version (${what}). Is it the right ` +
      "socket?",
  );
}
