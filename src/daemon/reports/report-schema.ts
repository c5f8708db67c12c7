/**
 * What a report looks like in files and answers. Requests and files come from elsewhere: nothing is
 * believed of them. That this is what `report/` speaks of, the compiler holds.
 */
import * as v from "valibot";
import { FaultlineError } from "../../base/errors.ts";
import { restoreCauses } from "../../base/restore-causes.ts";
import {
  REPORT_VERSION,
  type RestoreReport,
  reportCauses,
  reportStates,
} from "../../report/restore-report.ts";

const count = v.pipe(v.number(), v.minValue(0));
const optionalCount = v.nullable(count);
const text = v.string();
const quantiles = v.object({ p50: count, p99: count });
const times = v.object(v.entriesFromList(reportCauses, count));

const prefault = v.object({
  mode: text,
  state: text,
  plannedPages: count,
  prefaultedPages: count,
  usedPages: optionalCount,
  // By a sample: it may say that more was used than there was.
  wastedPages: v.nullable(v.number()),
  latePages: count,
  savedUs: optionalCount,
  demandedPages: count,
  unplannedPages: count,
});

const dear = v.object({
  page: count,
  pages: count,
  costUs: count,
  cause: v.picklist(restoreCauses),
  afterUs: count,
  source: text,
});

const cache = v.object({
  sizeBytes: count,
  usedBytes: count,
  loads: count,
  again: count,
  evictions: count,
  joined: count,
  fetchedBytes: count,
  fetchMs: quantiles,
});

const store = v.object({
  location: text,
  reads: count,
  retries: count,
  timeouts: count,
  failures: count,
  hedges: count,
  bytesRead: count,
  readMs: quantiles,
});

const host = v.object({
  cpus: count,
  faultWorkers: count,
  workerRunDelayUs: optionalCount,
  guestRunDelayUs: optionalCount,
  attachedVms: count,
});

export const restoreReportSchema = v.object({
  version: v.literal(REPORT_VERSION),
  session: text,
  memory: text,
  layers: v.array(text),
  kind: v.picklist(["files", "image"]),
  store: v.nullable(text),
  sizeBytes: count,
  pageSizeBytes: v.pipe(v.number(), v.minValue(1)),
  labels: v.record(text, text),
  pid: count,
  connectedAt: v.pipe(text, v.isoTimestamp()),
  state: v.picklist(reportStates),
  endReason: v.nullable(text),
  wallUs: count,
  waitedUs: count,
  causes: times,
  counters: v.record(text, v.number()),
  latencyUs: quantiles,
  learning: v.object({ mode: text, isRecorded: v.boolean() }),
  prefault: v.nullable(prefault),
  dearest: v.array(dear),
  extents: v.object({
    pagesEach: v.pipe(v.number(), v.minValue(1)),
    costUs: v.array(v.tuple([count, count])),
  }),
  demands: v.nullable(v.object({ sliceUs: count, counts: v.array(count) })),
  takeovers: count,
  cache: v.nullable(cache),
  stores: v.array(store),
  host,
});

export const reportSummarySchema = v.object({
  session: text,
  memory: text,
  layers: v.array(text),
  connectedAt: v.pipe(text, v.isoTimestamp()),
  state: v.picklist(reportStates),
  wallUs: count,
  waitedUs: count,
  finding: v.nullable(text),
});

/**
 * `where`: the file, for the message.
 * @throws FaultlineError `report-corrupt`
 */
export function parseReport(json: string, where: string): RestoreReport {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw corrupt(`${where} is no JSON: it is no restore report, or was cut off`);
  }
  const version = versionOf(value);
  if (version !== REPORT_VERSION) {
    const which = version === null ? "no version" : `version ${JSON.stringify(version)}`;
    throw corrupt(
      `${where} is no restore report of version ${REPORT_VERSION} (it has ${which}): read it ` +
        "with the Faultline that wrote it",
    );
  }
  const parsed = v.safeParse(restoreReportSchema, withAllCauses(value));
  if (parsed.success) return parsed.output;
  const [issue] = parsed.issues;
  throw corrupt(`${where} is no whole restore report: ${v.getDotPath(issue)}: ${issue.message}`);
}

function versionOf(value: unknown): unknown {
  if (typeof value !== "object" || value === null || !("version" in value)) return null;
  return value.version;
}

/** Who wrote it may have known fewer causes. */
function withAllCauses(value: unknown): unknown {
  if (typeof value !== "object" || value === null || !("causes" in value)) return value;
  if (typeof value.causes !== "object" || value.causes === null) return value;
  const none = Object.fromEntries(reportCauses.map((cause) => [cause, 0]));
  return { ...value, causes: { ...none, ...value.causes } };
}

function corrupt(message: string): FaultlineError {
  return new FaultlineError("report-corrupt", `${message}.`);
}
