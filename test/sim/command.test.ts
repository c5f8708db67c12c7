/** `npm run sim` as its users meet it: summaries, failures, replays, refusals, Ctrl-C. */
import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { describe, test } from "node:test";
import { linuxTracePath } from "../../src/bench/traces.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { TestFolder } from "../support/fixtures.ts";
import { blocksOf, type Row } from "../support/recordings.ts";

const program = join(repositoryRoot, "dist/scripts/sim.js");
const TIMEOUT_MS = 60_000;

function sim(...args: readonly string[]) {
  const { status, stdout, stderr } = spawnSync(process.execPath, [program, ...args], {
    encoding: "utf8",
    timeout: TIMEOUT_MS,
  });
  return { status, stdout, stderr };
}

/** A guest with one vCPU, that computes for 50 us after each page. */
function demandsOf(pages: readonly number[]): Row[] {
  return pages.flatMap((page, index): Row[] => [
    [index * 100, "demand", "guest", page, 1, 0],
    [index * 100 + 50, "copy", "install", page, 1, 500],
  ]);
}

describe("npm run sim", () => {
  test("runs seeds on several threads, and says what was seen", () => {
    const { status, stdout, stderr } = sim("--seeds", "60", "--steps", "50", "--jobs", "2");
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^ +\d+ {2}outcome: partial$/m);
    assert.match(stdout, /^60 seeds from 0 with 50 steps each in .* seeds per second$/m);
    assert.match(stdout, /^Nothing was found\.$/m);
  });

  test("counts the same whatever the number of threads", () => {
    const runs = ["1", "3"].map((jobs) => {
      const { stdout } = sim("--seeds", "50", "--steps", "50", "--jobs", jobs, "--json");
      return JSON.parse(stdout);
    });
    assert.deepEqual(runs[0].seen, runs[1].seen);
    assert.deepEqual([runs[0].seeds, runs[0].failure], [50, null]);
  });

  test("ends with 1 at a failure, and prints the command that replays it", () => {
    const found = sim("--seeds", "200", "--steps", "200", "--mutant", "fault-before-remove");
    assert.equal(found.status, 1, found.stderr);
    const [, seed, sentence] = /^Seed (\d+) fails with .*:\n {2}(.*)$/m.exec(found.stdout)!;
    const [, replay] = /^Replay: npm run sim -- (.*)$/m.exec(found.stdout)!;
    const again = sim(...replay!.split(" "));
    assert.equal(again.status, 1);
    assert.ok(again.stdout.includes(`Seed ${seed} fails`) && again.stdout.includes(sentence!));
    // The trace that it prints ends like the one that was reported.
    const reported = /trace:\n((?: {2}.*\n)+)/.exec(found.stdout)![1]!.replace(/^ {2}/gm, "");
    assert.ok(again.stdout.includes(reported));
  });

  test("plays VMs with KVM Userfault, and says so in the replay", () => {
    const args = ["--userfault", "--seeds", "200", "--steps", "100"];
    const { status, stdout, stderr } = sim(...args);
    assert.equal(status, 0, stderr);
    assert.match(stdout, /^ +\d+ {2}fault by ring$/m);
    const found = sim(...args, "--mutant", "takeover-without-resume", "--json");
    const { failure } = JSON.parse(found.stdout);
    assert.equal(found.status, 1);
    assert.match(failure.message, /waits for ever/);
    assert.match(failure.replay, / --userfault --mutant takeover-without-resume --trace$/);
    assert.equal(sim(...failure.replay.split(" ").slice(4)).status, 1);
  });

  test("plays what a guest did of whom there is a recording, and says so in the replay", () => {
    using folder = new TestFolder();
    const recording = folder.at("guest.fltrace");
    writeFileSync(recording, Buffer.concat(blocksOf(demandsOf([7, 8, 9, 300, 2, 512]))));
    for (const file of [recording, linuxTracePath]) {
      const args = ["--seeds", "60", "--steps", "300", "--demands", file];
      const { status, stdout, stderr } = sim(...args, "--json");
      assert.equal(status, 0, stderr);
      assert.ok(JSON.parse(stdout).seen["touch of a recording"] > 200, file);
      const found = sim(...args, "--mutant", "eagain-treated-as-done", "--json");
      const { failure } = JSON.parse(found.stdout);
      assert.match(failure.message, /wait for ever/);
      assert.ok(failure.replay.includes(` --demands ${file} `));
      assert.equal(sim(...failure.replay.split(" ").slice(4)).status, 1);
    }
  });

  test("touches what was recorded, in its order", () => {
    using folder = new TestFolder();
    const file = folder.at("guest.fltrace");
    writeFileSync(file, Buffer.concat(blocksOf(demandsOf([512, 7, 9, 8, 300]))));
    const calm = "--without remove,signal,layout,shortage,death,refill,race,unreadable,far,ahead";
    const { stdout } = sim(
      ...["--seed", "4", "--steps", "5000", "--demands", file, "--trace"],
      ...`${calm},flood,crowd,neighbours`.split(" "),
    );
    const touched = [...stdout.matchAll(/thread \d+ (?:reads|writes) page (\d+):/g)];
    // Gaps of more than two pages are two wide.
    const first = new Set(touched.map(([, page]) => Number(page)));
    assert.deepEqual([...first].slice(0, 5), [10, 2, 4, 3, 7]);
  });

  test("tells machines the same", () => {
    const { status, stdout } = sim("--seeds", "20", "--mutant", "eexist-without-wake", "--json");
    const { failure } = JSON.parse(stdout);
    assert.equal(status, 1);
    assert.match(failure.message, /wait for ever/);
    assert.match(failure.replay, new RegExp(`^npm run sim -- --seed ${failure.seed} --steps `));
  });

  test("reports the lowest seed that fails, on however many threads", () => {
    const args = ["--seeds", "300", "--steps", "30", "--mutant", "stale-fault-reinstalls"];
    const seeds = ["1", "3"].map((jobs) => {
      const { stdout } = sim(...args, "--jobs", jobs, "--json");
      return JSON.parse(stdout).failure.seed;
    });
    assert.equal(seeds[0], seeds[1]);
  });

  test("ends at Ctrl-C with the summary so far", async () => {
    const args = [program, "--seeds", "10000000", "--jobs", "1"];
    const child = spawn(process.execPath, args, { stdio: ["ignore", "pipe", "pipe"] });
    const deadline = setTimeout(() => child.kill("SIGKILL"), TIMEOUT_MS);
    const output: string[] = [];
    child.stdout.on("data", (chunk) => output.push(String(chunk)));
    await once(createInterface(child.stderr), "line");
    child.kill("SIGINT");
    const [status] = await once(child, "close");
    clearTimeout(deadline);
    assert.equal(status, 130);
    assert.match(output.join(""), /^\d+ seeds from 0 .*\nInterrupted; nothing was found/m);
  });
});

describe("npm run sim refuses", () => {
  const refusals: readonly (readonly [string, RegExp])[] = [
    ["--seeds 0", /^--seeds 0 cannot be used: give a whole number from 1 to /],
    ["--steps many", /^--steps many cannot be used: give a whole number from 0 to /],
    ["--jobs 0", /^--jobs 0 cannot be used: give a whole number from 1 to /],
    ["--seed -1", /^Option '--seed' argument is ambiguous/],
    ["--without rain", /^--without rain cannot be used: give remove or /],
    ["--userfault --without remove", /^--without remove cannot be used: give death or /],
    [
      "--userfault --mutant eexist",
      /^--mutant eexist does not exist: give one of\n {2}clear-before/,
    ],
    ["--mutant none", /^--mutant none does not exist: give one of\n {2}fault-before-remove: /],
    ["--trace", /^--trace prints one world: add --seed S\./],
    ["--seed 1 --seeds 2", /^--seed 1 is one world: leave out --seeds/],
    ["--seed 1 --trace --json", /^--trace and --json exclude each other/],
    ["--demands none", /^--demands none cannot be read: ENOENT/],
    ["--demands package.json", /^package\.json holds no recording of this version/],
    ["--demands x --userfault", /^--demands plays guests of the other kind of VM/],
    ["--fast", /^Unknown option '--fast'\. See npm run sim -- --help\./],
  ];
  for (const [args, message] of refusals) {
    test(args, () => {
      const { status, stdout, stderr } = sim(...args.split(" "));
      assert.equal(status, 2);
      assert.equal(stdout, "");
      assert.match(stderr, message);
    });
  }
});
