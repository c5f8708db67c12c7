/** A web server with the files of a folder, each answer a fixed time late, and what it gave out. */
import { once } from "node:events";
import { readFile } from "node:fs/promises";
import { createServer, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { join, normalize } from "node:path";
import { setTimeout as delay } from "node:timers/promises";

export class SlowServer {
  requests = 0;
  bytes = 0;
  readonly latencyMs: number;
  readonly #folder: string;
  readonly #server: Server;

  private constructor(folder: string, latencyMs: number) {
    this.#folder = folder;
    this.latencyMs = latencyMs;
    this.#server = createServer((request, response) => {
      void this.#answer(request.url ?? "/", response);
    });
  }

  static async start(folder: string, latencyMs: number): Promise<SlowServer> {
    const server = new SlowServer(folder, latencyMs);
    server.#server.listen(0, "127.0.0.1");
    await once(server.#server, "listening");
    return server;
  }

  get location(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}`;
  }

  /** Counts from here on. */
  reset(): void {
    this.requests = 0;
    this.bytes = 0;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server.close(), "close");
    this.#server.closeAllConnections();
    await closed;
  }

  async #answer(url: string, response: ServerResponse): Promise<void> {
    this.requests += 1;
    await delay(this.latencyMs);
    const path = join(this.#folder, normalize(decodeURIComponent(url)));
    const bytes = await readFile(path).catch(() => null);
    this.bytes += bytes?.length ?? 0;
    if (bytes === null) response.writeHead(404).end();
    else response.writeHead(200, { "content-length": bytes.length }).end(bytes);
  }
}
