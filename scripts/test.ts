/**
 * Runs the tests:
 * `node dist/scripts/test.js [--node PATH] [--timeout SECONDS] [--without PART]…
 *   [unit | kernel | … | FILE]…`
 *
 * Node's own runner does the work, one `run()` per file, so that a file which wedges or dies can be
 * ended and told apart from the others on every Node version. Files of kernel, e2e, conformance
 * and browser share a machine's memory and sockets: they run one after the other, in two lanes, the
 * rest in parallel.
 * The last line is always `N passed, N failed, N skipped`.
 */
import { spawnSync } from "node:child_process";
import { once } from "node:events";
import { existsSync, readdirSync } from "node:fs";
import { availableParallelism } from "node:os";
import { join, relative, resolve, sep } from "node:path";
import { run } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { inspect, parseArgs } from "node:util";
import { FileTally, groupByReason, type Skip } from "./test-tally.ts";

/** No file needs half of it on a busy machine; a wedged one must end before its CI job does. */
const DEFAULT_TIMEOUT_SECONDS = 240;
const GRACE_MS = 3000;
const SERIAL_FOLDERS = ["kernel/", "e2e/", "conformance/", "browser/"];
/** Of these, what shares nothing but CPUs with the others: it runs beside them. */
const SECOND_LANE = [
  ...["conformance/", "browser/", "e2e/bench", "e2e/image-", "e2e/s3-store", "e2e/http-store"],
];

const root = resolve(import.meta.dirname, "../..");
const builtTests = join(root, "dist", "test");

const { values, positionals } = parseArgs({
  options: {
    node: { type: "string" },
    timeout: { type: "string" },
    /** Files with this in their path do not run. */
    without: { type: "string", multiple: true, default: [] },
  },
  allowPositionals: true,
});
if (values.node !== undefined) {
  const self = [import.meta.filename, ...positionals];
  if (values.timeout !== undefined) self.push("--timeout", values.timeout);
  for (const part of values.without) self.push("--without", part);
  const child = spawnSync(values.node, self, { stdio: "inherit" });
  if (child.error !== undefined) throw child.error;
  process.exit(child.status ?? 1);
}

/** Where tsc puts every test: dist/ itself also keeps what was renamed or deleted. */
function builtTestFiles(): string[] {
  return readdirSync(join(root, "test"), { recursive: true, encoding: "utf8" })
    .filter((name) => name.endsWith(".test.ts"))
    .map((name) => join(builtTests, name.replace(/\.ts$/, ".js")))
    .sort();
}

/** A filter is a folder of test/, a part of a test's path, or the path of any test file. */
function select(files: readonly string[], filters: readonly string[]): string[] {
  if (filters.length === 0) return [...files];
  const selected = new Set<string>();
  for (const filter of filters) {
    const asPath = resolve(filter).replace(/\.ts$/, ".js").replace(join(root, "test"), builtTests);
    const matches = files.filter(
      (file) =>
        file === asPath ||
        file.startsWith(join(builtTests, filter) + sep) ||
        relative(builtTests, file).includes(filter.replace(/^(dist\/)?test\//, "")),
    );
    if (matches.length === 0 && /\.m?js$/.test(filter) && existsSync(filter)) {
      matches.push(resolve(filter));
    }
    if (matches.length === 0) console.log(`No test file matches ${filter}.`);
    for (const file of matches) selected.add(file);
  }
  return [...selected];
}

const timeoutSeconds = Number(values.timeout ?? DEFAULT_TIMEOUT_SECONDS);
const stopped = new AbortController();
const totals = { passed: 0, failed: 0 };
const skips: Skip[] = [];
const failedNames: string[] = [];

async function runFile(file: string): Promise<void> {
  const startMs = performance.now();
  const tally = new FileTally(file);
  const notes: string[] = [];
  const output: string[] = [];
  const timeout = AbortSignal.timeout(timeoutSeconds * 1000);
  const signal = AbortSignal.any([timeout, stopped.signal]);
  const stream = run({ files: [file], concurrency: 1, signal });
  stream.on("test:dequeue", (event) => tally.begin(event));
  stream.on("test:start", (event) => tally.start(event));
  stream.on("test:pass", (event) => tally.pass(event));
  stream.on("test:fail", (event) => tally.fail(event));
  stream.on("test:stdout", (event) => output.push(event.message));
  stream.on("test:stderr", (event) => output.push(event.message));
  // The runner's own totals come as diagnostics too; they name no file.
  stream.on("test:diagnostic", (event) => event.file !== undefined && notes.push(event.message));
  const isOver = once(stream, "end");
  stream.resume();
  await Promise.race([isOver, afterGrace(signal)]);
  if (timeout.aborted) tally.endAll(`ended after ${timeoutSeconds} s`);
  report(file, tally, notes, output.join(""), performance.now() - startMs);
}

/** Settles some time after the abort: a grandchild may hold the pipes of a file that was ended. */
async function afterGrace(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await once(signal, "abort");
  await delay(GRACE_MS, undefined, { ref: false });
}

function report(
  file: string,
  tally: FileTally,
  notes: readonly string[],
  output: string,
  durationMs: number,
): void {
  const name = file.startsWith(builtTests + sep) ? relative(builtTests, file) : file;
  const isGood = tally.failures.length === 0;
  const counts = [`${tally.passedCount} passed`];
  if (!isGood) counts.push(`${tally.failures.length} failed`);
  if (tally.skips.length > 0) counts.push(`${tally.skips.length} skipped`);
  const verdict = `${isGood ? "ok  " : "FAIL"} ${name.padEnd(40)} ${counts.join(", ")}`;
  console.log(`${verdict} (${durationMs.toFixed(0)} ms)`);
  for (const note of notes) console.log(`     note: ${note}`);
  for (const failure of tally.failures) {
    console.log(`\n  ${failure.name}\n  at ${failure.location}`);
    console.log(describe(failure.error).replace(/^/gm, "    "));
    failedNames.push(`${name}: ${failure.name}`);
  }
  if (!isGood && output !== "")
    console.log(`\n  What it printed:\n${output.replace(/^/gm, "    ")}`);
  totals.passed += tally.passedCount;
  totals.failed += tally.failures.length;
  skips.push(...tally.skips.map((skip) => ({ ...skip, name: `${name}: ${skip.name}` })));
}

/** The error with its stack, but without the runner's own part of it. */
function describe(error: unknown): string {
  if (typeof error === "string") return error;
  const lines = inspect(error, { depth: 4 }).split("\n");
  // The last frame may open the error's own properties.
  return lines.filter((line) => !/^\s+at .*\bnode:internal\/.*[^{]$/.test(line)).join("\n");
}

async function runAll(files: readonly string[], laneCount: number): Promise<void> {
  const queue = [...files];
  const lane = async (): Promise<void> => {
    for (let file = queue.shift(); file !== undefined; file = queue.shift()) {
      if (stopped.signal.aborted) return;
      await runFile(file);
    }
  };
  await Promise.all(Array.from({ length: laneCount }, lane));
}

function printSummary(): void {
  if (failedNames.length > 0) console.log("\nFailed:");
  for (const name of failedNames) console.log(`  ${name}`);
  if (skips.length > 0) console.log("\nSkipped:");
  for (const [reason, names] of groupByReason(skips)) {
    console.log(`  ${reason}`);
    for (const name of names) console.log(`    ${name}`);
  }
  const { passed, failed } = totals;
  if (passed + failed === 0) console.log("\nNo test ran.");
  console.log(`\n${passed} passed, ${failed} failed, ${skips.length} skipped`);
}

// The processes of test files outlive us otherwise: some wedge by design.
for (const name of ["SIGINT", "SIGTERM"] as const) {
  process.once(name, () => stopped.abort(new Error(`stopped by ${name}`)));
}
// Stack traces of the children name the TypeScript files.
process.env.NODE_OPTIONS = `${process.env.NODE_OPTIONS ?? ""} --enable-source-maps`.trim();
const isIn = (file: string, parts: readonly string[]): boolean =>
  parts.some((part) => relative(builtTests, file).startsWith(part));
const isSerial = (file: string): boolean => isIn(file, SERIAL_FOLDERS);
const files = select(builtTestFiles(), positionals).filter(
  (file) => !values.without.some((part) => relative(builtTests, file).includes(part)),
);
console.log(`Node ${process.version}, ${files.length} test files`);
await runAll(
  files.filter((file) => !isSerial(file)),
  availableParallelism(),
);
const serial = files.filter(isSerial);
await Promise.all([
  runAll(
    serial.filter((file) => !isIn(file, SECOND_LANE)),
    1,
  ),
  runAll(
    serial.filter((file) => isIn(file, SECOND_LANE)),
    1,
  ),
]);
printSummary();
const isGood = totals.failed === 0 && totals.passed > 0 && !stopped.signal.aborted;
// A file that did not end in time still keeps its runner, and so us, waiting.
process.stdout.write("", () => process.exit(isGood ? 0 : 1));
