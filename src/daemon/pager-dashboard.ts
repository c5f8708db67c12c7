/**
 * The dashboard of a pager: on the control socket, and on a TCP address if the settings name one.
 * What makes it is loaded when somebody asks: who stands by does without.
 */
import { describeError } from "../base/errors.ts";
import type { DashboardAccess, OperationContext } from "./control/operations.ts";
import type { Dashboard } from "./dashboard/dashboard.ts";
import type { HostSourceParts } from "./dashboard/host-source.ts";
import type { DashboardPlace } from "./dashboard/protocol.ts";
import type { DashboardServer } from "./dashboard/tcp-server.ts";
import type { DashboardSocket } from "./dashboard-socket.ts";
import type { Logger } from "./log.ts";
import type { DaemonSettings } from "./settings.ts";

export class PagerDashboard implements DashboardAccess {
  readonly #parts: HostSourceParts;
  readonly #log: Logger;
  #dashboard: Promise<Dashboard> | null = null;
  #server: DashboardServer | null = null;
  #token: string | null = null;

  constructor(parts: HostSourceParts, log: Logger) {
    this.#parts = parts;
    this.#log = log;
  }

  load(): Promise<Dashboard> {
    this.#dashboard ??= this.#make();
    return this.#dashboard;
  }

  place(): DashboardPlace {
    return { address: this.#server?.address ?? null, token: this.#token };
  }

  async listen(
    { dashboardAddress: address, runFolder }: DaemonSettings,
    context: OperationContext,
    socket: DashboardSocket,
  ): Promise<void> {
    const log = this.#log;
    socket.forgetAllBut(address);
    if (address === undefined) return;
    const { tokenIn } = await import("./dashboard/token.ts");
    const { DashboardServer } = await import("./dashboard/tcp-server.ts");
    const dashboard = await this.load();
    try {
      const token = tokenIn(runFolder);
      const open = socket.openerOf(address);
      this.#server = new DashboardServer({ address, open, token, dashboard, context, log });
      this.#token = token;
    } catch (error) {
      // VMs are served without it.
      const fields = { address, reason: describeError(error) };
      log.error(fields, "The dashboard is not served over TCP, as its token cannot be kept");
    }
  }

  async close(): Promise<void> {
    (await this.#dashboard)?.close();
    await this.#server?.close();
  }

  async #make(): Promise<Dashboard> {
    const { Dashboard } = await import("./dashboard/dashboard.ts");
    const { HostSource } = await import("./dashboard/host-source.ts");
    return new Dashboard(new HostSource(this.#parts), this.#log);
  }
}
