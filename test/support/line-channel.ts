/**
 * A unix socket that one other process connects to, read line by line: a serial port of a guest, or
 * the control socket of QEMU. It listens first, so no line is lost, and no one has to poll.
 */
import { once } from "node:events";
import { createServer, type Server, type Socket } from "node:net";
import { createInterface } from "node:readline";
import { within } from "../../src/kit/wait.ts";

export class LineChannel {
  readonly #server: Server;
  readonly #connected: Promise<Socket>;
  #socket: Socket | null = null;
  readonly #lines: string[] = [];
  #waiter: PromiseWithResolvers | null = null;
  #failure: Error | null = null;
  #onLine = (line: string): void => this.#keep(line);

  private constructor(server: Server) {
    this.#server = server;
    this.#connected = once(server, "connection").then(([socket]) => this.#take(socket));
    this.#connected.catch(() => undefined);
  }

  static async listen(path: string): Promise<LineChannel> {
    const server = createServer();
    const channel = new LineChannel(server);
    server.listen(path);
    await once(server, "listening");
    return channel;
  }

  /** Lines go there as they come, instead of waiting for `next`. */
  onLine(take: (line: string) => void): void {
    this.#onLine = take;
  }

  /** The next line. One caller at a time. */
  async next(what: string, budgetMs: number): Promise<string> {
    const line = this.#lines.shift();
    if (line !== undefined) return line;
    if (this.#failure !== null) throw this.#failure;
    const waiter = promiseWithResolvers();
    this.#waiter = waiter;
    return await within(what, waiter.promise, budgetMs);
  }

  async send(line: string): Promise<void> {
    const socket = this.#socket ?? (await this.#connected);
    socket.write(`${line}\n`);
  }

  /** Whoever waits, or will, gets this error. */
  fail(error: Error): void {
    this.#failure ??= error;
    this.#waiter?.reject(this.#failure);
    this.#waiter = null;
  }

  #take(socket: Socket): Socket {
    this.#socket = socket;
    const lines = createInterface(socket).on("line", (line) => this.#onLine(line));
    // What a reset means is told by the end of the process on the other side.
    for (const source of [socket, lines]) source.on("error", () => undefined);
    return socket;
  }

  #keep(line: string): void {
    if (this.#waiter === null) {
      this.#lines.push(line);
      return;
    }
    this.#waiter.resolve(line);
    this.#waiter = null;
  }

  [Symbol.dispose](): void {
    this.#socket?.destroy();
    this.#server.close();
  }
}

interface PromiseWithResolvers {
  readonly promise: Promise<string>;
  readonly resolve: (line: string) => void;
  readonly reject: (error: Error) => void;
}

/** Promise.withResolvers is not in Node 20. */
function promiseWithResolvers(): PromiseWithResolvers {
  let resolve!: (line: string) => void;
  let reject!: (error: Error) => void;
  const promise = new Promise<string>((onLine, onError) => {
    resolve = onLine;
    reject = onError;
  });
  return { promise, resolve, reject };
}
