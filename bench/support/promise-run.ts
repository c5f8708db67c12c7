/** What benchmarks of our promises share: the workspace of a run, in earnest or as a smoke test. */
import { Workspace } from "../../src/bench/workspace.ts";

export class PromiseRun extends Workspace {
  readonly isSmoke: boolean;

  constructor(isSmoke: boolean) {
    super();
    this.isSmoke = isSmoke;
  }

  /** What the real run takes, and what is just enough to see that the benchmark works. */
  scaled<T = number>(full: T, smoke: T): T {
    return this.isSmoke ? smoke : full;
  }
}
