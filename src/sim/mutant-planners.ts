/** Planners that are wrong on purpose, each in the one way that its name says. PURE. */
import type { Outcome } from "../base/outcome.ts";
import { ActionKind, type ActionList } from "../pager/actions.ts";
import { PageState } from "../pager/page-table.ts";
import {
  type FaultVerdict,
  Planner,
  type PlannerOptions,
  type Settlement,
} from "../pager/planner.ts";

/** A planner whose parts its faulty children may reach. */
export class OpenPlanner extends Planner {
  readonly parts: PlannerOptions;

  constructor(parts: PlannerOptions) {
    super(parts);
    this.parts = parts;
  }

  /** Rewrites the state of an action's pages. */
  protected rewrite(actions: ActionList, index: number, from: PageState, to: PageState): void {
    const first = actions.firstPages[index]!;
    for (let page = first; page < first + actions.pageCounts[index]!; page++) {
      if (this.parts.table.get(page) === from) this.parts.table.set(page, to);
    }
  }
}

export class ForgetsRemoves extends OpenPlanner {
  override remove(): number {
    return 0;
  }
}

export class ForgetsParkedPages extends OpenPlanner {
  override unpark(): number {
    return 0;
  }
}

export class AppliesRemovesAfterFaults extends OpenPlanner {
  #ranges: (readonly [number, number])[] = [];

  override remove(start: number, end: number): number {
    this.#ranges.push([start, end]);
    return 0;
  }

  override finishPlan(): number {
    for (const [start, end] of this.#ranges) super.remove(start, end);
    this.#ranges = [];
    return super.finishPlan();
  }
}

export class ForgetsTheLastRemovedPage extends OpenPlanner {
  override remove(start: number, end: number): number {
    return super.remove(start, end - this.parts.regions.pageSizeBytes);
  }
}

export class ForgetsRemovedOnceFilled extends OpenPlanner {
  override settle(...args: Parameters<Planner["settle"]>): Settlement {
    const [actions, index, outcome] = args;
    const settlement = super.settle(...args);
    if (outcome === "installed") {
      this.rewrite(actions, index, PageState.removed, PageState.missing);
    }
    return settlement;
  }
}

export class InstallsSnapshotBytesTwice extends OpenPlanner {
  override fault(address: number): FaultVerdict {
    const { regions, table } = this.parts;
    const region = regions.regionAt(address);
    const page = region < 0 ? -1 : regions.pageAt(region, address);
    if (page >= 0 && table.get(page) === PageState.installed) table.set(page, PageState.missing);
    return super.fault(address);
  }
}

export class ForgetsInstalledAtPresent extends OpenPlanner {
  override settle(...args: Parameters<Planner["settle"]>): Settlement {
    const [actions, index, outcome] = args;
    const settlement = super.settle(...args);
    if (outcome === "alreadyPresent") {
      this.rewrite(actions, index, PageState.installed, PageState.missing);
    }
    return settlement;
  }
}

/** Settles one outcome as if it were another. */
abstract class Mistaking extends OpenPlanner {
  protected abstract readonly mistaken: Outcome;
  protected abstract readonly takenFor: Outcome;
  protected readonly answer: Settlement | null = null;

  override settle(...args: Parameters<Planner["settle"]>): Settlement {
    const [actions, index, outcome, doneBytes] = args;
    if (outcome !== this.mistaken) return super.settle(...args);
    const settlement = super.settle(actions, index, this.takenFor, doneBytes);
    return this.answer ?? settlement;
  }
}

export class TakesPresentForInstalled extends Mistaking {
  protected override readonly mistaken = "alreadyPresent";
  protected override readonly takenFor = "installed";
  protected override readonly answer = "wake";
}

export class TakesPartialForInstalled extends Mistaking {
  protected override readonly mistaken = "partial";
  protected override readonly takenFor = "installed";
}

export class DropsDeferredFaults extends Mistaking {
  protected override readonly mistaken = "deferred";
  protected override readonly takenFor = "alreadyPresent";
  protected override readonly answer = "done";
}

export class TakesDeferredForInstalled extends Mistaking {
  protected override readonly mistaken = "deferred";
  protected override readonly takenFor = "installed";
}

export class ForgetsPartialProgress extends Mistaking {
  protected override readonly mistaken = "partial";
  protected override readonly takenFor = "deferred";
}

export class IgnoresDeath extends Mistaking {
  protected override readonly mistaken = "gone";
  protected override readonly takenFor = "deferred";
}

export class RetriesUnregisteredForEver extends OpenPlanner {
  override settle(...args: Parameters<Planner["settle"]>): Settlement {
    const [actions, index, outcome, doneBytes] = args;
    const isLost = outcome === "unregistered" && actions.pageCounts[index] === 1;
    return super.settle(actions, index, isLost ? "deferred" : outcome, doneBytes);
  }
}

export class NeverSplitsRuns extends OpenPlanner {
  override settle(...args: Parameters<Planner["settle"]>): Settlement {
    const [actions, index, outcome, doneBytes] = args;
    const isRun = outcome === "unregistered" && actions.pageCounts[index]! > 1;
    return super.settle(actions, index, isRun ? "deferred" : outcome, doneBytes);
  }
}

export class WakesNobodyForPresentPages extends Mistaking {
  protected override readonly mistaken = "alreadyPresent";
  protected override readonly takenFor = "alreadyPresent";
  protected override readonly answer = "done";
}

export class GivesZeroesForUnreadableBytes extends OpenPlanner {
  override settle(...args: Parameters<Planner["settle"]>): Settlement {
    const [actions, index, outcome] = args;
    const settlement = super.settle(...args);
    if (outcome !== "badSource") return settlement;
    this.rewrite(actions, index, PageState.pending, PageState.removed);
    return "retry";
  }
}

/** As the planner itself did at first: the poisoned page stayed queued, and zeroes followed. */
export class KeepsPoisonedPagesQueued extends OpenPlanner {
  override markPoisoned(actions: ActionList, index: number): void {
    this.parts.table.set(actions.firstPages[index]!, PageState.installed);
  }
}

export class SwallowsOverflow extends OpenPlanner {
  override fault(address: number): FaultVerdict {
    const verdict = super.fault(address);
    return verdict === "overflow" ? "known" : verdict;
  }
}

export class CopiesAlwaysFromTheBase extends OpenPlanner {
  override plan(actions: ActionList): number {
    const count = super.plan(actions);
    actions.owners.fill(0, 0, count);
    return count;
  }
}

export class CopiesSharedPagesFromOneLayer extends OpenPlanner {
  override plan(actions: ActionList): number {
    const count = super.plan(actions);
    for (let index = 0; index < count; index++) {
      if (actions.kinds[index] !== ActionKind.assemble) continue;
      actions.kinds[index] = ActionKind.copy;
      actions.owners[index] = 0;
    }
    return count;
  }
}

export class MergesAcrossRegions extends OpenPlanner {
  override plan(actions: ActionList): number {
    const count = super.plan(actions);
    for (let index = 1; index < count; index++) {
      const end = actions.firstPages[index - 1]! + actions.pageCounts[index - 1]!;
      if (actions.regions[index] === actions.regions[index - 1]) continue;
      if (actions.firstPages[index] === end) actions.regions[index] = actions.regions[index - 1]!;
    }
    return count;
  }
}

/** As the planner itself did at first: COPY fails for its source before it looks at the page. */
export class KeepsPresentPagesQueued extends OpenPlanner {
  override letGo(): void {}
}
