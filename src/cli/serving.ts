/** What all commands have in common that serve VMs: how they begin, and how they end. */
import { describeError } from "../base/errors.ts";
import type { Logger } from "../daemon/log.ts";
import type { Session } from "../engine/session.ts";
import { notifyServiceManager } from "../linux/notify.ts";

/** Something that serves VMs, and can be told to end. */
export interface Stoppable {
  readonly sessions: ReadonlySet<Session>;
  stopAccepting(): void;
  close(): Promise<void>;
}

/** How long SIGTERM lets attached VMs end by themselves. */
export const DEFAULT_DRAIN_TIMEOUT_S = 5;

/** A service manager that cannot be reached is worth a warning, not the VMs. */
export function tellServiceManager(state: string, log: Logger): void {
  try {
    notifyServiceManager(state);
  } catch (error) {
    const reason = describeError(error);
    log.warn({ reason }, `Cannot tell ${state} to the service manager at $NOTIFY_SOCKET`);
  }
}

/**
 * The first SIGTERM or SIGINT takes no more VMs and lets those that run end; when the time is up,
 * or at the second signal, the process ends with them attached.
 */
export function stopOnSignals(server: Stoppable, log: Logger, drainTimeoutMs: number): () => void {
  let timer: NodeJS.Timeout | undefined;
  let isDraining = false;
  const endNow = (): void => {
    const pids = [...server.sessions].map((session) => session.pid).join(" ");
    if (pids !== "") {
      log.error({ pids }, "Ends with VMs attached: they freeze at their next missing page");
    }
    void server.close();
  };
  const onSignal = (signal: NodeJS.Signals): void => {
    tellServiceManager("STOPPING=1", log);
    if (isDraining || server.sessions.size === 0 || drainTimeoutMs === 0) {
      endNow();
      return;
    }
    isDraining = true;
    server.stopAccepting();
    log.warn(
      { vms: server.sessions.size, seconds: drainTimeoutMs / 1000 },
      `${signal}: waits for the attached VMs to end; a second signal ends at once`,
    );
    timer = setTimeout(endNow, drainTimeoutMs);
    void Promise.all([...server.sessions].map((session) => session.ended)).then(() =>
      server.close(),
    );
  };
  process.on("SIGTERM", onSignal);
  process.on("SIGINT", onSignal);
  return () => {
    clearTimeout(timer);
    process.off("SIGTERM", onSignal);
    process.off("SIGINT", onSignal);
  };
}
