/** `faultline why` on a real daemon with real VMs: what was slow is named, and adds up. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { after, before, describe, test } from "node:test";
import { SlowServer } from "../../src/bench/slow-server.ts";
import type { ControlClient } from "../../src/daemon/control/client.ts";
import { waitFor } from "../../src/kit/wait.ts";
import type { Comparison } from "../../src/report/compare.ts";
import type { Finding } from "../../src/report/findings.ts";
import type { RestoreReport } from "../../src/report/restore-report.ts";
import { cool } from "../support/cold-files.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { cliPath, ImageStage } from "../support/image-stage.ts";
import { requires } from "../support/requires.ts";
import { craftReport } from "../support/restore-reports.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { runVmm, Vmm } from "../support/vmm-process.ts";

const PAGES = 2048;
const LATENCY_MS = 200;
const BUDGET_MS = 30_000;
/** It stays after it has read all. */
const LINGER = ["--linger", 60_000];

interface Why {
  readonly report: RestoreReport;
  readonly findings: readonly Finding[];
}

interface Ran {
  readonly code: number | null;
  readonly out: string;
  readonly errors: string;
}

/** Beside this process: what it asks may be served from here. */
async function faultline(...args: readonly string[]): Promise<Ran> {
  const child = spawn(process.execPath, [cliPath, ...args], { stdio: ["ignore", "pipe", "pipe"] });
  const exited = once(child, "close");
  const [out, errors] = await Promise.all([text(child.stdout), text(child.stderr)]);
  const [code] = (await exited) as [number | null];
  return { code, out, errors };
}

async function why(...args: readonly string[]): Promise<Why> {
  const { code, out, errors } = await faultline("why", "--json", ...args);
  assert.equal(code, 0, errors);
  return JSON.parse(out) as Why;
}

function sumOf({ causes }: RestoreReport): number {
  return Object.values(causes).reduce((sum, us) => sum + us, 0);
}

describe("why", requires("userfaultfd", "cc"), () => {
  const folder = new TestFolder();
  const memory = folder.at("memory");

  before(() => {
    writeFull(memory, PAGES);
  });
  after(() => folder[Symbol.dispose]());

  test("names a slow store first, and its causes add up to what the VM saw", async () => {
    using stage = new ImageStage(folder.path);
    const file = stage.path("vm.mem");
    writeFull(file, 512, 7);
    stage.json("pack", file, "--name", "slow", "--chunk-size", "64K");
    await using server = await SlowServer.start(stage.store, LATENCY_MS);
    await using daemon = await DaemonProcess.start(folder, ["--store", server.location]);
    const image = `${server.location}/slow`;
    const { id, socketPath } = await daemon.client.createSession({ memory: image });
    await using vmm = new Vmm(socketPath, file, ["--touch", "random:400", ...LINGER]);
    const { total_ms: totalMs } = await vmm.result(BUDGET_MS);
    const { report, findings } = await why(id, "--control", daemon.controlPath);
    assert.equal(findings[0]?.id, "slow-store");
    assert.match(findings[0]!.headline, /2\d\d ms each/);
    assert.equal(report.state, "restoring");
    assert.equal(report.kind, "image");
    assert.ok(Math.abs(sumOf(report) - report.wallUs) < 1, "the causes are all of the time");
    // The VM measures from its first touch on: what comes before, the report calls handshake.
    const seenMs = (report.wallUs - report.causes.handshake) / 1000;
    const off = Math.abs(seenMs - totalMs) / totalMs;
    assert.ok(off < 0.05, `the report has ${seenMs} ms, the VM ${totalMs} ms`);
    const [store] = report.stores;
    assert.ok(store !== undefined && store.readMs.p50 >= LATENCY_MS * 0.9, "the store's reads");
    assert.ok(report.dearest.length > 0 && report.dearest[0]!.source.includes("chunk"));
    assert.ok(report.dearest[0]!.costUs >= LATENCY_MS * 900, "the dearest waited for the store");
    assert.equal(report.demands?.counts.length, 64);
    // For people: three lines, and a page.
    const page = folder.at("why.html");
    const told = await faultline("why", id, "--control", daemon.controlPath, "--html", page);
    const [long, where, change] = told.out.split("\n");
    assert.match(long!, /^How long: +VM \w+ waited .* of the .*restore is not over\.$/);
    assert.match(where!, /^Where it went: .* slow-store: /);
    assert.match(change!, /^What to change: Bring the image closer/);
    assert.match(readFileSync(page, "utf8"), /<svg /);
  });

  test("names a cold disk first", async (t) => {
    if (!cool(memory)) {
      t.skip("this file system, or this kernel, does not let go of cached pages");
      return;
    }
    const reports = folder.at("served");
    const socket = folder.at("socket");
    const flags = ["--memory", memory, "--socket", socket, "--report-folder", reports, "--once"];
    await using serve = await ServeProcess.start(flags);
    await runVmm(socket, memory, "--touch", "random:600");
    const { path } = await serve.logged("Wrote a restore report");
    const { report, findings } = await why(String(path));
    assert.equal(report.state, "ended");
    assert.ok(report.causes.disk > 0, "something was read from the disk");
    // On a disk of memory even that is quick; then nothing was slow.
    const isSlow = report.causes.disk > report.waitedUs / 2;
    if (isSlow) assert.ok(findings.slice(0, 2).some((each) => each.id === "cold-disk"));
    assert.equal(statSync(String(path)).mode & 0o777, 0o600);
  });

  test("keeps reports beyond VMs and pagers, and compares with the last good", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client, controlPath } = daemon;
    for (const id of ["one", "two"]) {
      const { socketPath } = await client.createSession({ memory, id });
      await using vmm = new Vmm(socketPath, memory, ["--touch", "random:300", ...LINGER]);
      await vmm.result(BUDGET_MS);
      const live = await client.report(id);
      assert.deepEqual([live.state, live.memory, live.pid], ["restoring", memory, vmm.pid]);
      await client.killSession(id);
      const kept = async () => (await client.report(id)).state === "ended";
      await waitFor(`the report of ${id} is kept`, kept, BUDGET_MS);
    }
    await daemon.stoodBy();
    await daemon.killPager();
    const { report } = await why("two", "--control", controlPath);
    assert.deepEqual([report.session, report.endReason], ["two", "killed"]);
    assert.deepEqual(
      (await client.reports(memory)).map(({ session }) => session),
      ["two", "one"],
    );
    assert.deepEqual(await client.reports("/elsewhere"), []);
    const compared = await faultline("why", "two", "--last-good", "--control", controlPath);
    assert.match(compared.out, /^Compared with one of /m);
    const alone = await faultline("why", "one", "--last-good", "--control", controlPath);
    assert.equal(alone.code, 1);
    assert.match(alone.errors, /No earlier restore of .* is reported of.*--compare/);
    // Files are for their owner.
    const [hash] = readdirSync(join(daemon.runFolder, "reports"));
    const folderOfMemory = join(daemon.runFolder, "reports", hash!);
    const name = readdirSync(folderOfMemory).find((each) => /^two\.\d{8}T\d{9}Z\.json$/.test(each));
    const path = join(folderOfMemory, name!);
    assert.equal(statSync(path).mode & 0o777, 0o600);
    assert.equal((await why(path)).report.session, "two");
  });

  test("knows restores of one name apart, and compares the last with the one before", async () => {
    const own = folder.at("own-memory");
    writeFull(own, PAGES);
    await using daemon = await DaemonProcess.start(folder);
    const { client, controlPath } = daemon;
    const [first, second] = [await restoreAndKill(client, own), await restoreAndKill(client, own)];
    assert.deepEqual(await client.report("web"), second);
    assert.deepEqual(await client.report("web", first.connectedAt), first);
    assert.deepEqual(
      (await client.reports(own)).map(({ connectedAt }) => connectedAt),
      [second.connectedAt, first.connectedAt],
    );
    const compared = await faultline(
      "why",
      "web",
      "--last-good",
      "--json",
      "--control",
      controlPath,
    );
    const { comparison } = JSON.parse(compared.out) as { comparison: Comparison };
    assert.deepEqual([comparison.session, comparison.connectedAt], ["web", first.connectedAt]);
    // One that goes on does not hide those before it.
    const { socketPath } = await client.createSession({ memory: own, id: "web" });
    await using vmm = new Vmm(socketPath, own, ["--touch", "random:300", ...LINGER]);
    await vmm.result(BUDGET_MS);
    const [live, ...others] = await client.reports(own);
    assert.deepEqual([live!.state, others.length], ["restoring", 2]);
    const report = await client.report("web", live!.connectedAt);
    assert.deepEqual([report.pid, report.connectedAt], [vmm.pid, live!.connectedAt]);
    await assert.rejects(client.report("web", "2026-11-24T02:00:00Z"), /connected at 2026-11-24T/);
  });

  /** Of session `web`: its report, which is kept. */
  async function restoreAndKill(client: ControlClient, own: string): Promise<RestoreReport> {
    const { socketPath } = await client.createSession({ memory: own, id: "web" });
    await using vmm = new Vmm(socketPath, own, ["--touch", "random:300", ...LINGER]);
    await vmm.result(BUDGET_MS);
    await client.killSession("web");
    const kept = async () => (await client.report("web")).state === "ended";
    await waitFor("the report is kept", kept, BUDGET_MS);
    return await client.report("web");
  }

  test("tells of a VM that runs on when its restore is over, and its report gone", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const { id, socketPath } = await client.createSession({ memory, recordForS: 1 });
    await using vmm = new Vmm(socketPath, memory, ["--touch", "random:300", ...LINGER]);
    await vmm.result(BUDGET_MS);
    const restored = async () => (await client.report(id)).state === "restored";
    await waitFor("its window is over", restored, BUDGET_MS);
    const kept = await client.report(id);
    assert.deepEqual([kept.endReason, kept.counters.faults! > 0], [null, true]);
    rmSync(join(daemon.runFolder, "reports"), { recursive: true });
    const account = await client.report(id);
    assert.deepEqual([account.state, account.pid], ["restored", vmm.pid]);
    assert.equal(account.host.guestRunDelayUs, null);
    assert.ok(account.causes.handshake > 0);
  });

  test("tells of VMs whose restore goes on, or is just over, when the daemon ends", async () => {
    const config = folder.at("config.json");
    writeFileSync(config, JSON.stringify({ drainTimeoutS: 1 }));
    await using daemon = await DaemonProcess.start(folder, ["--config", config]);
    const { client } = daemon;
    const start = async (id: string): Promise<Vmm> => {
      const { socketPath } = await client.createSession({ memory, id });
      const vmm = new Vmm(socketPath, memory, ["--touch", "random:300", ...LINGER]);
      await vmm.result(BUDGET_MS);
      return vmm;
    };
    await using stays = await start("stays");
    await using ends = await start("ends");
    daemon.signal("SIGTERM");
    await daemon.logged("The daemon is told to end");
    ends.kill();
    await daemon.ended();
    const files = readdirSync(join(daemon.runFolder, "reports"), { recursive: true })
      .map((name) => join(daemon.runFolder, "reports", String(name)))
      .filter((path) => path.endsWith(".json"));
    const reports = files.map((path) => JSON.parse(readFileSync(path, "utf8")) as RestoreReport);
    const told = reports
      .filter(({ session }) => ["ends", "stays"].includes(session))
      .map(({ session, state, pid }) => [session, state, pid])
      .sort();
    assert.deepEqual(told, [
      ["ends", "ended", ends.pid],
      ["stays", "restoring", stays.pid],
    ]);
  });

  test("goes on with a restore whose pager dies, and tells what it cost", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const { id, socketPath } = await client.createSession({ memory });
    const options = ["--touch", "random:1500", "--threads", 1, ...LINGER];
    await using vmm = new Vmm(socketPath, memory, options);
    await daemon.attached(id);
    await daemon.stoodBy();
    await daemon.killPager();
    await vmm.result(BUDGET_MS);
    const report = await client.report(id);
    assert.deepEqual([report.takeovers, report.state], [1, "restoring"]);
    assert.ok(report.causes.takeover > 0);
    await client.killSession(id);
  });

  test("says what is wrong with what it is given", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client, controlPath } = daemon;
    const { id } = await client.createSession({ memory, id: "waiting" });
    const fails = async (code: number, message: RegExp, ...args: string[]): Promise<void> => {
      const ran = await faultline("why", "--control", controlPath, ...args);
      assert.equal(ran.code, code, ran.errors);
      assert.match(ran.errors, message);
    };
    await fails(
      1,
      /No restore report is kept of session waiting\. One begins when its VM connects/,
      id,
    );
    await fails(1, /No session is called "none"/, "none");
    await fails(1, /The report .*\/none\.json cannot be read/, folder.at("none.json"));
    await fails(2, /one of them/, id, "--compare", "x", "--last-good");
    const file = folder.at("other.json");
    writeFileSync(file, JSON.stringify({ ...craftReport({}), version: 2 }));
    await fails(3, /no restore report of version 1 \(it has version 2\)/, file);
    writeFileSync(file, "{");
    await fails(3, /is no JSON/, file);
    writeFileSync(file, JSON.stringify({ ...craftReport({}), wallUs: "long" }));
    await fails(3, /no whole restore report: wallUs/, file);
    mkdirSync(folder.at("taken"));
    writeFileSync(file, JSON.stringify(craftReport({})));
    await fails(2, /--html .* cannot be written/, file, "--html", folder.at("taken"));
  });
});
