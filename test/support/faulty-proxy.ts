/**
 * A web proxy that does what networks and stores do on bad days: by a seed, or as scripted. It
 * stands between a store and a real server, and passes requests on as they are, so that signatures
 * hold.
 */
import { once } from "node:events";
import {
  Agent,
  createServer,
  type IncomingHttpHeaders,
  type IncomingMessage,
  request,
  type Server,
  type ServerResponse,
} from "node:http";
import type { AddressInfo } from "node:net";
import { buffer } from "node:stream/consumers";
import { Random } from "./fixtures.ts";

export const faults = [
  /** 500 without having asked the server. */
  "error",
  /** 503 SlowDown, as S3 tells it. */
  "slowDown",
  /** The answer's head and half its body, then the connection ends. */
  "cut",
  /** One bit of the body is another one: of the request's if it has one, else of the answer's. */
  "flip",
  /** No answer, ever. */
  "hang",
  /** The connection is reset before the server is asked. */
  "reset",
  /** The server does what was asked, and the answer is lost. */
  "lost",
  /** A byte every now and then. */
  "trickle",
] as const;
export type Fault = (typeof faults)[number];

export interface ProxyOptions {
  readonly seed?: number;
  /** The share of requests that each fault meets, from 0 to 1. */
  readonly shares?: Partial<Record<Fault, number>>;
  readonly latencyMs?: number;
}

const TRICKLE_MS = 20;

export class FaultyProxy {
  /** How often each fault happened. */
  readonly counts: Record<Fault | "none", number>;
  /** The next requests' fates, before chance decides again. */
  readonly script: (Fault | "none")[] = [];
  latencyMs: number;
  readonly #upstreamPort: number;
  readonly #shares: Partial<Record<Fault, number>>;
  readonly #random: Random;
  readonly #server: Server;
  readonly #agent = new Agent({ keepAlive: true });
  readonly #timers = new Set<NodeJS.Timeout>();
  #isClosed = false;

  private constructor(upstreamPort: number, options: ProxyOptions) {
    this.counts = Object.fromEntries([...faults, "none"].map((fault) => [fault, 0])) as Record<
      Fault | "none",
      number
    >;
    this.#upstreamPort = upstreamPort;
    this.#shares = options.shares ?? {};
    this.#random = new Random(options.seed ?? 1);
    this.latencyMs = options.latencyMs ?? 0;
    this.#server = createServer((incoming, answer) => {
      this.#serve(incoming, answer).catch(() => answer.destroy());
    });
  }

  static async start(upstreamPort: number, options: ProxyOptions = {}): Promise<FaultyProxy> {
    const proxy = new FaultyProxy(upstreamPort, options);
    proxy.#server.listen(0, "127.0.0.1");
    await once(proxy.#server, "listening");
    return proxy;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get requests(): number {
    return Object.values(this.counts).reduce((sum, count) => sum + count, 0);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isClosed = true;
    for (const timer of this.#timers) clearTimeout(timer);
    this.#agent.destroy();
    const closed = once(this.#server.close(), "close");
    this.#server.closeAllConnections();
    await closed;
  }

  async #serve(incoming: IncomingMessage, answer: ServerResponse): Promise<void> {
    const fault = this.#nextFault();
    this.counts[fault]++;
    const body = await buffer(incoming);
    if (this.latencyMs > 0) await new Promise<void>((go) => this.#later(this.latencyMs, go));
    switch (fault) {
      case "error":
        return void answer.writeHead(500).end("<html>A page of some proxy</html>");
      case "slowDown":
        return void answer.writeHead(503).end("<Error><Code>SlowDown</Code></Error>");
      case "hang":
        return;
      case "reset":
        return void incoming.socket.resetAndDestroy();
    }
    if (fault === "flip") this.#flip(body);
    const { status, headers, bytes } = await this.#ask(incoming, body);
    if (fault === "lost") return void incoming.socket.resetAndDestroy();
    if (fault === "flip" && body.length === 0) this.#flip(bytes);
    answer.writeHead(status, headers);
    if (fault === "cut") {
      answer.write(bytes.subarray(0, bytes.length >> 1));
      return this.#later(1, () => incoming.socket.destroy());
    }
    if (fault === "trickle") return this.#trickle(answer, bytes);
    answer.end(bytes);
  }

  #nextFault(): Fault | "none" {
    const scripted = this.script.shift();
    if (scripted !== undefined) return scripted;
    let chance = this.#random.next() / 2 ** 32;
    for (const fault of faults) {
      chance -= this.#shares[fault] ?? 0;
      if (chance < 0) return fault;
    }
    return "none";
  }

  async #ask(
    incoming: IncomingMessage,
    body: Buffer,
  ): Promise<{ status: number; headers: IncomingHttpHeaders; bytes: Buffer }> {
    const { method, url, headers } = incoming;
    const sent = request({
      agent: this.#agent,
      host: "127.0.0.1",
      port: this.#upstreamPort,
      method,
      path: url,
      headers,
    });
    sent.end(body);
    const [response] = (await once(sent, "response")) as [IncomingMessage];
    const bytes = await buffer(response);
    return { status: response.statusCode!, headers: response.headers, bytes };
  }

  #flip(bytes: Buffer): void {
    if (bytes.length > 0) bytes[this.#random.below(bytes.length)]! ^= 1 << this.#random.below(8);
  }

  #trickle(answer: ServerResponse, bytes: Buffer, sent = 0): void {
    if (answer.destroyed) return;
    if (sent >= bytes.length) return void answer.end();
    answer.write(bytes.subarray(sent, sent + 1));
    this.#later(TRICKLE_MS, () => this.#trickle(answer, bytes, sent + 1));
  }

  #later(delayMs: number, action: () => void): void {
    // A request that was still with the server when we were closed.
    if (this.#isClosed) return;
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      action();
    }, delayMs);
    this.#timers.add(timer);
  }
}
