/**
 * One request to a control socket, and its answer as text. The daemon behind the socket may be
 * replaced at any moment: its listener stays, so that a new connection waits for the next one,
 * while a connection that was accepted by the old one ends.
 */
import { request as httpRequest } from "node:http";
import { describeError, FaultlineError } from "../../base/errors.ts";

export interface ControlRequest {
  readonly method: string;
  readonly path: string;
  /** JSON, or null for none. */
  readonly body: string | null;
  readonly deadlineMs: number;
}

export interface ControlAnswer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

/** Far beyond the answer about a thousand sessions. */
const MAX_ANSWER_BYTES = 64 * 2 ** 20;

/** The connection ended without an answer: whether the request was carried out is not known. */
export class AnswerLost extends FaultlineError {
  constructor(socketPath: string, cause: unknown) {
    const message = `The daemon at ${socketPath} ended the connection without an answer`;
    super("no-daemon", message, { cause });
  }
}

/** @throws FaultlineError `no-daemon` (as `AnswerLost`, too), `not-allowed` */
export async function askOnce(socketPath: string, asked: ControlRequest): Promise<ControlAnswer> {
  const signal = AbortSignal.timeout(asked.deadlineMs);
  return await new Promise((resolve, reject) => {
    const fail = (error: unknown): void =>
      reject(signal.aborted ? noAnswer(socketPath, asked.deadlineMs) : whyNot(socketPath, error));
    const request = httpRequest(
      {
        socketPath,
        method: asked.method,
        path: asked.path,
        signal,
        agent: false,
        headers: {
          host: "localhost",
          accept: "application/json",
          ...(asked.body === null
            ? {}
            : {
                "content-type": "application/json",
                "content-length": Buffer.byteLength(asked.body),
              }),
        },
      },
      (response) => {
        const chunks: Buffer[] = [];
        let sizeBytes = 0;
        response.on("data", (chunk: Buffer) => {
          sizeBytes += chunk.length;
          if (sizeBytes > MAX_ANSWER_BYTES) request.destroy(new Error("the answer is too long"));
          else chunks.push(chunk);
        });
        response.on("error", fail);
        response.on("end", () =>
          resolve({
            status: response.statusCode ?? 0,
            type: response.headers["content-type"] ?? "",
            text: Buffer.concat(chunks).toString(),
          }),
        );
      },
    );
    request.on("error", fail);
    request.end(asked.body ?? undefined);
  });
}

export function noAnswer(socketPath: string, deadlineMs: number): FaultlineError {
  return new FaultlineError(
    "no-daemon",
    `The daemon at ${socketPath} did not answer within ${deadlineMs / 1000} s. Look at its log.`,
  );
}

export function whyNot(socketPath: string, error: unknown): FaultlineError {
  if (error instanceof FaultlineError) return error;
  const { code } = error as NodeJS.ErrnoException;
  switch (code) {
    case "ENOENT":
    case "ECONNREFUSED":
      return new FaultlineError(
        "no-daemon",
        `Nobody listens on ${socketPath}. Start \`faultline daemon\`, or name its socket: ` +
          "--control PATH, or FAULTLINE_CONTROL.",
      );
    case "EACCES":
    case "EPERM":
      return new FaultlineError(
        "not-allowed",
        `This user may not connect to ${socketPath}. Run as the daemon's user, or have its ` +
          "configuration give the socket to you.",
      );
    case "EAGAIN":
      return new FaultlineError(
        "limit",
        `So many wait for the daemon at ${socketPath} that there is no room. Try again.`,
      );
    case "ENAMETOOLONG":
    case "EINVAL":
    case "ENOTSOCK":
      return new FaultlineError(
        "no-daemon",
        `${socketPath} is no socket: ${describeError(error)}.`,
      );
    default:
      return new AnswerLost(socketPath, error);
  }
}
