/**
 * Where a pager's metrics are to be had: on the control socket, and on a TCP address if the
 * settings name one. What makes them is loaded when somebody asks: who stands by does without.
 */
import type { ControlServer } from "./control/server.ts";
import type { Host } from "./host.ts";
import type { Logger } from "./log.ts";
import type { MetricsServer } from "./metrics/server.ts";
import type { DaemonSettings } from "./settings.ts";

export class PagerMetrics {
  /** How long it took to serve all VMs again. */
  takeoverMs = 0;
  /** Whose refusals count, once it is there. */
  control: ControlServer | null = null;
  readonly #host: Host;
  #server: MetricsServer | null = null;

  constructor(host: Host) {
    this.#host = host;
  }

  readonly render = async (withSessions: boolean): Promise<string> => {
    const { renderMetrics } = await import("./metrics/metrics.ts");
    const around = {
      takeoverMs: this.takeoverMs,
      refusedConnections: this.control?.refusedConnections ?? 0,
      refusedRequests: this.control?.refusedRequests ?? 0,
    };
    return renderMetrics(this.#host.numbers(), around, withSessions);
  };

  async listen({ metricsAddress: address }: DaemonSettings, log: Logger): Promise<void> {
    if (address === undefined) return;
    const { MetricsServer } = await import("./metrics/server.ts");
    this.#server = new MetricsServer({ address, metrics: this.render, log });
  }

  async close(): Promise<void> {
    await this.#server?.close();
  }
}
