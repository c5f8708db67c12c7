/** Recordings of VMs of a real daemon: what is in them, and what becomes of them. */
import assert from "node:assert/strict";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { type IncomingMessage, request } from "node:http";
import { after, before, describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import type { BenchReport, ScenarioReport } from "../../src/bench/report.ts";
import { decodeTrace } from "../../src/bench/trace-file.ts";
import type { SessionView } from "../../src/daemon/host-service.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { readRecording } from "../../src/trace/read-recording.ts";
import type { Recording } from "../../src/trace/recording.ts";
import { RecordingScanner } from "../../src/trace/scanner.ts";
import { followWaits } from "../../src/trace/waits.ts";
import { runBench } from "../support/bench-run.ts";
import { CPeer } from "../support/c-peer.ts";
import { CommandProcess, runCommand } from "../support/command-process.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { blocksOf, type Row, rowsOf } from "../support/recordings.ts";
import { requires } from "../support/requires.ts";
import { assertTraceEvents } from "../support/trace-events.ts";
import { Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 16_384;
/** Nothing that a scan would be taken for. */
const STRIDE = 11;
const BUDGET_MS = 20_000;

const folder = new TestFolder();
const memory = folder.at("memory");

before(() => {
  writeFull(memory, PAGE_COUNT);
});

after(() => folder[Symbol.dispose]());

function fails(code: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof FaultlineError, String(error));
    assert.equal(error.code, code, error.message);
    return true;
  };
}

/** All of a recording, as it comes from the daemon. */
async function recordAll(daemon: DaemonProcess, id: string, seconds: number): Promise<Recording> {
  const { signal } = new AbortController();
  const pieces: Uint8Array[] = [];
  for await (const piece of await daemon.client.traceSession(id, seconds, signal)) {
    pieces.push(piece);
  }
  return readRecording(Buffer.concat(pieces), id);
}

/** The VM has asked for pages, got them, and nothing else was counted. */
function assertAgrees(recording: Recording, { vm }: SessionView): void {
  const sums = new Map<string, number>();
  for (const [, kind, , , pages] of rowsOf(recording)) {
    sums.set(kind, (sums.get(kind) ?? 0) + pages);
  }
  const { installedPages, zeroPages } = vm!.counters;
  const waited = (sums.get("copy") ?? 0) + (sums.get("zero") ?? 0) + (sums.get("ahead") ?? 0);
  assert.equal(waited, installedPages! + zeroPages!, JSON.stringify([...sums]));
  assert.equal(recording.lost, 0);
}

describe("a session that is traced", needs, () => {
  test("has every page that its VM touched: asked for, and then installed", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { id, socketPath } = await daemon.client.createSession({
      ...{ memory, id: "all", trace: true, prefault: "off" },
    });
    await using vmm = new Vmm(socketPath, memory, [
      ...["--touch", `stride:${STRIDE}`, "--linger", 60_000],
    ]);
    const { touched } = await vmm.result();
    const wanted = Array.from({ length: touched }, (_, index) => index * STRIDE);
    const view = await daemon.client.session(id);
    const recording = await recordAll(daemon, id, 1);
    assert.equal(recording.ending, "asked");
    const { header } = recording;
    assert.deepEqual(
      [header.session, header.memory, header.pid, header.pageCount],
      [id, memory, vmm.pid, PAGE_COUNT],
    );
    const installed = new Set<number>();
    for (const [, kind, , first, pages] of rowsOf(recording)) {
      if (kind === "demand") continue;
      for (let page = first; page < first + pages; page++) installed.add(page);
    }
    assert.deepEqual(
      wanted.filter((page) => !installed.has(page)),
      [],
    );
    const demanded = new Set<number>();
    followWaits(recording, {
      ends: ({ page, answer }) => {
        assert.ok(answer !== null, `page ${page} was asked for, and never installed`);
        demanded.add(page);
      },
    });
    assert.ok(demanded.size > wanted.length / 2, `${demanded.size} pages were asked for`);
    assert.deepEqual(
      [...demanded].filter((page) => page % STRIDE !== 0),
      [],
    );
    assertAgrees(recording, view);
  });

  test("is recorded by a command from before its VM to its end, and exported", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const environment = { FAULTLINE_CONTROL: daemon.controlPath };
    const restored = await runCommand(["restore", memory, "--id", "cli", "--trace"], environment);
    assert.equal(restored.code, 0, restored.stderr);
    const { socketPath } = await daemon.client.session("cli");
    const file = folder.at("cli.fltrace");
    const control = ["--control", daemon.controlPath];
    await using record = new CommandProcess([
      "trace",
      "record",
      "cli",
      "-o",
      file,
      "--json",
      ...control,
    ]);
    const waits = "Session cli waits for its VM.\n";
    await waitFor("it waits for the VM", () => record.stderr === waits, BUDGET_MS);
    await using vmm = new Vmm(socketPath, memory, ["--linger", 60_000]);
    const view = await daemon.attached("cli");
    await vmm.result();
    const whole = await daemon.client.session("cli");
    await waitFor("it is in the file", () => recordsIn(file) >= PAGE_COUNT / 512, BUDGET_MS);
    await daemon.client.killSession("cli");
    const { code, stdout, stderr } = await record.ended();
    assert.deepEqual([code, stderr], [0, waits]);
    const told = JSON.parse(stdout);
    const recording = readRecording(readFileSync(file), file);
    assert.equal(recording.ending, "ended");
    assert.deepEqual([told.ending, told.lost], ["ended", 0]);
    assert.equal(told.records, recording.records.count);
    assertAgrees(recording, whole);
    assert.equal(view.vm?.pid, recording.header.pid);
    await assertExports(file, recording);
  });

  test("ends at once where its file cannot be written", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { socketPath } = await daemon.client.createSession({ memory, id: "full", trace: true });
    await using _vmm = new Vmm(socketPath, memory, ["--linger", 60_000]);
    await daemon.attached("full");
    const control = ["--control", daemon.controlPath];
    for (const [path, why] of [
      [folder.at("none/x"), "ENOENT"],
      ["/dev/full", "ENOSPC"],
    ] as const) {
      const record = ["trace", "record", "full", "-o", path, ...control];
      const { code, stderr } = await runCommand(record);
      assert.equal(code, 2, stderr);
      assert.match(
        stderr,
        new RegExp(`${path} cannot be written\\. Name another file.* room: ${why}`),
      );
    }
  });

  test("goes on being traced under the next pager; the file of the last one is whole", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const created = await daemon.client.createSession({ memory, id: "kill", trace: true });
    await using peer = new CPeer("churn", [
      ...[created.socketPath, memory, 3_600_000, 2, 1, "--rest", 1000, "--pulse"],
    ]);
    await daemon.attached("kill");
    const file = folder.at("kill.fltrace");
    const control = ["--control", daemon.controlPath];
    await using record = new CommandProcess(["trace", "record", "kill", "-o", file, ...control]);
    await waitFor("there are records", () => recordsIn(file) > 100, BUDGET_MS);
    await daemon.stoodBy();
    await daemon.killPager();
    const { code, stderr } = await record.ended();
    assert.equal(code, 1);
    assert.match(
      stderr,
      /^faultline: The pager died or was replaced in the middle .* has what came/,
    );
    const recording = readRecording(readFileSync(file), file);
    assert.deepEqual([recording.ending, recording.damage], ["broken", null]);
    assert.ok(recording.records.count > 100);
    // Faults that nobody records, for the next pager's ring.
    const faults = async () => (await daemon.client.session("kill")).vm!.counters.faults!;
    const before = await faults();
    await waitFor("the VM goes on", async () => (await faults()) > before + 10, BUDGET_MS);
    const sinceMs = Date.now();
    const { header, records } = await recordAll(daemon, "kill", 1);
    const firstMs = Date.parse(header.attachedAt) + records.timesUs[0]! / 1000;
    assert.ok(firstMs < sinceMs, "the next pager traces it, recorded or not");
    peer.kill("SIGKILL");
  });
});

describe("what a recorded guest did", needs, () => {
  test("is done again by the guests of benchmarks", async () => {
    const [file, replay] = [folder.at("guest.fltrace"), folder.at("guest.trace")];
    const rows = [3, 4, 900, 5, 17].flatMap((page, index): Row[] => [
      [index * 100, "demand", "guest", page, 1, 0],
      [index * 100 + 40, "copy", "install", page, 1, 400],
    ]);
    writeFileSync(file, Buffer.concat(blocksOf(rows)));
    const exported = await runCommand(["trace", "export", file, "--replay", replay]);
    assert.deepEqual([exported.code, exported.stderr], [0, ""]);
    const options = ["--quick", "--json", "--restores", "2", "--backends", "file"];
    const { status, out, error } = runBench(["restore", "--traces", replay, ...options]);
    assert.equal(status, 0, error);
    const { scenarios } = JSON.parse(out) as BenchReport;
    const [{ restore, contenders, method }] = scenarios as [ScenarioReport];
    assert.equal(restore!.trace, replay);
    assert.match(method, /\b5 pages of 4 KiB in the order of the trace/);
    for (const { figures } of contenders) assert.ok(figures.working_set_ms!.median > 0);
  });
});

describe("faultline trace", () => {
  const file = folder.at("some.fltrace");
  const rows: readonly Row[] = [
    [10, "demand", "guest", 7, 1, 0],
    [35, "copy", "store", 7, 1, 250],
  ];

  test("show says where a recording was cut off, and shows what is before", async () => {
    const [front, first, second] = blocksOf(rows, { perBlock: 1 });
    writeFileSync(file, Buffer.concat([front!, first!, second!.subarray(0, 20)]));
    const cut = await runCommand(["trace", "show", file]);
    assert.equal(cut.code, 0, cut.stderr);
    assert.match(cut.stdout, /^recorded .*: damaged: its last block is not whole; what is before/m);
    assert.match(cut.stdout, /^waits +1, for 1 pages; 1 without an end$/m);
    writeFileSync(file, Buffer.concat([front!, first!, second!]));
    const open = await runCommand(["trace", "show", file]);
    assert.match(open.stdout, /^recorded .*: cut off; it is whole until there$/m);
    assert.match(open.stdout, /^0\.035 ms +0\.025 ms +copy +store +7 +1$/m);
  });

  test("refuses what is no recording, and what leads nowhere", async () => {
    writeFileSync(file, "no recording at all");
    const refusals: readonly (readonly [args: readonly string[], code: number, text: RegExp])[] = [
      [["show", file], 3, /some\.fltrace holds no recording .*it does not begin as one/],
      [["show", folder.at("none")], 2, /none cannot be read: ENOENT/],
      [["export", file], 2, /Say what to write: --perfetto OUT, --replay OUT/],
      [["record", "x", "--for", "0"], 2, /--for 0 cannot be used: give a whole number from 1 to /],
    ];
    for (const [args, code, text] of refusals) {
      const result = await runCommand(["trace", ...args]);
      assert.equal(result.code, code, result.stderr);
      assert.match(result.stderr, text);
    }
    writeFileSync(file, Buffer.concat(blocksOf([])));
    const nothing = await runCommand(["trace", "export", file, "--replay", folder.at("out")]);
    assert.match(nothing.stderr, /has no fault in it: there is nothing to replay/);
    const both = ["--perfetto", folder.at("out.json"), "--replay", folder.at("out")];
    writeFileSync(file, blocksOf(rows, { perBlock: 1 })[0]!);
    const cut = await runCommand(["trace", "export", file, ...both]);
    assert.match(
      cut.stderr,
      /there is nothing to replay\. It was cut off before: record it anew\./,
    );
    assert.equal(existsSync(folder.at("out.json")), false);
    writeFileSync(file, Buffer.concat(blocksOf(rows)));
    const before = readFileSync(file);
    for (const option of ["--perfetto", "--replay"]) {
      const { code, stderr } = await runCommand(["trace", "export", file, option, file]);
      assert.deepEqual([code, /some\.fltrace is named twice/.test(stderr)], [2, true], stderr);
    }
    assert.deepEqual(readFileSync(file), before, "it is as it was");
    const nowhere = folder.at("missing/out.json");
    const lost = await runCommand(["trace", "export", file, "--perfetto", nowhere]);
    assert.deepEqual([lost.code, /cannot be written: ENOENT/.test(lost.stderr)], [2, true]);
  });
});

describe("a session that is not traced", needs, () => {
  test("is, for as long as somebody records", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const created = await daemon.client.createSession({ memory, id: "late" });
    await using peer = new CPeer("churn", [
      ...[created.socketPath, memory, 3_600_000, 2, 1, "--rest", 1000, "--pulse"],
    ]);
    await daemon.attached("late");
    const file = folder.at("late.fltrace");
    const control = ["--control", daemon.controlPath];
    await using record = new CommandProcess(["trace", "record", "late", "-o", file, ...control]);
    await waitFor("there are records", () => recordsIn(file) > 10, BUDGET_MS);
    record.kill("SIGINT");
    const { code, stdout } = await record.ended();
    assert.equal(code, 0);
    assert.match(stdout, /late\.fltrace: \d+ records, 0 lost, .*; ended on request\n/);
    assert.equal(readRecording(readFileSync(file), file).ending, "interrupted");
    peer.kill("SIGKILL");
  });

  test("is waited for in vain", async () => {
    await using daemon = await DaemonProcess.start(folder);
    await daemon.client.createSession({ memory, id: "late" });
    const file = folder.at("vain.fltrace");
    const args = ["trace", "record", "late", "-o", file, "--control", daemon.controlPath];
    const { code, stderr } = await runCommand([...args, "--for", "1"]);
    assert.equal(code, 1);
    assert.match(stderr, /No VM has come to session late: there is nothing to record\.\n$/);
    await using record = new CommandProcess(args);
    await waitFor("it waits for the VM", () => record.stderr !== "", BUDGET_MS);
    record.kill("SIGINT");
    assert.equal((await record.ended()).code, 130, "nothing was recorded");
    await using other = new CommandProcess(args);
    await waitFor("it waits for the VM", () => other.stderr !== "", BUDGET_MS);
    await daemon.client.killSession("late");
    const ended = await other.ended();
    assert.match(ended.stderr, /Session late is ended: there is no VM to do that to\.\n$/);
    assert.equal(existsSync(file), false, "there is nothing to write");
    // The name is used again: that one is meant.
    await daemon.client.createSession({ memory, id: "late" });
    await using again = new CommandProcess(args);
    await waitFor("it waits for the VM", () => again.stderr !== "", BUDGET_MS);
    assert.equal(again.stderr, "Session late waits for its VM.\n");
  });

  test("cannot be recorded without a VM, or more often than may be", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const { signal } = new AbortController();
    const { id, socketPath } = await client.createSession({ memory });
    await assert.rejects(client.traceSession(id, 1, signal), fails("conflict"));
    await assert.rejects(client.traceSession("none", 1, signal), fails("no-session"));
    await assert.rejects(client.traceSession(id, 0, signal), fails("bad-request"));
    await using vmm = new Vmm(socketPath, memory, [
      ...["--touch", "random:10", "--linger", 60_000],
    ]);
    await vmm.result();
    const stop = new AbortController();
    const open = Array.from({ length: 8 }, () => client.traceSession(id, 60, stop.signal));
    await Promise.all(open);
    await assert.rejects(client.traceSession(id, 1, signal), fails("limit"));
    stop.abort();
    const again = async (): Promise<boolean> =>
      await client.traceSession(id, 1, signal).then(
        () => true,
        () => false,
      );
    await waitFor("those that were recorded are given back", again, BUDGET_MS);
  });

  test("64 may be traced, and no more", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const created: string[] = [];
    for (let count = 0; count < 64; count++) {
      created.push((await client.createSession({ memory, trace: true })).id);
    }
    await assert.rejects(client.createSession({ memory, trace: true }), fails("limit"));
    await client.killSession(created[0]!);
    await client.createSession({ memory, trace: true });
  });

  test("costs a bounded amount of memory where nobody reads what is recorded", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const created = await daemon.client.createSession({ memory, id: "slow" });
    // Some hundred thousand records: more than a ring has room for, and than sockets take.
    await using peer = new CPeer("churn", [
      ...[created.socketPath, memory, 3_600_000, 2, 1, "--rest", 0, "--pulse"],
    ]);
    await daemon.attached("slow");
    const path = "/v1/sessions/slow/trace?seconds=60";
    const sent = request({ socketPath: daemon.controlPath, path, agent: false });
    const answered = new Promise<IncomingMessage>((resolve, reject) => {
      sent.on("response", resolve);
      sent.on("error", reject);
    });
    sent.end();
    const response = await within("it was answered", answered, BUDGET_MS);
    response.pause();
    const faults = async (): Promise<number> =>
      (await daemon.client.session("slow")).vm!.counters.faults!;
    const before = privateKib(daemon.pager);
    const wanted = (await faults()) + 200_000;
    await waitFor("the VM has done much", async () => (await faults()) > wanted, 60_000);
    const grown = privateKib(daemon.pager) - before;
    assert.ok(grown < 64 * 1024, `the pager has grown by ${grown} KiB`);
    // What it has not read was overwritten, and the file says so.
    const scanner = new RecordingScanner("slow");
    response.on("data", (piece: Buffer) => scanner.push(piece));
    response.resume();
    await waitFor("the loss is told", () => scanner.lost > 0, BUDGET_MS);
    sent.destroy();
    peer.kill("SIGKILL");
  });
});

function recordsIn(file: string): number {
  if (statSync(file, { throwIfNoEntry: false }) === undefined) return 0;
  const scanner = new RecordingScanner(file);
  scanner.push(readFileSync(file));
  return scanner.records;
}

/** Without what is mapped of memory files. */
function privateKib(pid: number): number {
  return Number(/RssAnon:\s+(\d+) kB/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))![1]);
}

async function assertExports(file: string, recording: Recording): Promise<void> {
  const [events, replay] = [folder.at("events.json"), folder.at("replay.trace")];
  const { code, stderr } = await runCommand([
    "trace",
    "export",
    file,
    "--perfetto",
    events,
    "--replay",
    replay,
  ]);
  assert.deepEqual([code, stderr], [0, ""]);
  const { traceEvents } = JSON.parse(readFileSync(events, "utf8"));
  assertTraceEvents(traceEvents);
  const demanded = new Set<number>();
  followWaits(recording, { ends: ({ page }) => demanded.add(page) });
  const { pages } = decodeTrace(readFileSync(replay), replay);
  assert.deepEqual(new Set(pages), demanded);
  const shown = await runCommand(["trace", "show", file, "--head", "3"]);
  assert.equal(shown.code, 0, shown.stderr);
  assert.match(shown.stdout, /^waits +\d+, for \d+ pages; 0 without an end$/m);
  assert.match(shown.stdout, /^copy +install +\d+ +\d+ +[\d.]+ ms /m);
}
