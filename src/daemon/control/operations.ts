/** What each route does: a few lines on top of `HostService`. */
import type { Dashboard } from "../dashboard/dashboard.ts";
import type { DashboardPlace } from "../dashboard/protocol.ts";
import type { HostService, SessionView } from "../host-service.ts";
import { HttpError } from "./problem.ts";
import type { RawRouteName, RouteAnswer, RouteInput, RouteName } from "./routes.ts";
import { StreamAnswer } from "./streams.ts";

/** What operations work with. */
export interface OperationContext {
  readonly service: HostService;
  /** Text for Prometheus; without it there are no metrics. */
  readonly metrics?: (withSessions: boolean) => string | Promise<string>;
  /** Without it there is no dashboard. Loaded when somebody asks for it. */
  readonly dashboard?: DashboardAccess;
  /** While VMs are taken over from a pager that has died, nothing new is begun. */
  readonly isTakingOver?: () => boolean;
}

export interface DashboardAccess {
  load(): Promise<Dashboard>;
  /** Where it is served besides the control socket. */
  place(): DashboardPlace;
}

const LONGEST_TRACE_S = 3600;

type Mutable<T> = T extends object ? { -readonly [Key in keyof T]: Mutable<T[Key]> } : T;

type Operations = {
  readonly [Name in Exclude<RouteName, RawRouteName>]: (
    context: OperationContext,
    input: RouteInput<Name>,
  ) => RouteAnswer<Name> | Promise<RouteAnswer<Name>>;
};

export const operations: Operations = {
  createSession: async ({ service }, { body }) => {
    const session = await service.createSession(body);
    const firecracker = { backend_type: "Uffd", backend_path: session.socketPath } as const;
    return { ...plain(session), firecracker };
  },
  listSessions: ({ service }, { query }) => {
    const wanted = (query.label ?? []).map(splitLabel);
    const has = ({ labels }: SessionView): boolean =>
      wanted.every(([name, value]) => Object.hasOwn(labels, name) && labels[name] === value);
    return {
      sessions: service
        .sessions(query.ended === "true")
        .filter(has)
        .map(plain),
    };
  },
  session: ({ service }, { id }) => plain(service.session(id)),
  traceSession: ({ service }, { id, query }) => {
    const seconds = Number(query.seconds ?? LONGEST_TRACE_S);
    return new StreamAnswer(service.recordTrace(id, seconds * 1000));
  },
  completeSession: ({ service }, { id }) => plain(service.completeSession(id)),
  detachSession: async ({ service }, { id, body }) =>
    plain(await service.detachSession(id, body.force ?? false)),
  killSession: async ({ service }, { id }) => plain(await service.killSession(id)),
  deleteSession: async ({ service }, { id }) => plain(await service.killSession(id)),
  report: async ({ service }, { id, query }) =>
    mutable(await service.report(id, query.connectedAt ?? null)),
  listReports: async ({ service }, { query }) =>
    mutable({ reports: await service.listReports(query.memory ?? null) }),
  listImages: ({ service }) => ({ images: [...service.images()] }),
  prefetchImage: async ({ service }, { body }) => await service.prefetchImage(body.memory),
  health: ({ service }) => {
    const { alive, started } = service.view().workers;
    if (alive === started) return { status: "ok" };
    throw unavailable(`Only ${alive} of ${started} fault workers are alive.`);
  },
  ready: ({ service, isTakingOver }) => {
    if (isTakingOver?.() === true) throw unavailable("VMs are being taken over: ask again.");
    if (!service.view().isDraining) return { status: "ok" };
    throw unavailable("The daemon is draining: it takes no more sessions.");
  },
  host: ({ service }) => service.view(),
  statistics: ({ service }) => {
    const { stores, ...rest } = service.statistics();
    return { ...rest, stores: [...stores] };
  },
  version: ({ service }) => ({
    version: service.view().version,
    api: "v1",
    node: process.version,
  }),
  drain: ({ service }, { body }) => service.drain(body.draining),
  reload: async ({ service }) => {
    await service.reload();
    return { status: "reloaded" };
  },
  metrics: async ({ metrics }, { query }) => {
    if (metrics !== undefined) return await metrics(query.sessions === "true");
    throw new HttpError(404, "This daemon has no metrics.");
  },
  pageStory: async (context, { id, page }) => (await dashboardOf(context).load()).story(id, page),
  dashboard: (context) => dashboardOf(context).place(),
  // Loaded when somebody asks for it: a daemon that waits as a standby does without.
  openapi: async () => (await import("./openapi.ts")).openApiDocument(),
};

/** @throws HttpError 404 */
export function dashboardOf({ dashboard }: OperationContext): DashboardAccess {
  if (dashboard !== undefined) return dashboard;
  throw new HttpError(404, "This daemon has no dashboard.");
}

/** Lists that nobody may change, as lists of JSON. */
function plain(session: SessionView): SessionView & { layers: string[] } {
  return { ...session, layers: [...session.layers] };
}

/** The same, as JSON has no lists that nobody may change. */
function mutable<T>(value: T): Mutable<T> {
  return value as Mutable<T>;
}

function splitLabel(label: string): readonly [name: string, value: string] {
  const at = label.indexOf("=");
  return [label.slice(0, at), label.slice(at + 1)];
}

function unavailable(message: string): HttpError {
  return new HttpError(503, message, { code: "conflict" });
}
