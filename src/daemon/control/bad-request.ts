/** Answers what is no HTTP at all, or not in time: Node has given up on the connection by then. */
import type { Duplex } from "node:stream";
import { HttpError, PROBLEM_TYPE, problemOf } from "./problem.ts";

/**
 * @param isAnswering an answer to an earlier request is due on this connection: what came before it
 *   would be taken for it
 */
export function answerBadRequest(
  error: NodeJS.ErrnoException,
  socket: Duplex,
  isAnswering: boolean,
): void {
  if (!socket.writable || error.code === "ECONNRESET" || isAnswering) {
    socket.destroy();
    return;
  }
  const { status, body } = problemOf(whatIsWrong(error));
  const text = `${JSON.stringify(body)}\n`;
  socket.end(
    `HTTP/1.1 ${status} ${body.title}\r\nContent-Type: ${PROBLEM_TYPE}\r\n` +
      `Content-Length: ${Buffer.byteLength(text)}\r\nConnection: close\r\n\r\n${text}`,
    () => socket.destroy(),
  );
}

function whatIsWrong({ code }: NodeJS.ErrnoException): HttpError {
  switch (code) {
    case "HPE_HEADER_OVERFLOW":
      return new HttpError(431, "The headers are too long.");
    case "HPE_CHUNK_EXTENSIONS_OVERFLOW":
      return new HttpError(413, "The chunk extensions are too long.");
    case "ERR_HTTP_REQUEST_TIMEOUT":
      return new HttpError(408, "The request did not come to its end in time.");
    default:
      return new HttpError(400, `This is no HTTP request (${code ?? "unknown"}).`);
  }
}
