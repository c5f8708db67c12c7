/**
 * What may be said to the daemon, and what it answers. From these schemas come the checks of every
 * request, the types of the client, and the OpenAPI document. That they are what `HostService`
 * speaks of, the compiler holds where operations.ts and client.ts put both together.
 *
 * Requests are strict: a field that nobody knows is a mistake. Answers are not: a newer daemon may
 * add some.
 */
import * as v from "valibot";
import { restoreCauses } from "../../base/restore-causes.ts";
import { errorPolicies } from "../../engine/wire.ts";
import { cellKinds } from "../dashboard/protocol.ts";
import { SESSION_ID, sessionStates } from "../host-service.ts";
import { prefaultModes } from "../prefault-mode.ts";
import { reportSummarySchema, restoreReportSchema } from "../reports/report-schema.ts";

const prefaultStates = ["off", "running", "done", "stopped", "cancelled", "kept"] as const;
const endReasons = [
  "exited",
  "gone",
  "complete",
  "detached",
  "killed",
  "cancelled",
  "expired",
  "failed",
] as const;

const LABEL_NAME = /^[A-Za-z0-9][A-Za-z0-9._/-]{0,62}$/;
/** Labels and paths are printed on terminals. JSON Schema's patterns know no `\P{Cc}`. */
const CONTROL_CHARACTERS = "\\u0000-\\u001f\\u007f-\\u009f";
const ABSOLUTE = new RegExp(`^/[^${CONTROL_CHARACTERS}]*$`);
const PRINTABLE = new RegExp(`^[^${CONTROL_CHARACTERS}]*$`);

/** The kernel's PATH_MAX. */
const MAX_PATH = 4096;
const MAX_LAYERS = 64;
const MAX_LABELS = 32;
const MAX_LABEL_VALUE = 256;
const MAX_ALLOWED_UIDS = 64;
/** 2^32 - 1 is chown(2)'s “leave as it is”. */
const LARGEST_ID = 2 ** 32 - 2;
const DAY_S = 86_400;
const HOUR_S = 3600;

const printable = v.regex(PRINTABLE, "no control characters");
const path = v.pipe(v.string(), v.minLength(1), v.maxLength(MAX_PATH), printable);
const absolutePath = v.pipe(
  v.string(),
  v.maxLength(MAX_PATH),
  v.regex(ABSOLUTE, "an absolute path"),
);
const userId = v.pipe(v.number(), v.integer(), v.minValue(0), v.maxValue(LARGEST_ID));
const secondsUpTo = (most: number) => v.pipe(v.number(), v.minValue(0), v.maxValue(most));
const idRule = "lower case letters, digits and `-`, at most 64, no `-` in front";
const labelRule = "letters, digits, `.`, `_`, `/` and `-`, at most 63";
const labels = v.record(
  v.pipe(v.string(), v.regex(LABEL_NAME, labelRule)),
  v.pipe(v.string(), v.maxLength(MAX_LABEL_VALUE), printable),
);

const sessionSpec = v.strictObject({
  id: v.exactOptional(v.pipe(v.string(), v.regex(SESSION_ID, idRule))),
  memory: path,
  layers: v.exactOptional(v.pipe(v.array(path), v.maxLength(MAX_LAYERS))),
  onError: v.exactOptional(v.picklist(errorPolicies)),
  prefault: v.exactOptional(v.picklist(prefaultModes)),
  socketPath: v.exactOptional(absolutePath),
  owner: v.exactOptional(v.strictObject({ uid: userId, gid: userId })),
  allowedUids: v.exactOptional(v.pipe(v.array(userId), v.maxLength(MAX_ALLOWED_UIDS))),
  connectWithinS: v.exactOptional(secondsUpTo(DAY_S)),
  recordForS: v.exactOptional(secondsUpTo(HOUR_S)),
  asyncFaults: v.exactOptional(v.boolean()),
  trace: v.exactOptional(v.boolean()),
  labels: v.exactOptional(v.pipe(labels, v.maxEntries(MAX_LABELS))),
});

const sessionQuery = v.strictObject({
  ended: v.exactOptional(v.picklist(["true", "false"])),
  label: v.exactOptional(
    v.pipe(v.array(v.pipe(v.string(), v.regex(/^[^=]+=/, "NAME=VALUE"))), v.maxLength(MAX_LABELS)),
  ),
});

/** Whole seconds: 1 to 3600. */
const TRACE_SECONDS = /^([1-9]\d{0,2}|[12]\d{3}|3[0-5]\d{2}|3600)$/;
const traceQuery = v.strictObject({
  seconds: v.exactOptional(v.pipe(v.string(), v.regex(TRACE_SECONDS, "1 to 3600"))),
});
const metricsQuery = v.strictObject({ sessions: v.exactOptional(v.picklist(["true", "false"])) });

const restoreQuery = v.strictObject({
  connectedAt: v.exactOptional(v.pipe(v.string(), v.isoTimestamp())),
});
const reportQuery = v.strictObject({ memory: v.exactOptional(path) });
const reportList = v.object({ reports: v.array(reportSummarySchema) });

const detachOptions = v.strictObject({ force: v.exactOptional(v.boolean()) });
const prefetchOrder = v.strictObject({ memory: path });
const drainOrder = v.strictObject({ draining: v.boolean() });

const count = v.pipe(v.number(), v.minValue(0));
const moment = v.pipe(v.string(), v.isoTimestamp());

const pageCounts = v.object({
  total: count,
  installed: count,
  removed: count,
  missing: count,
});

const vmView = v.object({
  pid: count,
  attachedAt: moment,
  pageSizeBytes: count,
  regions: count,
  pages: pageCounts,
  counters: v.record(v.string(), v.number()),
  latencyUs: v.object({ p50: count, p99: count }),
  prefaultState: v.picklist(prefaultStates),
  waitsFor: v.nullable(v.string()),
  takeovers: count,
});

const sessionEnd = v.object({
  at: moment,
  reason: v.picklist(endReasons),
  message: v.nullable(v.string()),
});

const sessionFields = {
  id: v.string(),
  state: v.picklist(sessionStates),
  memory: v.string(),
  layers: v.array(v.string()),
  sizeBytes: count,
  socketPath: v.string(),
  onError: v.picklist(errorPolicies),
  prefault: v.picklist(prefaultModes),
  labels: v.record(v.string(), v.string()),
  createdAt: moment,
  vm: v.nullable(vmView),
  end: v.nullable(sessionEnd),
  lastRefusal: v.nullable(v.string()),
};
const sessionView = v.object(sessionFields);

/** What Firecracker is to be told: `mem_backend` of its `PUT /snapshot/load`. */
const firecrackerBackend = v.object({ backend_type: v.literal("Uffd"), backend_path: v.string() });
const createdSession = v.object({ ...sessionFields, firecracker: firecrackerBackend });
const sessionList = v.object({ sessions: v.array(sessionView) });

const imageFields = {
  memory: v.string(),
  kind: v.picklist(["files", "image"]),
  sizeBytes: count,
  dataBytes: count,
  sessions: count,
};
const imageView = v.object(imageFields);
const imageList = v.object({ images: v.array(imageView) });
const fetchedParts = v.object({ parts: count, bytes: count, lost: count });
const prefetchView = v.object({ ...imageFields, fetched: fetchedParts });

const hostView = v.object({
  version: v.string(),
  pid: count,
  startedAt: moment,
  isDraining: v.boolean(),
  sessions: v.object({ waiting: count, attached: count }),
  maxSessions: count,
  takeovers: count,
  workers: v.object({ alive: count, started: count }),
});

const latencies = v.object({ p50: count, p99: count });
const storeStatistics = v.object({
  location: v.string(),
  reads: count,
  retries: count,
  failures: count,
  running: count,
  waiting: count,
  readMs: latencies,
});
const hostStatistics = v.object({
  counters: v.record(v.string(), v.number()),
  latencyUs: latencies,
  refusedHandshakes: count,
  cache: v.object({
    sizeBytes: count,
    usedBytes: count,
    chunks: count,
    loads: count,
    failed: count,
  }),
  stores: v.array(storeStatistics),
});

const digits = v.pipe(v.string(), v.regex(/^[0-9]{1,10}$/, "a whole number"));
const mapQuery = v.strictObject({
  first: v.exactOptional(digits),
  scale: v.exactOptional(digits),
  cells: v.exactOptional(digits),
});
const pageStory = v.object({
  page: count,
  state: v.picklist(cellKinds),
  guestOffset: count,
  hostAddress: v.string(),
  region: count,
  source: v.object({
    kind: v.picklist(["zero", "file", "chunk"]),
    name: v.string(),
    offset: v.nullable(count),
    store: v.nullable(v.string()),
    sizeBytes: count,
  }),
  inCache: v.nullable(v.boolean()),
  demandedAfterMs: v.nullable(count),
  demandOrder: v.nullable(count),
  prefault: v.nullable(v.picklist(["planned", "unplanned"])),
  costUs: v.nullable(count),
  cause: v.nullable(v.picklist(restoreCauses)),
});
const dashboardPlace = v.object({ address: v.nullable(v.string()), token: v.nullable(v.string()) });

const healthView = v.object({ status: v.literal("ok") });
const versionView = v.object({ version: v.string(), api: v.literal("v1"), node: v.string() });
const reloadView = v.object({ status: v.literal("reloaded") });

/** RFC 9457, with the error's code, and the request's field that was wrong. */
const problem = v.object({
  type: v.string(),
  title: v.string(),
  status: count,
  code: v.string(),
  detail: v.string(),
  field: v.exactOptional(v.string()),
});

/** By the names that they have in the OpenAPI document. */
export const schemas = {
  SessionSpec: sessionSpec,
  SessionQuery: sessionQuery,
  SessionView: sessionView,
  CreatedSession: createdSession,
  SessionList: sessionList,
  SessionEnd: sessionEnd,
  VmView: vmView,
  PageCounts: pageCounts,
  FirecrackerBackend: firecrackerBackend,
  DetachOptions: detachOptions,
  RestoreReport: restoreReportSchema,
  RestoreQuery: restoreQuery,
  ReportQuery: reportQuery,
  ReportSummary: reportSummarySchema,
  ReportList: reportList,
  ImageView: imageView,
  ImageList: imageList,
  PrefetchOrder: prefetchOrder,
  PrefetchView: prefetchView,
  DrainOrder: drainOrder,
  HostView: hostView,
  HostStatistics: hostStatistics,
  StoreStatistics: storeStatistics,
  MetricsQuery: metricsQuery,
  TraceQuery: traceQuery,
  MapQuery: mapQuery,
  PageStory: pageStory,
  DashboardPlace: dashboardPlace,
  HealthView: healthView,
  VersionView: versionView,
  ReloadView: reloadView,
  Problem: problem,
} as const;

export type Problem = Readonly<v.InferOutput<typeof problem>>;
