/** Prefaulters that are wrong on purpose, each in the one way that its name says. PURE. */
import type { Outcome } from "../base/outcome.ts";
import { PageState, PageTable } from "../pager/page-table.ts";
import {
  Prefaulter,
  type PrefaulterOptions,
  type PrefaultSettlement,
} from "../pager/prefaulter.ts";

/** The real table, but for what a mutant does not see, or does not write. */
class FaultyTable extends PageTable {
  readonly #table: PageTable;
  readonly #unseen: readonly PageState[];
  readonly #forgets: boolean;

  constructor(table: PageTable, unseen: readonly PageState[], forgets: boolean) {
    super(table.pageCount, new Uint8Array(PageTable.sizeBytes(table.pageCount)));
    this.#table = table;
    this.#unseen = unseen;
    this.#forgets = forgets;
  }

  override get(page: number): PageState {
    const state = this.#table.get(page);
    return this.#unseen.includes(state) ? PageState.missing : state;
  }

  override installRange(first: number, end: number): void {
    if (!this.#forgets) this.#table.installRange(first, end);
  }
}

export class InstallsRemovedPages extends Prefaulter {
  constructor(options: PrefaulterOptions) {
    super({ ...options, table: new FaultyTable(options.table, [PageState.removed], true) });
  }
}

export class InstallsLostPagesAgain extends Prefaulter {
  constructor(options: PrefaulterOptions) {
    super({ ...options, table: new FaultyTable(options.table, [PageState.installed], true) });
  }
}

export class ForgetsWhatItInstalled extends Prefaulter {
  constructor(options: PrefaulterOptions) {
    super({ ...options, table: new FaultyTable(options.table, [], true) });
  }
}

export class TakesPartialForAll extends Prefaulter {
  override settle(outcome: Outcome, doneBytes: number): PrefaultSettlement {
    return super.settle(outcome === "partial" ? "installed" : outcome, doneBytes);
  }
}

export class TakesDeferredForDone extends Prefaulter {
  override settle(outcome: Outcome, doneBytes: number): PrefaultSettlement {
    return super.settle(outcome === "deferred" ? "installed" : outcome, doneBytes);
  }
}

export class LetsGoAfterOnePass extends Prefaulter {
  override finishPass(): boolean {
    super.finishPass();
    return true;
  }
}
