/** What benchmarks of our promises share: the workspace of a run, in earnest or as a smoke test. */
import { join } from "node:path";
import { Workspace } from "../../src/bench/workspace.ts";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";

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

  /** The path of one of the tests' VMMs that misbehave, built if it has changed. */
  peerProgram(name: "storm" | "flood"): string {
    return compile(join(repositoryRoot, "test", "peer", `${name}.c`), ["-Wextra", "-pthread"]);
  }
}
