/** What went wrong, as HTTP tells it: RFC 9457, and which status each error code has. */
import { STATUS_CODES } from "node:http";
import { describeError, type ErrorCode, FaultlineError } from "../../base/errors.ts";
import type { Problem } from "./schemas.ts";

export const PROBLEM_TYPE = "application/problem+json";
/** For `limit`, and while it is not ready: most such states pass within a second or so. */
const RETRY_AFTER_S = 1;
/** Much of it may come from the request: enough to know it again. */
const MAX_DETAIL = 1000;

/** Every other code is ours or the host's doing: 500. */
const statuses: Readonly<Partial<Record<ErrorCode, number>>> = {
  "bad-request": 400,
  "bad-option": 400,
  "not-allowed": 403,
  "no-session": 404,
  "no-report": 404,
  conflict: 409,
  "socket-in-use": 409,
  limit: 429,
  // The request is as it should be, but not what it names.
  "memory-missing": 422,
  "memory-empty": 422,
  "memory-misaligned": 422,
  "memory-changed": 422,
  "layer-size": 422,
  "layer-holes": 422,
  "image-missing": 422,
  "image-corrupt": 422,
  "report-corrupt": 422,
  "socket-path": 422,
  "socket-failed": 422,
  unsupported: 422,
  // A store is somebody else's server.
  "store-failed": 502,
  "store-refused": 502,
};

/** An error whose status is not told by its code, or that names a field of the request. */
export class HttpError extends FaultlineError {
  readonly status: number;
  readonly field: string | null;
  readonly headers: Readonly<Record<string, string>>;

  constructor(
    status: number,
    message: string,
    more: {
      readonly code?: ErrorCode;
      readonly field?: string;
      readonly headers?: Readonly<Record<string, string>>;
    } = {},
  ) {
    super(more.code ?? "bad-request", message);
    this.status = status;
    this.field = more.field ?? null;
    this.headers = more.headers ?? {};
  }
}

/** What is sent to whoever asked. */
export interface ProblemAnswer {
  readonly status: number;
  readonly headers: Readonly<Record<string, string>>;
  readonly body: Problem;
}

export function problemOf(error: unknown): ProblemAnswer {
  if (!(error instanceof FaultlineError)) {
    const detail = "This is a bug in Faultline. The daemon's log has what happened.";
    return answer(500, "internal", detail, null, {});
  }
  const detail = describeError(error);
  if (error instanceof HttpError) {
    return answer(error.status, error.code, detail, error.field, error.headers);
  }
  return answer(statuses[error.code] ?? 500, error.code, detail, null, {});
}

function answer(
  status: number,
  code: string,
  detail: string,
  field: string | null,
  headers: Readonly<Record<string, string>>,
): ProblemAnswer {
  const isPassing = status === 429 || status === 503;
  return {
    status,
    headers: { ...(isPassing ? { "retry-after": String(RETRY_AFTER_S) } : {}), ...headers },
    body: {
      type: `urn:faultline:error:${code}`,
      title: STATUS_CODES[status] ?? "Error",
      status,
      code,
      detail: detail.length > MAX_DETAIL ? `${detail.slice(0, MAX_DETAIL)}…` : detail,
      ...(field === null ? {} : { field }),
    },
  };
}
