/**
 * The dashboard's TCP socket: bound once, and handed from pager to pager. Browsers wait in its
 * backlog meanwhile; and nobody else can have the port, to whom they would tell the token.
 */
import { duplicateFd, type OwnedFd } from "../linux/fd.ts";
import { listenTcp } from "../linux/tcp-socket.ts";
import type { Keeper } from "./keeper.ts";
import type { OpenListener } from "./tcp-listener.ts";

const BACKLOG = 64;
const PREFIX = "dashboard.";

export class DashboardSocket {
  readonly #keeper: Keeper;
  /** By entry. */
  readonly #kept: Map<string, OwnedFd>;

  /** `named`: what the last pager has left. */
  constructor(keeper: Keeper, named: ReadonlyMap<string, readonly OwnedFd[]>) {
    this.#keeper = keeper;
    const ours = [...named].filter(([name]) => name.startsWith(PREFIX));
    this.#kept = new Map(ours.map(([name, fds]) => [name, fds[0]!]));
  }

  /** The settings may have changed since. Undefined: nothing is to be served any more. */
  forgetAllBut(address: string | undefined): void {
    for (const [name, socket] of this.#kept) {
      if (address !== undefined && name === entryOf(address)) continue;
      this.#keeper.drop(name);
      socket.close();
      this.#kept.delete(name);
    }
  }

  openerOf(address: string): OpenListener {
    const name = entryOf(address);
    return (host, port) => {
      let socket = this.#kept.get(name);
      if (socket === undefined) {
        socket = listenTcp(host === "localhost" ? "127.0.0.1" : host, port, BACKLOG);
        this.#keeper.keep(name, [socket.fd]);
        this.#kept.set(name, socket);
      }
      return duplicateFd(socket.fd);
    };
  }
}

function entryOf(address: string): string {
  return `${PREFIX}${address.replaceAll(/[^0-9a-z]+/g, "-")}`;
}
