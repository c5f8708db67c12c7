/** A `Server` as its dashboard sees it, and what is noted of its VMs for that. */
import type { Engine } from "../engine/engine.ts";
import type { Session } from "../engine/session.ts";
import type { SessionStats } from "../engine/session-stats.ts";
import type { ServedVm, WatchableServer } from "./dashboard/server-source.ts";
import type { TrackedVm } from "./dirty-tracking.ts";
import type { MemoryHost } from "./memory-host.ts";
import type { RefusalLog } from "./refusal-log.ts";
import type { RestorePlan, RestoreWatch } from "./restore-watch.ts";
import type { ServedMemory } from "./served-memory.ts";
import { WaitNote } from "./wait-note.ts";

export interface WatchedParts {
  readonly memoryName: string;
  readonly maxVms: number;
  readonly memoryHost: MemoryHost;
  readonly memory: ServedMemory;
  readonly restores: RestoreWatch;
  readonly engine: Engine;
  readonly sessions: ReadonlySet<Session>;
  readonly endedStats: SessionStats;
  readonly refusals: RefusalLog;
  readonly vms: WeakMap<Session, ServedVm>;
  readonly stopped: AbortSignal;
}

export function watchServer(version: string, parts: WatchedParts): WatchableServer {
  const { engine, memoryName, maxVms, memory, memoryHost, restores, sessions, endedStats } = parts;
  return {
    ...{ version, memoryName, maxVms, memory, memoryHost, restores, sessions, endedStats },
    get workers() {
      return { alive: engine.aliveWorkers, started: engine.startedWorkers };
    },
    get refusedVms() {
      return parts.refusals.total;
    },
    get isDraining() {
      return parts.stopped.aborted;
    },
    vmOf: (session) => parts.vms.get(session)!,
  };
}

export function servedVm({ prefault }: RestorePlan, tracked: TrackedVm | null): ServedVm {
  return {
    attachedMs: Date.now(),
    wait: new WaitNote(),
    prefaultState: prefault === null ? "off" : "running",
    dirtyBits: tracked === null ? null : () => tracked.dirtyBits(),
  };
}

/** Beside whoever is told already. */
export function noteWaits(session: Session, vm: ServedVm): void {
  const told = session.onWait;
  session.onWait = (reason) => {
    vm.wait.tell(reason);
    told(reason);
  };
}
