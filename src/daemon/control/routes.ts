/**
 * Every request that the daemon answers, as data: the server looks requests up here, the client
 * takes its types from here, and the OpenAPI document is made of it.
 */
import type * as v from "valibot";
import { schemas } from "./schemas.ts";

type Schema = v.GenericSchema;

export interface Route {
  readonly method: "GET" | "POST" | "DELETE";
  /** `{id}` stands for a session's, `{page}` for a page's number. */
  readonly path: string;
  readonly summary: string;
  readonly query?: Schema;
  /** Names of the query that may come more than once. */
  readonly repeated?: readonly string[];
  readonly body?: Schema;
  readonly isBodyOptional?: boolean;
  readonly status: 200 | 201;
  /** A schema, or the media type of an answer that has none. */
  readonly answer: Schema | string;
  /** Statuses of problems besides those that every request can have. */
  readonly problems: readonly number[];
  /** The same request twice is as good as once: it may be sent again if no answer came. */
  readonly isRepeatable: boolean;
  /** Not one answer at once: the dashboard's streams, and its page. */
  readonly isRaw?: true;
}

export const routes = {
  createSession: {
    method: "POST",
    path: "/v1/sessions",
    summary: "Begin a session: memory for one VM, which connects to the socket that is answered.",
    body: schemas.SessionSpec,
    status: 201,
    answer: schemas.CreatedSession,
    problems: [403, 409, 422, 502],
    isRepeatable: false,
  },
  listSessions: {
    method: "GET",
    path: "/v1/sessions",
    summary: "The sessions in order of creation; with `ended=true` also the last that have ended.",
    query: schemas.SessionQuery,
    repeated: ["label"],
    status: 200,
    answer: schemas.SessionList,
    problems: [],
    isRepeatable: true,
  },
  session: {
    method: "GET",
    path: "/v1/sessions/{id}",
    summary: "One session.",
    status: 200,
    answer: schemas.SessionView,
    problems: [404],
    isRepeatable: true,
  },
  traceSession: {
    method: "GET",
    path: "/v1/sessions/{id}/trace",
    summary:
      "A recording of what is done for the VM, as it grows (docs/FORMAT.md): 3600 s at most.",
    query: schemas.TraceQuery,
    status: 200,
    answer: "application/octet-stream",
    problems: [404, 409],
    isRepeatable: false,
  },
  completeSession: {
    method: "POST",
    path: "/v1/sessions/{id}/complete",
    summary: "Install all of the VM's memory, and let it go when all is there.",
    status: 200,
    answer: schemas.SessionView,
    problems: [404, 409],
    isRepeatable: true,
  },
  detachSession: {
    method: "POST",
    path: "/v1/sessions/{id}/detach",
    summary: "Let the VM go now. With pages missing it freezes at the next: that takes `force`.",
    body: schemas.DetachOptions,
    isBodyOptional: true,
    status: 200,
    answer: schemas.SessionView,
    problems: [404, 409],
    isRepeatable: false,
  },
  killSession: {
    method: "POST",
    path: "/v1/sessions/{id}/kill",
    summary: "Kill the VM's process; a session that waits for its VM just ends.",
    status: 200,
    answer: schemas.SessionView,
    problems: [404, 409],
    isRepeatable: false,
  },
  deleteSession: {
    method: "DELETE",
    path: "/v1/sessions/{id}",
    summary: "The same as `kill`.",
    status: 200,
    answer: schemas.SessionView,
    problems: [404, 409],
    isRepeatable: false,
  },
  report: {
    method: "GET",
    path: "/v1/sessions/{id}/report",
    summary:
      "Where the time of a session's restore has gone; kept for a while beyond its end. The last " +
      "of this id, or the one whose VM connected then.",
    query: schemas.RestoreQuery,
    status: 200,
    answer: schemas.RestoreReport,
    problems: [404, 422],
    isRepeatable: true,
  },
  listReports: {
    method: "GET",
    path: "/v1/reports",
    summary: "The restores that are reported of, the newest first; with `memory` those of one.",
    query: schemas.ReportQuery,
    status: 200,
    answer: schemas.ReportList,
    problems: [],
    isRepeatable: true,
  },
  listImages: {
    method: "GET",
    path: "/v1/images",
    summary: "The memory files and images that are open now.",
    status: 200,
    answer: schemas.ImageList,
    problems: [],
    isRepeatable: true,
  },
  prefetchImage: {
    method: "POST",
    path: "/v1/images/prefetch",
    summary: "Bring into memory what restores of an image need. Answered when that is done.",
    body: schemas.PrefetchOrder,
    status: 200,
    answer: schemas.PrefetchView,
    problems: [403, 422, 502],
    isRepeatable: true,
  },
  health: {
    method: "GET",
    path: "/v1/health",
    summary: "200 while the main loop and every fault worker answer.",
    status: 200,
    answer: schemas.HealthView,
    problems: [503],
    isRepeatable: true,
  },
  ready: {
    method: "GET",
    path: "/v1/ready",
    summary: "200 while sessions are taken: 503 while it drains, or takes over its VMs.",
    status: 200,
    answer: schemas.HealthView,
    problems: [503],
    isRepeatable: true,
  },
  host: {
    method: "GET",
    path: "/v1/host",
    summary: "The daemon itself: since when, how many sessions, how often its pager was replaced.",
    status: 200,
    answer: schemas.HostView,
    problems: [],
    isRepeatable: true,
  },
  statistics: {
    method: "GET",
    path: "/v1/statistics",
    summary: "Sums over all VMs, the cache, and the stores.",
    status: 200,
    answer: schemas.HostStatistics,
    problems: [],
    isRepeatable: true,
  },
  version: {
    method: "GET",
    path: "/v1/version",
    summary: "Versions of the daemon and of this API.",
    status: 200,
    answer: schemas.VersionView,
    problems: [],
    isRepeatable: true,
  },
  drain: {
    method: "POST",
    path: "/v1/drain",
    summary: "Take no more sessions, or take them again. Those that are there go on.",
    body: schemas.DrainOrder,
    status: 200,
    answer: schemas.HostView,
    problems: [],
    isRepeatable: true,
  },
  reload: {
    method: "POST",
    path: "/v1/reload",
    summary: "Replace the pager by a new one, with new code and configuration.",
    status: 200,
    answer: schemas.ReloadView,
    problems: [409],
    isRepeatable: false,
  },
  metrics: {
    method: "GET",
    path: "/metrics",
    summary: "Numbers for Prometheus; with `sessions=true` some of each VM, of 256 at most.",
    query: schemas.MetricsQuery,
    status: 200,
    answer: "text/plain; version=0.0.4; charset=utf-8",
    problems: [404],
    isRepeatable: true,
  },
  dashboardPage: {
    method: "GET",
    path: "/",
    summary: "The dashboard's page.",
    status: 200,
    answer: "text/html; charset=utf-8",
    problems: [404, 503],
    isRepeatable: true,
    isRaw: true,
  },
  watch: {
    method: "GET",
    path: "/v1/watch",
    summary: "The overview of sessions, images, stores and cache, as server-sent events.",
    status: 200,
    answer: "text/event-stream; charset=utf-8",
    problems: [404, 503],
    isRepeatable: true,
    isRaw: true,
  },
  watchSession: {
    method: "GET",
    path: "/v1/sessions/{id}/watch",
    summary: "The map of a VM's memory, as server-sent events.",
    query: schemas.MapQuery,
    status: 200,
    answer: "text/event-stream; charset=utf-8",
    problems: [404, 409, 503],
    isRepeatable: true,
    isRaw: true,
  },
  pageStory: {
    method: "GET",
    path: "/v1/sessions/{id}/pages/{page}",
    summary: "What is known of one page of a VM.",
    status: 200,
    answer: schemas.PageStory,
    problems: [404, 409],
    isRepeatable: true,
  },
  dashboard: {
    method: "GET",
    path: "/v1/dashboard",
    summary: "Where the dashboard is served over TCP, and the token that it wants there.",
    status: 200,
    answer: schemas.DashboardPlace,
    problems: [404],
    isRepeatable: true,
  },
  openapi: {
    method: "GET",
    path: "/v1/openapi.json",
    summary: "This description.",
    status: 200,
    answer: "application/json",
    problems: [],
    isRepeatable: true,
  },
} as const satisfies Readonly<Record<string, Route>>;

export type RouteName = keyof typeof routes;
type Routes = typeof routes;
/** Of routes that are answered bit by bit. */
export type RawRouteName = {
  readonly [Name in RouteName]: Routes[Name] extends { isRaw: true } ? Name : never;
}[RouteName];
type OutputOf<T> = T extends Schema ? v.InferOutput<T> : undefined;

/** What an operation is given; all of it was checked. */
export interface RouteInput<Name extends RouteName = RouteName> {
  readonly id: Routes[Name]["path"] extends `${string}{id}${string}` ? string : undefined;
  readonly page: Routes[Name]["path"] extends `${string}{page}${string}` ? number : undefined;
  readonly query: Routes[Name] extends { query: infer Query } ? OutputOf<Query> : undefined;
  readonly body: Routes[Name] extends { body: infer Body } ? OutputOf<Body> : undefined;
}
export type RouteAnswer<Name extends RouteName> = Routes[Name]["answer"] extends Schema
  ? v.InferOutput<Routes[Name]["answer"]>
  : unknown;
