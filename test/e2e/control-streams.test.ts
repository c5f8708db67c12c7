/** Answers that come piece by piece, and clients that do not read them, or go. */
import assert from "node:assert/strict";
import { type IncomingMessage, request } from "node:http";
import { describe, test } from "node:test";
import type { TraceStream } from "../../src/daemon/host-service.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { ControlStage } from "../support/control-stage.ts";
import { TableHost } from "../support/table-host.ts";

const BUDGET_MS = 10_000;
const PIECE = Buffer.alloc(64 * 1024, "x");
const LAST = Buffer.from("the end");

/** Pieces without end, until it is told to end; then the last one. */
class EndlessSource implements TraceStream {
  taken = 0;
  ended = 0;
  closed = 0;
  /** What the next piece is instead. */
  failure: Error | null = null;
  /** Gives the pieces time: a source that always has one would never let others run. */
  readonly pieces = this.#all();
  #end: () => void = () => {};
  readonly #isEnded = new Promise<void>((resolve) => {
    this.#end = resolve;
  });

  end(): void {
    this.ended += 1;
    this.#end();
  }

  close(): void {
    this.closed += 1;
  }

  async *#all(): AsyncGenerator<Buffer, void> {
    while (this.ended === 0) {
      if (this.failure !== null) throw this.failure;
      this.taken += 1;
      yield PIECE;
      await new Promise<void>((resolve) => setImmediate(resolve));
    }
    await this.#isEnded;
    yield LAST;
  }
}

class StreamingHost extends TableHost {
  readonly source = new EndlessSource();

  override recordTrace(): TraceStream {
    return this.source;
  }
}

async function open(
  stage: ControlStage,
  method = "GET",
): Promise<{ readonly response: IncomingMessage; readonly leave: () => void }> {
  const sent = request({
    ...{ socketPath: stage.socketPath, method, agent: false },
    path: "/v1/sessions/a/trace",
  });
  sent.on("error", () => undefined);
  const answered = new Promise<IncomingMessage>((resolve) => sent.once("response", resolve));
  sent.end();
  const response = await within("it was answered", answered, BUDGET_MS);
  response.on("error", () => undefined);
  return { response, leave: () => sent.destroy() };
}

describe("an answer that comes piece by piece", () => {
  test("ends well when the server does", async () => {
    const service = new StreamingHost();
    await using stage = await ControlStage.start({ service });
    const { response } = await open(stage);
    assert.equal(response.headers["content-type"], "application/octet-stream");
    assert.equal(response.headers["content-length"], undefined);
    let text = "";
    response.setEncoding("latin1").on("data", (piece: string) => {
      text += piece;
    });
    const over = new Promise<void>((resolve) => response.once("end", () => resolve()));
    await waitFor("some came", () => text.length > 10 * PIECE.length, BUDGET_MS);
    await stage.close();
    await within("the answer ended", over, BUDGET_MS);
    assert.ok(text.endsWith(String(LAST)));
    assert.equal(service.source.closed, 1);
  });

  test("ends when its client goes", async () => {
    const service = new StreamingHost();
    await using stage = await ControlStage.start({ service });
    const { response, leave } = await open(stage);
    response.resume();
    leave();
    await waitFor("it is closed", () => service.source.closed === 1, BUDGET_MS);
    assert.ok(service.source.ended > 0);
  });

  test("waits for a client that does not read, and then cuts it off", async () => {
    const service = new StreamingHost();
    await using stage = await ControlStage.start({ service }, { answerTimeoutMs: 500 });
    const { response } = await open(stage);
    response.pause();
    await waitFor("it is cut off", () => service.source.closed === 1, BUDGET_MS);
    // What sockets and the two ends take: no more was asked for.
    assert.ok(service.source.taken <= 32, `${service.source.taken} pieces were taken`);
    assert.equal((await stage.ask("GET", "/v1/version")).status, 200);
  });

  test("is not begun for a HEAD", async () => {
    const service = new StreamingHost();
    await using stage = await ControlStage.start({ service });
    const { response } = await open(stage, "HEAD");
    assert.equal(response.statusCode, 200);
    await waitFor("it is closed", () => service.source.closed === 1, BUDGET_MS);
    assert.equal(service.source.taken, 0);
  });

  test("that fails in the middle breaks off, and nothing else does", async () => {
    const service = new StreamingHost();
    await using stage = await ControlStage.start({ service });
    const { response } = await open(stage);
    const broken = new Promise<void>((resolve) => response.once("aborted", () => resolve()));
    response.resume();
    service.source.failure = new Error("planted");
    await within("it broke off", broken, BUDGET_MS);
    await waitFor("it is closed", () => service.source.closed === 1, BUDGET_MS);
    assert.equal((await stage.ask("GET", "/v1/version")).status, 200);
  });
});
