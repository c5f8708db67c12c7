/** A dashboard of a server in this process, for browsers of this host. */
import type { Logger } from "../log.ts";
import { Dashboard } from "./dashboard.ts";
import { ServerSource, type WatchableServer } from "./server-source.ts";
import { DashboardServer } from "./tcp-server.ts";
import { newToken } from "./token.ts";

export interface ServedDashboard {
  /** With a token of its own, for as long as it is served. */
  readonly url: string;
  /** Streams that browsers have open. */
  readonly viewers: number;
  close(): Promise<void>;
}

/** Returns when it listens. `address`: `HOST:PORT`, a loopback address; port 0: any. */
export async function serveDashboard(
  server: WatchableServer,
  address: string,
  log: Logger,
): Promise<ServedDashboard> {
  const dashboard = new Dashboard(new ServerSource(server));
  const token = newToken();
  const listener = new DashboardServer({ address, token, dashboard, context: null, log });
  await listener.listening;
  return {
    url: `http://${listener.address}/#${token}`,
    get viewers() {
      return dashboard.streams;
    },
    close: async () => {
      dashboard.close();
      await listener.close();
    },
  };
}
