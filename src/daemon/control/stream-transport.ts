/** A request to a control socket whose answer comes piece by piece. */
import { request as httpRequest, type IncomingMessage } from "node:http";
import { noAnswer, whyNot } from "./transport.ts";

export interface StreamRequest {
  readonly path: string;
  /** For the first of the answer, not for all of it. */
  readonly deadlineMs: number;
  /** Ends it at any time. */
  readonly signal: AbortSignal;
}

/** @throws FaultlineError `no-daemon` (as `AnswerLost`, too), `not-allowed` */
export async function askForStream(
  socketPath: string,
  { path, deadlineMs, signal }: StreamRequest,
): Promise<IncomingMessage> {
  return await new Promise((resolve, reject) => {
    const request = httpRequest({
      ...{ socketPath, path, signal, agent: false },
      headers: { host: "localhost" },
    });
    const late = setTimeout(() => request.destroy(noAnswer(socketPath, deadlineMs)), deadlineMs);
    request.once("response", (response) => {
      clearTimeout(late);
      resolve(response);
    });
    request.on("error", (error) => {
      clearTimeout(late);
      reject(whyNot(socketPath, error));
    });
    request.end();
  });
}
