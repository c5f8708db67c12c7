/**
 * The simulated session and worker are like the engine's: the same bounds by the same names, the
 * same cases, and line by line the same in the loops that decide who gets a turn and when it ends.
 */
import assert from "node:assert/strict";
import { describe, test } from "node:test";
import { readRepositoryFile } from "../support/tree.ts";

const pairs = [
  ["src/engine/worker-session.ts", "src/sim/virtual-session.ts"],
  ["src/engine/worker.ts", "src/sim/virtual-worker.ts"],
  ["src/engine/session-prefault.ts", "src/sim/virtual-prefault.ts"],
] as const;

/** Bounds of files whose code the simulator says in its own way. */
const boundsOnly = [
  ["src/engine/part-needs.ts", "src/sim/virtual-worker.ts"],
  ["src/engine/session-intake.ts", "src/sim/virtual-session.ts"],
  ["src/engine/userfault-intake.ts", "src/sim/userfault/session.ts"],
] as const;

/** What the engine has in a file of its own, and the simulator where it is used. */
const partsOf: Readonly<Record<string, readonly string[]>> = {
  "src/engine/worker-session.ts": ["src/engine/lost-pages.ts"],
};

/** What the simulator has no use for: it makes no runs of bytes, no epoll, no clock, no threads. */
const notMirrored = [
  ...[
    "MAX_RUN_BYTES",
    "MAX_STREAM_BYTES",
    "SHORT_WAIT_US",
    "PACED_STEP_BYTES",
    "FULL_STEP_BYTES",
    "EVENTS_PER_WAIT",
    "MESSAGES_PER_WAIT",
    "SLICE_NS",
    "TELL_WAIT_EVERY_US",
  ],
  ...["ABOUT_CONTROL", "ABOUT_FAULTS", "ABOUT_PROCESS"],
];

/** The constants of a file: `MAX_READS_PER_TURN` → `16`. */
function constants(file: string): Map<string, string> {
  const declarations = readRepositoryFile(file).matchAll(
    /^(?:export )?const ([A-Z][A-Z_]+) = (.+);$/gm,
  );
  return new Map([...declarations].map(([, name, value]) => [name!, value!]));
}

/** The names that a `switch` of the file knows. */
function cases(file: string): Set<string> {
  const text = [file, ...(partsOf[file] ?? [])].map(readRepositoryFile).join("\n");
  const labels = text.matchAll(/^\s+case "(\w+)":$/gm);
  return new Set([...labels].map(([, label]) => label!));
}

/** What only one side has, or each has in its own way. */
const leftOut = new Set([
  ...["lastActiveUs = nowUs;", "const { planner } = options;"],
  "bytes.nowSeconds = Math.floor(nowUs / 1e6);",
  // Each counts the turns that its bound of bytes has ended.
  "if (pagesLeft <= 0) stats.addCutTurn();",
  'if (pagesLeft <= 0) options.tally.add("turn cut by its bytes");',
  ...["sched_yield();", "const nowUs = monotonicUs();"],
  // Nobody asks where virtual time has gone.
  ...["clock.beginTurn(nowUs);", "clock.endTurn(causeOfWait(turn));"],
]);

/** The lines of a method, without what sets the two sides apart in form. */
function methodLines(file: string, name: string): string[] {
  const body = new RegExp(`^  (?:protected )?(?:override )?#?${name}\\(.*\\{\\n([^]*?)^  \\}`, "m");
  const found = body.exec(readRepositoryFile(file));
  assert.ok(found !== null, `${file} has a method ${name}`);
  return found[1]!
    .split("\n")
    .map((line) =>
      line
        .trim()
        .replace(/\bthis\.#?(intake\.)?/g, "")
        .replace('failure !== ""', "failure !== null"),
    )
    .filter((line) => !leftOut.has(line) && !line.startsWith("//"));
}

test("a session's turn is the same, line by line", () => {
  const [original, mirror] = pairs[0];
  for (const method of ["turn", "takeTurn"]) {
    assert.deepEqual(methodLines(mirror, method), methodLines(original, method), method);
  }
});

test("so is what a session with KVM Userfault does before it waits", () => {
  const [original, mirror] = boundsOnly[2];
  assert.deepEqual(methodLines(mirror, "rest"), methodLines(original, "rest"));
});

test("so are the ends of a step ahead", () => {
  const [original, mirror] = pairs[2];
  for (const method of ["endPass", "end"]) {
    assert.deepEqual(methodLines(mirror, method), methodLines(original, method), method);
  }
});

test("so is the worker's way to go on with unfinished sessions", () => {
  const [original, mirror] = pairs[1];
  assert.deepEqual(methodLines(mirror, "goOn"), methodLines(original, "goOn"));
});

for (const [original, mirror] of [...pairs, ...boundsOnly]) {
  test(`${mirror} has the constants of ${original}`, () => {
    const mirrored = constants(mirror);
    const expected = [...constants(original)].filter(([name]) => !notMirrored.includes(name));
    assert.ok(expected.length > 0, "the original has constants");
    for (const [name, value] of expected) {
      assert.equal(mirrored.get(name), value, `${name} of ${original}`);
    }
  });
}

for (const [original, mirror] of pairs) {
  describe(`${mirror}, the mirror of ${original}`, () => {
    test("knows the same settlements and outcomes", () => {
      assert.deepEqual([...cases(mirror)].sort(), [...cases(original)].sort());
    });
  });
}
