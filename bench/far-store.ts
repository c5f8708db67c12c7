/**
 * Restores from a store whose every answer comes 20 ms late: how soon a real Linux guest answers,
 * and what many VMs of one image fetch together.
 */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync } from "node:fs";
import { type GuestPlan, timeFaults } from "../src/bench/guests.ts";
import { packImage } from "../src/bench/packed.ts";
import { SlowServer } from "../src/bench/slow-server.ts";
import { median } from "../src/bench/statistics.ts";
import { MIB } from "../src/bench/workspace.ts";
import { HandlerCommand } from "../src/kit/handler-command.ts";
import { HandlerProcess } from "../src/kit/handler-process.ts";
import { type GuestSnapshot, LinuxGuest } from "../test/support/linux-guest-machine.ts";
import { whyNoLinuxGuest } from "../test/support/linux-guest-parts.ts";
import { writeMemoryLike } from "./support/memory-like.ts";
import type { PromiseRun } from "./support/promise-run.ts";
import { type Measure, measure, type Report } from "./support/report.ts";

const LATENCY_MS = 20;
const VMS = 20;
const SEED = 7;
const FIRST_ANSWER_LIMIT = 0.1;
const FETCHED_LIMIT = 1.05;
const PAGE_BYTES = 4096;
const END_DEADLINE_MS = 15_000;

interface Answer {
  readonly ms: number;
  readonly faults: number;
  readonly requests: number;
}

export async function farStore(run: PromiseRun): Promise<Report> {
  const why = run.isSmoke ? "a smoke run" : whyNoLinuxGuest();
  const answers = why === null ? await firstAnswers(run) : [];
  const shared = await manyRestores(run);
  const measures: Measure[] = [];
  if (answers.length > 0) {
    const onePerPage = answers.map(({ faults }) => faults * LATENCY_MS);
    measures.push(
      measure("first answer of a Linux guest", "ms", median(answers.map(({ ms }) => ms)), {
        reference: median(onePerPage),
        ratio: median(answers.map(({ ms }, index) => ms / onePerPage[index]!)),
        target: { of: "ratio", limit: FIRST_ANSWER_LIMIT },
      }),
      measure("of it, requests", "times", median(answers.map(({ requests }) => requests)), {
        reference: median(answers.map(({ faults }) => faults)),
      }),
    );
  }
  measures.push(
    measure(`fetched by ${VMS} VMs`, "MiB", shared.many / MIB, {
      reference: shared.one / MIB,
      target: { of: "ratio", limit: FETCHED_LIMIT },
    }),
  );
  return {
    bench: "far-store",
    method:
      `A web server that answers ${LATENCY_MS} ms late, chunks of 256 KiB. First answer: ` +
      (why === null
        ? `${answers.length} restores of a Debian guest of 256 MiB in QEMU, each by a new serve ` +
          "process with an empty cache, from QEMU's start to the answer; beside it, its faults " +
          `times ${LATENCY_MS} ms. `
        : `not measured (${why}). `) +
      `Fetched: by one VM that touches all of ${shared.sizeMib} MiB, beside ${VMS} at once.`,
    sides: ["one by one", "Faultline"],
    commands: shared.commands,
    measures,
    samples: answers.map((answer) => ({ ...answer })),
  };
}

async function firstAnswers(run: PromiseRun): Promise<Answer[]> {
  const folder = run.newPath("guest");
  const store = run.newPath("store");
  mkdirSync(folder);
  const snapshot = await takeSnapshot(folder);
  packImage(snapshot.memoryFile, store, "guest");
  await using server = await SlowServer.start(store, LATENCY_MS);
  const answers: Answer[] = [];
  for (let round = 0; round < 5; round++) answers.push(await restoreOnce(run, server, snapshot));
  return answers;
}

async function takeSnapshot(folder: string): Promise<GuestSnapshot> {
  await using guest = await LinuxGuest.boot(folder, SEED);
  return await guest.snapshot(folder, SEED);
}

async function restoreOnce(
  run: PromiseRun,
  server: SlowServer,
  snapshot: GuestSnapshot,
): Promise<Answer> {
  const logPath = run.newPath("log");
  const { template } = HandlerCommand.ofServe([
    ...["--log", "info", "--drain-timeout", "10", "--working-set", "off"],
  ]);
  const command = new HandlerCommand(`exec ${template} 2>${logPath}`);
  const target = { socketPath: run.newPath("sock"), memoryPath: `${server.location}/guest` };
  await using handler = await HandlerProcess.start(command, target);
  server.reset();
  const startMs = performance.now();
  const ms = await (async () => {
    await using guest = await LinuxGuest.restore(snapshot, target.socketPath);
    await guest.ask("boot-id");
    return performance.now() - startMs;
  })();
  const { requests } = server;
  handler.signal("SIGTERM");
  await handler.ended(END_DEADLINE_MS);
  const faults = /"faults":(\d+).*"msg":"Detached a VM"/.exec(readFileSync(logPath, "utf8"))?.[1];
  assert.ok(faults !== undefined, "serve told the numbers of its VM");
  return { ms, faults: Number(faults), requests };
}

const UNLEARNT = HandlerCommand.ofServe(["--working-set", "off"]);

/** What one VM and many fetch, each from an empty cache. */
async function manyRestores(run: PromiseRun) {
  const sizeMib = run.scaled(64, 4);
  const memoryPath = run.newPath("mem");
  writeMemoryLike(memoryPath, sizeMib * MIB);
  const store = run.newPath("store");
  const packCommand = packImage(memoryPath, store, "web");
  await using server = await SlowServer.start(store, LATENCY_MS);
  const plan: GuestPlan = { memoryPath, faults: (sizeMib * MIB) / PAGE_BYTES, order: "random" };
  const fetchedBy = async (vms: number) => {
    const target = { socketPath: run.newPath("sock"), memoryPath: `${server.location}/web` };
    await using handler = await HandlerProcess.start(UNLEARNT, target);
    server.reset();
    const seeds = Array.from({ length: vms }, (_, seed) => seed);
    await Promise.all(seeds.map((seed) => timeFaults(run, handler, { ...plan, seed })));
    return { bytes: server.bytes, command: handler.commandLine };
  };
  const one = await fetchedBy(1);
  const many = await fetchedBy(VMS);
  return { sizeMib, one: one.bytes, many: many.bytes, commands: [packCommand, many.command] };
}
