/**
 * Counts what one test file reported: leaf tests only, each with the names of its suites.
 *
 * PURE: fed with the events of node's own runner by scripts/test.ts. The runner reports children
 * before their parent, and a whole file (named by its path) only if no test in it said everything.
 */

/** The part of a `test:pass` or `test:fail` event that is read here. */
export interface TestReport {
  readonly name: string;
  readonly nesting: number;
  readonly skip?: string | boolean;
  readonly todo?: string | boolean;
  readonly file?: string;
  readonly line?: number;
  readonly details: { readonly type?: string | undefined; readonly error?: unknown };
}

export interface Failure {
  readonly name: string;
  readonly location: string;
  /** What a test threw, or a sentence where the file as a whole failed. */
  readonly error: unknown;
}

export interface Skip {
  readonly name: string;
  readonly reason: string;
}

const WHOLE_FILE = "the file as a whole";

export class FileTally {
  readonly #file: string;
  readonly #names: string[] = [];
  /** How many reports came at each depth since the last one above it. */
  readonly #reportCounts: number[] = [];
  /** Tests that began and did not report yet, by name: what hangs if the file does. */
  readonly #running = new Set<string>();
  passedCount = 0;
  readonly failures: Failure[] = [];
  readonly skips: Skip[] = [];

  /** `file`: the path that the runner was given, which names its report of the whole file. */
  constructor(file: string) {
    this.#file = file;
  }

  /** Takes a `test:dequeue`, which comes when a test really begins. */
  begin(event: { readonly name: string }): void {
    if (event.name !== this.#file) this.#running.add(event.name);
  }

  /** The file was ended from outside: says so, and in which tests. */
  endAll(why: string): void {
    const inTests = [...this.#running].map((name) => `"${name}"`).join(", ");
    const error = inTests === "" ? `It was ${why}.` : `It was ${why}, in ${inTests}.`;
    const isWhole = (failure: Failure): boolean => failure.location === this.#file;
    const index = this.failures.findIndex(isWhole);
    const failure = { name: WHOLE_FILE, location: this.#file, error };
    if (index === -1) this.failures.push(failure);
    else this.failures[index] = failure;
  }

  /** Takes a `test:start`, which comes parents first and so tells the names on the way down. */
  start(event: { readonly name: string; readonly nesting: number }): void {
    this.#names.length = event.nesting;
    this.#names[event.nesting] = event.name;
  }

  pass(report: TestReport): void {
    this.#running.delete(report.name);
    const isLeaf = this.#countsAsLeaf(report);
    if (report.nesting === 0 && report.name === this.#file) {
      this.#fail(report, "The file holds no test.");
    } else if (isExcused(report)) {
      this.skips.push({ name: this.#nameOf(report), reason: excuseOf(report) });
    } else if (isLeaf) {
      this.passedCount++;
    }
  }

  fail(report: TestReport): void {
    this.#running.delete(report.name);
    this.#countsAsLeaf(report);
    if (report.todo !== undefined && report.todo !== false) {
      this.skips.push({ name: this.#nameOf(report), reason: excuseOf(report) });
    } else if (failureType(report.details.error) !== "subtestsFailed") {
      this.#fail(report, report.details.error);
    }
  }

  #fail(report: TestReport, error: unknown): void {
    const isWholeFile = report.name === this.#file;
    this.failures.push({
      name: isWholeFile ? WHOLE_FILE : this.#nameOf(report),
      location: isWholeFile ? this.#file : `${report.file ?? this.#file}:${report.line ?? 0}`,
      error: rootError(error),
    });
  }

  #countsAsLeaf(report: TestReport): boolean {
    const childCount = this.#reportCounts[report.nesting + 1] ?? 0;
    this.#reportCounts.length = report.nesting + 1;
    this.#reportCounts[report.nesting] = (this.#reportCounts[report.nesting] ?? 0) + 1;
    return childCount === 0 && report.details.type !== "suite";
  }

  #nameOf(report: TestReport): string {
    return [...this.#names.slice(0, report.nesting), report.name].join(" > ");
  }
}

function isExcused(report: TestReport): boolean {
  return [report.skip, report.todo].some((excuse) => excuse !== undefined && excuse !== false);
}

function excuseOf(report: TestReport): string {
  if (typeof report.skip === "string") return report.skip;
  if (typeof report.todo === "string") return `to be done: ${report.todo}`;
  return "no reason given";
}

function failureType(error: unknown): unknown {
  return error instanceof Error && "failureType" in error ? error.failureType : undefined;
}

/** The runner wraps what a test threw; a process that died has no more than the wrapping. */
function rootError(error: unknown): unknown {
  if (!(error instanceof Error) || failureType(error) === undefined) return error;
  if ("signal" in error && typeof error.signal === "string") {
    return `The process of the file was killed by ${error.signal}.`;
  }
  if ("exitCode" in error && typeof error.exitCode === "number") {
    return `The process of the file ended with exit code ${error.exitCode}.`;
  }
  return error.cause ?? error;
}

/** The skips of all files, grouped by reason, in the order of first appearance. */
export function groupByReason(skips: Iterable<Skip>): Map<string, string[]> {
  const groups = new Map<string, string[]>();
  for (const { name, reason } of skips) {
    const names = groups.get(reason);
    if (names === undefined) groups.set(reason, [name]);
    else names.push(name);
  }
  return groups;
}
