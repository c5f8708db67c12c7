/**
 * A TCP address for a server. It may still belong to a pager that is about to end, so it is tried
 * again for as long as it takes: no VM is to suffer from that.
 */
import type { Server } from "node:http";
import { isIPv4 } from "node:net";
import { describeError } from "../base/errors.ts";
import type { OwnedFd } from "../linux/fd.ts";
import type { Logger } from "./log.ts";

const RETRY_MS = 1000;
const MAX_PORT = 65_535;

/** What the log says. */
export interface ListenerWords {
  readonly serves: string;
  readonly cannot: string;
  readonly failed: string;
}

/**
 * What gives a socket that listens at an address already; the caller owns it.
 * @throws SysError for now there is none
 */
export type OpenListener = (host: string, port: number) => OwnedFd;

export class TcpListener {
  /** The port that it listens on, once it does. */
  readonly listening: Promise<number>;
  readonly #server: Server;
  readonly #address: string;
  readonly #log: Logger;
  readonly #words: ListenerWords;
  readonly #open: OpenListener | null;
  #retry: NodeJS.Timeout | null = null;
  #isTold = false;
  #isClosed = false;

  /** `address`: `HOST:PORT`; port 0: any. `open`: null to bind it here. */
  constructor(
    server: Server,
    address: string,
    log: Logger,
    words: ListenerWords,
    open: OpenListener | null = null,
  ) {
    this.#server = server;
    this.#address = address;
    this.#log = log;
    this.#words = words;
    this.#open = open;
    // Once for all attempts: whoever adds these at each one has a thousand after a while.
    server.on("error", (error) => this.#fail(error));
    this.listening = new Promise((resolve) => {
      server.once("listening", () => {
        log.info({ address: this.address }, words.serves);
        resolve(this.#port());
      });
    });
    this.#listen();
  }

  /** `HOST:PORT` as it is by now; null: it does not listen yet. */
  get address(): string | null {
    const { host } = splitAddress(this.#address);
    return this.#server.listening ? joinAddress(host, this.#port()) : null;
  }

  async close(): Promise<void> {
    this.#isClosed = true;
    if (this.#retry !== null) clearTimeout(this.#retry);
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    this.#server.closeAllConnections();
    await closed;
  }

  #listen(): void {
    const { host, port } = splitAddress(this.#address);
    if (this.#open === null) {
      this.#server.listen(port, host);
      return;
    }
    try {
      this.#server.listen({ fd: this.#open(host, port).intoRawFd() });
    } catch (error) {
      this.#fail(error as Error);
    }
  }

  #fail(error: Error): void {
    if (this.#server.listening) {
      this.#log.error({ error }, this.#words.failed);
      return;
    }
    if (this.#isClosed) return;
    // Once: it is tried again for as long as it takes.
    const fields = { address: this.#address, reason: describeError(error) };
    if (!this.#isTold) this.#log.error(fields, this.#words.cannot);
    this.#isTold = true;
    this.#retry = setTimeout(() => this.#listen(), RETRY_MS).unref();
  }

  #port(): number {
    const address = this.#server.address();
    return typeof address === "object" && address !== null ? address.port : 0;
  }
}

/** `[::1]:9090` and `127.0.0.1:9090`. */
export function splitAddress(address: string): { readonly host: string; readonly port: number } {
  const at = address.lastIndexOf(":");
  const host = address.slice(0, at).replace(/^\[(.*)\]$/, "$1");
  return { host, port: Number(address.slice(at + 1)) };
}

function joinAddress(host: string, port: number): string {
  return host.includes(":") ? `[${host}]:${port}` : `${host}:${port}`;
}

/** `HOST:PORT` with a port that there is. */
export function isAddress(address: string): boolean {
  return /^.+:\d{1,5}$/.test(address) && splitAddress(address).port <= MAX_PORT;
}

/** A name that means this host and nothing else, wherever it is looked up. */
export function isLoopback(host: string): boolean {
  return host === "localhost" || host === "::1" || (isIPv4(host) && host.startsWith("127."));
}

/** `HOST:PORT` of such a name. */
export function isLoopbackAddress(address: string): boolean {
  return isAddress(address) && isLoopback(splitAddress(address).host);
}
