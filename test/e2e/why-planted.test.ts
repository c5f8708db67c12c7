/**
 * Slowness, planted one kind at a time: `faultline why` names it first each time, and says what
 * helps. The store, the disk, the cache, the guest and the hogs are real ones.
 */
import assert from "node:assert/strict";
import { type ChildProcess, execFile, spawn } from "node:child_process";
import { availableParallelism } from "node:os";
import { after, before, describe, type TestContext, test } from "node:test";
import { promisify } from "node:util";
import { SlowServer } from "../../src/bench/slow-server.ts";
import type { SessionSpec } from "../../src/daemon/host-service.ts";
import { compile } from "../../src/kit/compile.ts";
import { waitFor } from "../../src/kit/wait.ts";
import type { FindingId } from "../../src/report/findings.ts";
import type { Verdict } from "../../src/report/text.ts";
import { CPeer } from "../support/c-peer.ts";
import { cool } from "../support/cold-files.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { atExit } from "../support/end-cleanly.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { cliPath, ImageStage } from "../support/image-stage.ts";
import { requires } from "../support/requires.ts";
import { runVmm, type VmmResult } from "../support/vmm-process.ts";
import { plantWorkingSet, setOf } from "../support/working-sets.ts";

/** 16 MiB. */
const PAGE_COUNT = 4096;
/** 96 MiB: long enough for the scheduler's counts to be looked at several times. */
const LARGE_PAGE_COUNT = 24_576;
const SLOW_MS = 200;
const REPORT_BUDGET_MS = 30_000;
/** Of the wall time, by which the sum of a report's causes may be off. */
const TOLERANCE = 0.05;
const HOGS_PER_CPU = 4;
const FLOOD_MS = 2000;
/** So many that one of them always has an event under way. */
const FLOOD_THREADS = 32;
const run = promisify(execFile);

/** A daemon of its own for each kind of slowness. */
class Scene {
  readonly folder: TestFolder;
  readonly daemon: DaemonProcess;

  private constructor(folder: TestFolder, daemon: DaemonProcess) {
    this.folder = folder;
    this.daemon = daemon;
  }

  static async open(...args: readonly string[]): Promise<Scene> {
    const folder = new TestFolder();
    return new Scene(folder, await DaemonProcess.start(folder, ["--no-standby", ...args]));
  }

  async session(spec: Omit<SessionSpec, "id">): Promise<string> {
    const { socketPath } = await this.daemon.client.createSession({ ...spec, id: "slow" });
    return socketPath;
  }

  /** What `why` says when the VM has ended. */
  async why(): Promise<Verdict> {
    const args = [cliPath, "why", "slow", "--json", "--control", this.daemon.controlPath];
    return await waitFor(
      "the restore was over",
      async () => {
        const { stdout } = await run(process.execPath, args);
        const verdict = JSON.parse(stdout) as Verdict;
        return verdict.report.state === "restoring" ? null : verdict;
      },
      REPORT_BUDGET_MS,
    );
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.daemon[Symbol.asyncDispose]();
    this.folder[Symbol.dispose]();
  }
}

function assertBlamed(
  t: TestContext,
  { findings, report }: Verdict,
  id: FindingId,
  advice: RegExp,
): void {
  // Other work on this machine is right to be named, too; it is not what was planted.
  const isOthers = findings[0]?.id === "busy-cpus" && id !== "busy-cpus";
  const first = findings[isOthers ? 1 : 0];
  const found = findings.map((each) => `${each.id} ${Math.round(each.us)}`).join(", ");
  assert.equal(first?.id, id, `${found}; ${JSON.stringify(report.causes)}`);
  assert.match(first.advice.join("\n"), advice);
  assert.ok(first.evidence.length > 0);
  const wallMs = Math.round(report.wallUs / 1000);
  t.diagnostic(`${id} is ${Math.round(first.share * 100)} % of the waits; wall ${wallMs} ms`);
}

/** Of a VM that measures by itself how long it took. */
function assertAddsUp(t: TestContext, { report }: Verdict, { total_ms: totalMs }: VmmResult): void {
  const sumMs = Object.values(report.causes).reduce((sum, us) => sum + us, 0) / 1000;
  assert.ok(Math.abs(sumMs - report.wallUs / 1000) < 1);
  const difference = Math.abs(sumMs - totalMs);
  // The VM's clock begins after its handshake, and ends after its last check.
  const compared = `${Math.round(sumMs)} ms in the report, ${Math.round(totalMs)} ms by the VM`;
  assert.ok(difference <= TOLERANCE * totalMs + 5, compared);
  t.diagnostic(compared);
}

describe("planted slowness", requires("userfaultfd", "cc"), () => {
  const folder = new TestFolder();
  const memory = folder.at("memory");
  const images = new ImageStage();

  before(() => {
    writeFull(memory, PAGE_COUNT);
    images.json("pack", memory, "--name", "web");
    images.json("pack", memory, "--name", "fine", "--chunk-size", "4K");
  });

  after(() => {
    images[Symbol.dispose]();
    folder[Symbol.dispose]();
  });

  test("a store that answers late", async (t) => {
    await using server = await SlowServer.start(images.store, SLOW_MS);
    await using scene = await Scene.open("--store", server.location);
    const socket = await scene.session({ memory: `${server.location}/web` });
    const result = await runVmm(socket, memory, "--touch", "random:20");
    const verdict = await scene.why();
    assertBlamed(t, verdict, "slow-store", /cacheFolder/);
    assertAddsUp(t, verdict, result);
    const readMs = verdict.report.stores[0]?.readMs.p50 ?? 0;
    assert.ok(readMs >= SLOW_MS * 0.9, `the store's own number says so: ${readMs} ms`);
  });

  test("a guest that gives memory back all the time", async (t) => {
    await using scene = await Scene.open("--workers", "1");
    const socket = await scene.session({ memory: await memoryIn(scene) });
    await using flood = new CPeer("flood", [socket, memory, FLOOD_MS, FLOOD_THREADS, 1]);
    assert.equal(await flood.line(), "flooding");
    assert.equal((await flood.result<{ wrong: number }>()).wrong, 0);
    assertBlamed(t, await scene.why(), "eagain-storm", /balloon/i);
  });

  test("a memory file on a cold disk", async (t) => {
    await using scene = await Scene.open();
    const file = await memoryIn(scene);
    const socket = await scene.session({ memory: file });
    if (!cool(file)) {
      t.skip("this file system, or this kernel, does not let go of cached pages");
      return;
    }
    const result = await runVmm(socket, memory, "--touch", "random:300");
    const verdict = await scene.why();
    assertBlamed(t, verdict, "cold-disk", /cat .*memory > \/dev\/null/);
    assertAddsUp(t, verdict, result);
  });

  test("a cache that is too small", async (t) => {
    await using scene = await Scene.open("--store", images.store, "--cache-size", "4");
    const socket = await scene.session({ memory: `dir:${images.store}/web`, prefault: "off" });
    const result = await runVmm(socket, memory, "--touch", "random:1500");
    const verdict = await scene.why();
    assertBlamed(t, verdict, "cache-too-small", /cacheMiB/);
    assertAddsUp(t, verdict, result);
    assert.ok((verdict.report.cache?.evictions ?? 0) > 0);
  });

  test("a working set of another guest", async (t) => {
    await using server = await SlowServer.start(images.store, 20);
    const pages = Array.from({ length: PAGE_COUNT }, (_, page) => page).filter(
      (page) => page % 16 !== 0 && page % 4 === 1,
    );
    const rows = pages.map((page, index) => [page, 1, index] as const);
    await plantWorkingSet(images.store, "fine", setOf(rows, PAGE_COUNT, 4));
    await using scene = await Scene.open("--store", server.location);
    const socket = await scene.session({ memory: `${server.location}/fine` });
    await runVmm(socket, memory, "--touch", "stride:16");
    assertBlamed(t, await scene.why(), "wrong-working-set", /learn anew/);
  });

  test("CPUs that others keep busy", async (t) => {
    await using scene = await Scene.open();
    const file = scene.folder.at("large");
    writeFull(file, LARGE_PAGE_COUNT);
    const socket = await scene.session({ memory: file });
    using _hogs = new Hogs(HOGS_PER_CPU * availableParallelism());
    const result = await runVmm(socket, file, "--touch", `random:${LARGE_PAGE_COUNT}`);
    const verdict = await scene.why();
    assertBlamed(t, verdict, "busy-cpus", /CPU/);
    assertAddsUp(t, verdict, result);
  });

  /** A warm copy where the scene's daemon may read it. */
  async function memoryIn({ folder }: Scene): Promise<string> {
    await run("cp", [memory, folder.at("memory")]);
    return folder.at("memory");
  }
});

/** Processes that want all the CPU time there is. */
class Hogs {
  readonly #children: readonly ChildProcess[];
  readonly #forget: () => void;

  constructor(count: number) {
    const program = compile("test/peer/hog.c", []);
    this.#children = Array.from({ length: count }, () => spawn(program, { stdio: "ignore" }));
    this.#forget = atExit(() => this.#end());
  }

  [Symbol.dispose](): void {
    this.#forget();
    this.#end();
  }

  #end(): void {
    for (const child of this.#children) child.kill("SIGKILL");
  }
}
