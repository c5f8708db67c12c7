/**
 * The engine in this process against VMs that give memory back and use it again all the time: the
 * race between faults, REMOVE events and copies, with an oracle that knows what each page may hold.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { describe, test } from "node:test";
import { createLogger } from "../../src/daemon/log.ts";
import { Server } from "../../src/daemon/server.ts";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { within } from "../../src/kit/wait.ts";
import type { SpinMode } from "../../src/pager/pacing.ts";
import { overlay, Random, randomRuns, TestFolder, writeSparse } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";

const needs = requires("userfaultfd", "cc");
const needsHugePages = requires("userfaultfd", "cc", "hugepages");
/** 8 MiB: soon all of it has been read, so each VM lives for a short while only. */
const PAGE_COUNT = 2048;
const STRESS_MS = 3000;
const VM_MS = 400;
const VM_BUDGET_MS = 30_000;
const SEED = Number(process.env.FAULTLINE_CHURN_SEED ?? 20_261_123);

interface ChurnResult {
  readonly reads: number;
  readonly removes: number;
  readonly wrong: number;
}

/** Runs test/peer/churn.c to its end, and makes sure that it saw nothing wrong. */
async function churn(socket: string, expected: string, flags: readonly (string | number)[]) {
  const binary = compile(join(repositoryRoot, "test/peer/churn.c"), ["-pthread"]);
  const child = spawn(binary, [socket, expected, ...flags.map(String)]);
  let output = "";
  let errors = "";
  child.stdout.setEncoding("utf8").on("data", (text: string) => {
    output += text;
  });
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    errors += text;
  });
  try {
    const [code] = await within("the VM ended", once(child, "close"), VM_BUDGET_MS);
    assert.equal(code, 0, `${output}${errors}`);
    return JSON.parse(output) as ChurnResult;
  } finally {
    child.kill("SIGKILL");
  }
}

interface Stress {
  readonly huge: boolean;
  readonly workers: number;
  readonly spin: SpinMode;
  readonly vms: number;
}

async function stress({ huge, workers, spin, vms }: Stress): Promise<void> {
  using folder = new TestFolder();
  const random = new Random(SEED);
  const longest = huge ? 700 : 40;
  const runs = randomRuns(random, PAGE_COUNT, longest);
  const diff = randomRuns(random, PAGE_COUNT, longest);
  const expected = writeSparse(folder.at("memory"), PAGE_COUNT, runs, SEED);
  overlay(expected, writeSparse(folder.at("diff"), PAGE_COUNT, diff, SEED + 1), diff);
  writeFileSync(folder.at("expected"), expected);
  const server = await Server.start({
    memory: folder.at("memory"),
    layers: [folder.at("diff")],
    socketPath: folder.at("socket"),
    logger: createLogger("error", "json"),
    workers,
    spin,
  });
  try {
    const deadlineMs = performance.now() + STRESS_MS;
    let removes = 0;
    for (let round = 0; performance.now() < deadlineMs; round++) {
      const results = await Promise.all(
        Array.from({ length: vms }, (_, vm) => {
          const flags = [VM_MS, 1 + ((round + vm) % 6), SEED + round * vms + vm];
          const pages = huge ? ["--huge"] : [];
          return churn(server.socketPath, folder.at("expected"), [...flags, ...pages]);
        }),
      );
      for (const result of results) removes += result.removes;
    }
    await Promise.all([...server.sessions].map((session) => session.ended));
    const counters = server.totalStats().counters();
    assert.ok(removes > 0, "pages were given back");
    // With a handful of huge pages, a seed may have no data, or no hole.
    const kinds = [counters.installedPages, counters.zeroPages].filter((pages) => pages > 0);
    assert.ok(kinds.length === 2 || (huge && kinds.length === 1), "pages were installed");
    assert.equal(counters.removedPages, removes);
    assert.equal(counters.overflowed, 0);
    assert.equal(server.failedSessions, 0);
  } finally {
    await server.close();
  }
}

describe(`memory given back and used at the same time (seed ${SEED})`, () => {
  test("three VMs on one worker", needs, async () => {
    await stress({ huge: false, workers: 1, spin: "auto", vms: 3 });
  });

  test("two VMs on two workers that never spin", needs, async () => {
    await stress({ huge: false, workers: 2, spin: "off", vms: 2 });
  });

  test("two VMs of huge pages", needsHugePages, async () => {
    await stress({ huge: true, workers: 1, spin: "auto", vms: 2 });
  });
});
