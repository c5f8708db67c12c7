/**
 * Handlers that are wrong on purpose, each in one way. They prove that the oracle can see, and
 * `npm run sim -- --mutant NAME` shows what a failure looks like. This file holds the list, and
 * those that break the session or the worker; planners are in mutant-planners.ts. PURE.
 */
import type { Outcome } from "../base/outcome.ts";
import type { Prefaulter, PrefaulterOptions } from "../pager/prefaulter.ts";
import * as planners from "./mutant-planners.ts";
import * as prefaulters from "./mutant-prefaulters.ts";
import { type SessionOptions, type Turn, VirtualSession } from "./virtual-session.ts";
import { VirtualWorker, type WorkerWatcher } from "./virtual-worker.ts";
import type { WorldParts } from "./world.ts";

class ForgetsToWakeAfterZeroes extends VirtualSession {
  protected override installZeroes(target: number, count: number): Outcome {
    return super.installZeroes(target, count, false);
  }
}

class ForgetsToWakeTheGroup extends VirtualSession {
  protected override wakeInstalled(): void {}
}

class DrainsWithoutBound extends VirtualSession {
  protected override get readLimit(): number {
    return Number.POSITIVE_INFINITY;
  }
}

class PoisonsAgainstPolicy extends VirtualSession {
  constructor(options: SessionOptions) {
    super({ ...options, policy: "poison" });
  }
}

class ForgetsTheWakeAtExhaustion extends VirtualSession {
  protected override follow(...args: Parameters<VirtualSession["follow"]>): Turn {
    const settlement = args[1];
    return settlement === "exhausted" || settlement === "wakeAndBackoff"
      ? "later"
      : super.follow(...args);
  }
}

class NeverRests extends VirtualSession {
  override turn(nowUs: number): Turn {
    const turn = super.turn(nowUs);
    return turn === "later" ? "again" : turn;
  }
}

class KillsForARefusedPoison extends VirtualSession {
  protected override giveUp(...args: Parameters<VirtualSession["giveUp"]>): Turn {
    const turn = super.giveUp(...args);
    if (turn !== "later") return turn;
    const [index, why, outcome] = args;
    this.failure = { page: this.actions.firstPages[index]!, why, outcome };
    return "failed";
  }
}

class GivesUpTheFirstPageOfALostRun extends VirtualSession {
  protected override split(): boolean {
    return false;
  }
}

class TakesEveryAbsentPartForLost extends VirtualSession {
  protected override isLost(): boolean {
    return this.isPartLost;
  }
}

class TellsOnlyOneSessionOfAPart extends VirtualWorker {
  override need(session: VirtualSession, part: number, isUrgent: boolean): boolean {
    return this.needs.has(part) || super.need(session, part, isUrgent);
  }
}

class ForgetsWhoWasHeldBack extends VirtualWorker {
  protected override relieve(): void {}
}

/** Serves one VM until it is idle, and only then the next. */
class ServesOneVmUntilIdle extends VirtualWorker {
  protected override turn(session: VirtualSession, nowUs: number): Turn {
    let turn = super.turn(session, nowUs);
    for (let more = 0; turn === "again" && more < 1000; more++) turn = super.turn(session, nowUs);
    return turn;
  }
}

class ForgetsUnfinishedSessions extends VirtualWorker {
  protected override schedule(session: VirtualSession, turn: Turn, nowUs: number): void {
    super.schedule(session, turn === "later" ? "idle" : turn, nowUs);
  }
}

class GoesOnWithFailedSessions extends VirtualWorker {
  protected override fail(session: VirtualSession): void {
    super.fail(session);
    session.isWatched = true;
  }
}

/** After exec no process ends: nothing would ever tell. */
class WaitsForTheExitForEver extends VirtualWorker {
  protected override expectExit(session: VirtualSession): void {
    session.isWatched = false;
  }
}

/** What is missing in a VM reads as zeroes once nobody holds its userfaultfd. */
class ClosesFailedSessions extends VirtualWorker {
  protected override fail(session: VirtualSession): void {
    session.isWatched = false;
    session.close();
  }
}

export interface Mutant {
  /** What it does wrong: "A handler that …". */
  readonly mistake: string;
  readonly parts: WorldParts;
}

type PlannerClass = new (
  ...args: ConstructorParameters<typeof planners.OpenPlanner>
) => planners.OpenPlanner;
type SessionClass = new (options: SessionOptions) => VirtualSession;
type PrefaulterClass = new (options: PrefaulterOptions) => Prefaulter;
type WorkerClass = new (watcher: WorkerWatcher) => VirtualWorker;

const planner = (mistake: string, Class: PlannerClass): Mutant => ({
  mistake,
  parts: { makePlanner: (options) => new Class(options) },
});
const prefaulter = (mistake: string, Class: PrefaulterClass): Mutant => ({
  mistake,
  parts: { makePrefaulter: (options) => new Class(options) },
});
const session = (mistake: string, Class: SessionClass): Mutant => ({
  mistake,
  parts: { makeSession: (options) => new Class(options) },
});
const worker = (mistake: string, Class: WorkerClass): Mutant => ({
  mistake,
  parts: { makeWorker: (watcher) => new Class(watcher) },
});

export const mutants: Readonly<Record<string, Mutant>> = {
  "fault-before-remove": planner(
    "applies a REMOVE only after the faults that were read with it",
    planners.AppliesRemovesAfterFaults,
  ),
  "remove-ignored": planner("does not listen to REMOVE", planners.ForgetsRemoves),
  "remove-one-page-short": planner(
    "forgets the last page of every REMOVE",
    planners.ForgetsTheLastRemovedPage,
  ),
  "removed-until-filled": planner(
    "takes a removed page for a missing one, once it was filled with zeroes",
    planners.ForgetsRemovedOnceFilled,
  ),
  "stale-fault-reinstalls": planner(
    "gives an installed page its snapshot bytes again when it faults again",
    planners.InstallsSnapshotBytesTwice,
  ),
  "eexist-forgets-installed": planner(
    "takes an installed page for a missing one after EEXIST",
    planners.ForgetsInstalledAtPresent,
  ),
  "eexist-treated-as-done": planner(
    "marks a page as installed that somebody else filled, or nobody",
    planners.TakesPresentForInstalled,
  ),
  "eexist-without-wake": planner(
    "wakes nobody when the page is present",
    planners.WakesNobodyForPresentPages,
  ),
  "eagain-treated-as-done": planner(
    "takes an operation that was put off for done",
    planners.TakesDeferredForInstalled,
  ),
  "eagain-drops-fault": planner(
    "forgets a fault whose operation was put off",
    planners.DropsDeferredFaults,
  ),
  "partial-treated-as-done": planner(
    "takes half of a run for all of it",
    planners.TakesPartialForInstalled,
  ),
  "partial-progress-forgotten": planner(
    "does not mark what a partial operation has done",
    planners.ForgetsPartialProgress,
  ),
  "enoent-retried-for-ever": planner(
    "tries a page again and again that is registered no more",
    planners.RetriesUnregisteredForEver,
  ),
  "enoent-run-never-split": planner(
    "tries a run that crosses the end of a mapping again, and always as a whole",
    planners.NeverSplitsRuns,
  ),
  "vm-death-ignored": planner("takes ESRCH for a matter of patience", planners.IgnoresDeath),
  "zeroes-for-unreadable": planner(
    "gives zeroes for bytes that cannot be read",
    planners.GivesZeroesForUnreadableBytes,
  ),
  "poisoned-page-replaced": planner(
    "keeps a poisoned page in its queue, so that zeroes follow",
    planners.KeepsPoisonedPagesQueued,
  ),
  "present-page-kept-queued": planner(
    "tries a page for ever that cannot be read, and that somebody else has filled",
    planners.KeepsPresentPagesQueued,
  ),
  "parked-for-ever": planner(
    "forgets the pages that waited for a part",
    planners.ForgetsParkedPages,
  ),
  "overflow-swallowed": planner(
    "does not wake the thread whose fault finds the queue full",
    planners.SwallowsOverflow,
  ),
  "layers-ignored": planner(
    "copies every page from the base layer",
    planners.CopiesAlwaysFromTheBase,
  ),
  "mixed-page-from-one-layer": planner(
    "copies a page that several layers share from one of them",
    planners.CopiesSharedPagesFromOneLayer,
  ),
  "merges-across-regions": planner(
    "takes neighbours in the image for neighbours in host memory",
    planners.MergesAcrossRegions,
  ),
  "wake-forgotten-after-zero": session("installs zeroes without waking", ForgetsToWakeAfterZeroes),
  "wake-forgotten-after-group": session(
    "does not wake the threads of pages that it installed together",
    ForgetsToWakeTheGroup,
  ),
  "wake-forgotten-at-exhaustion": session(
    "lets go of a page that cannot be had without waking its threads",
    ForgetsTheWakeAtExhaustion,
  ),
  "poisons-against-policy": session("poisons although policy says kill", PoisonsAgainstPolicy),
  "refused-poison-kills": session("kills the VM when a poison is put off", KillsForARefusedPoison),
  "lost-run-given-up": session(
    "gives up the first page of a run of which another page is lost",
    GivesUpTheFirstPageOfALostRun,
  ),
  "absent-taken-for-lost": session(
    "gives up pages that wait for another part than the lost one",
    TakesEveryAbsentPartForLost,
  ),
  "never-rests": session("tries again at once what needs a moment", NeverRests),
  "drains-without-bound": session("reads until there is nothing to read", DrainsWithoutBound),
  "prefault-after-remove": prefaulter(
    "installs snapshot bytes ahead where the VMM took the page back",
    prefaulters.InstallsRemovedPages,
  ),
  "prefault-twice": prefaulter(
    "installs snapshot bytes ahead where a page had them before",
    prefaulters.InstallsLostPagesAgain,
  ),
  "prefault-forgotten": prefaulter(
    "does not note what it installed ahead",
    prefaulters.ForgetsWhatItInstalled,
  ),
  "prefault-partial-as-all": prefaulter(
    "takes the part that was installed ahead for all of it",
    prefaulters.TakesPartialForAll,
  ),
  "prefault-deferred-as-done": prefaulter(
    "takes an install ahead that was put off for done",
    prefaulters.TakesDeferredForDone,
  ),
  "let-go-too-early": prefaulter(
    "lets a VM go although pages are missing",
    prefaulters.LetsGoAfterOnePass,
  ),
  "flood-starves-neighbour": worker(
    "serves one VM until it is idle before it looks at the next",
    ServesOneVmUntilIdle,
  ),
  "parts-for-one-only": worker(
    "tells only the first VM that asked for a part of its arrival",
    TellsOnlyOneSessionOfAPart,
  ),
  "held-back-for-ever": worker(
    "never comes back to parts that could not be asked for at once",
    ForgetsWhoWasHeldBack,
  ),
  "failed-vm-left-alive": worker(
    "closes the userfaultfd of a VM that it should kill",
    ClosesFailedSessions,
  ),
  "failed-vm-served-on": worker(
    "goes on with a VM that it could not serve and may not kill",
    GoesOnWithFailedSessions,
  ),
  "dead-vm-kept": worker(
    "waits for the exit of a process that has called exec",
    WaitsForTheExitForEver,
  ),
  "unfinished-forgotten": worker(
    "does not come back to a session that has to wait a moment",
    ForgetsUnfinishedSessions,
  ),
};
