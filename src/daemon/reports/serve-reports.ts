/** Reports of `serve`: there are no sessions with names, but VMs with process ids. */
import type { Session } from "../../engine/session.ts";
import type { FaultTrips } from "../fault-trips.ts";
import type { Logger } from "../log.ts";
import type { MemoryHost } from "../memory-host.ts";
import type { RestoreWatch } from "../restore-watch.ts";
import type { MemoryOptions, ServedMemory } from "../served-memory.ts";
import { LEAST_WINDOW_MS, ReportDesk } from "./report-desk.ts";
import { ReportFiles } from "./report-files.ts";

export interface ServeReportParts {
  readonly memoryHost: MemoryHost;
  readonly served: ServedMemory;
  readonly faultWorkers: number;
  readonly trips: FaultTrips;
  readonly log: Logger;
}

export class ServeReports {
  readonly #memory: MemoryOptions;
  readonly #windowMs: number;
  readonly #served: ServedMemory;
  readonly #desk: ReportDesk;
  readonly #sessions = new Set<Session>();

  constructor(
    folder: string,
    options: MemoryOptions & { readonly recordForMs?: number },
    { memoryHost, served, faultWorkers, trips, log }: ServeReportParts,
  ) {
    this.#memory = options;
    this.#windowMs = Math.max(options.recordForMs ?? 0, LEAST_WINDOW_MS);
    this.#served = served;
    const files = new ReportFiles(folder, log);
    const sessions = (): Iterable<Session> => this.#sessions;
    this.#desk = new ReportDesk({ files, memoryHost, faultWorkers, trips, sessions });
    this.#desk.onWritten = ({ pid }, path) => log.info({ pid, path }, "Wrote a restore report");
  }

  /** Right after `restores` follows it. */
  follow(session: Session, restores: RestoreWatch): void {
    const { memory, layers = [] } = this.#memory;
    let prefaultState = restores.planOf(session)?.prefault === null ? "off" : "running";
    const told = session.onPrefaulted;
    session.onPrefaulted = (report) => {
      prefaultState = report.end;
      told(report);
    };
    this.#sessions.add(session);
    const ended = session.ended.then(({ reason }) => {
      this.#sessions.delete(session);
      return reason;
    });
    this.#desk.begin({
      subject: {
        ...{ id: String(session.pid), memory, layers, labels: {}, takeovers: 0 },
        ...{ session, served: this.#served, restores, attachedMs: Date.now() },
        prefaultState: () => prefaultState,
        // What a file lacks is tried each second, and then the fault worker tells of it. What a
        // store lacks is told as fetched until the store gives up.
        isLost: () => false,
      },
      ...{ windowMs: this.#windowMs, ended },
    });
  }

  /** Every VM's session has ended. */
  async close(): Promise<void> {
    await this.#desk.close();
  }
}
