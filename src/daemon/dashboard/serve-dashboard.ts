/** A dashboard of a server in this process, for browsers of this host. */
import type { Logger } from "../log.ts";
import { Dashboard } from "./dashboard.ts";
import { ServerSource, type WatchableServer } from "./server-source.ts";
import { DashboardServer } from "./tcp-server.ts";
import { newToken } from "./token.ts";

export interface ServedDashboard {
  /** The address with a token of its own, once it listens: somebody else may have the port. */
  readonly url: Promise<string>;
  /** Streams that browsers have open. */
  readonly viewers: number;
  close(): Promise<void>;
}

/** `address`: `HOST:PORT`, a loopback address; port 0: any. */
export function serveDashboard(
  server: WatchableServer,
  address: string,
  log: Logger,
): ServedDashboard {
  const dashboard = new Dashboard(new ServerSource(server), log);
  const token = newToken();
  const listener = new DashboardServer({ address, token, dashboard, context: null, log });
  return {
    url: listener.listening.then(() => `http://${listener.address}/#${token}`),
    get viewers() {
      return dashboard.streams;
    },
    close: async () => {
      dashboard.close();
      await listener.close();
    },
  };
}
