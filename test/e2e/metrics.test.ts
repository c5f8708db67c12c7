/** Metrics of a real daemon with real VMs: they count what happened, whoever dies meanwhile. */
import assert from "node:assert/strict";
import { request } from "node:http";
import { type AddressInfo, connect, createServer } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { waitFor } from "../../src/kit/wait.ts";
import { untilClosed } from "../support/control-stage.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { ImageStage, writeMemory } from "../support/image-stage.ts";
import { type ParsedMetrics, parseMetrics } from "../support/metrics-text.ts";
import { Nginx } from "../support/nginx.ts";
import { requires } from "../support/requires.ts";
import { freePorts } from "../support/servers.ts";
import { Vmm } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc");
const PAGE_COUNT = 4096;
const BUDGET_MS = 20_000;

const folder = new TestFolder();
const memory = folder.at("memory");

before(() => {
  writeFull(memory, PAGE_COUNT);
});

after(() => folder[Symbol.dispose]());

type Labels = Readonly<Record<string, string>>;

/** The sum of what fits the labels; of histograms their counts. */
function sum({ samples }: ParsedMetrics, name: string, labels: Labels = {}): number {
  const fits = samples.filter(
    (each) =>
      each.name === name &&
      Object.entries(labels).every(([label, value]) => each.labels[label] === value),
  );
  assert.ok(fits.length > 0, `${name} is told`);
  return fits.reduce((total, { value }) => total + value, 0);
}

async function scrape(daemon: DaemonProcess): Promise<ParsedMetrics> {
  return parseMetrics(await daemon.client.metrics());
}

/** A counter that went down is a restart to whoever reads it. */
function assertNoneWentDown(earlier: ParsedMetrics, later: ParsedMetrics): void {
  for (const [name, { type, samples }] of earlier.families) {
    if (type === "gauge" || name.startsWith("process_")) continue;
    for (const sample of samples) {
      const now = sum(later, sample.name, sample.labels);
      assert.ok(now >= sample.value, `${sample.name} ${JSON.stringify(sample.labels)}`);
    }
  }
}

/** A session with a VM that has read all of its memory; it lives on. */
async function runVm(daemon: DaemonProcess, id: string): Promise<Vmm> {
  const { socketPath } = await daemon.client.createSession({ memory, id });
  const vmm = new Vmm(socketPath, memory, ["--linger", 60_000]);
  assert.equal((await vmm.result()).mismatches, 0);
  return vmm;
}

describe("metrics", needs, () => {
  test("count what happened, and go on when VMs end and pagers die", async () => {
    await using daemon = await DaemonProcess.start(folder);
    await using first = await runVm(daemon, "first");
    const alive = await scrape(daemon);
    assert.equal(sum(alive, "faultline_sessions", { state: "attached" }), 1);
    assert.equal(sum(alive, "faultline_vm_memory_bytes"), PAGE_COUNT * 4096);
    const bytes = sum(alive, "faultline_installed_bytes_total", { content: "snapshot" });
    assert.equal(bytes, PAGE_COUNT * 4096);
    assert.ok(sum(alive, "faultline_faults_total") > 0);
    assert.ok(sum(alive, "faultline_fault_duration_seconds_count") > 0);
    assert.ok(sum(alive, "faultline_fault_stage_seconds_count", { stage: "install" }) > 0);

    first.kill();
    const isOver = async () => (await daemon.client.session("first")).end;
    await waitFor("the session ends", isOver, BUDGET_MS);
    await using _second = await runVm(daemon, "second");
    const before = await scrape(daemon);
    assertNoneWentDown(alive, before);
    assert.equal(sum(before, "faultline_sessions_ended_total"), 1);
    assert.equal(
      sum(before, "faultline_installed_bytes_total", { content: "snapshot" }),
      2 * PAGE_COUNT * 4096,
    );

    await daemon.stoodBy();
    await daemon.killPager();
    const after = await scrape(daemon);
    assertNoneWentDown(before, after);
    assert.equal(sum(after, "faultline_takeovers_total"), 1);
    assert.equal(sum(after, "faultline_taken_over_vms_total", { result: "served" }), 1);
    assert.ok(sum(after, "faultline_takeover_duration_seconds") > 0);
    assert.equal(sum(after, "faultline_vms_attached_total"), 2, "a takeover is no new VM");
    const { counters } = await daemon.client.statistics();
    assert.equal(counters.faults, sum(after, "faultline_faults_total"));
  });

  test("count refusals, and bounds that were reached", async () => {
    await using daemon = await DaemonProcess.start(folder, ["--max-sessions", "1"]);
    const { client } = daemon;
    const other = folder.at("other");
    writeFull(other, 64);
    const { socketPath } = await client.createSession({ memory, id: "only" });
    await assert.rejects(client.createSession({ memory }));
    await using _wrong = new Vmm(socketPath, other);
    const refusal = async () => (await client.session("only")).lastRefusal;
    await waitFor("it is refused", refusal, BUDGET_MS);
    const told = await scrape(daemon);
    assert.equal(sum(told, "faultline_handshakes_refused_total"), 1);
    assert.equal(sum(told, "faultline_bounds_reached_total", { bound: "sessions" }), 1);
    assert.equal(daemon.lines("Refused a VM")[0]?.session, "only");
  });

  test("tell of single VMs if asked to", async () => {
    await using daemon = await DaemonProcess.start(folder);
    await using _vmm = await runVm(daemon, "mine");
    const told = parseMetrics(await daemon.client.metrics(true));
    const faults = sum(told, "faultline_session_faults_total", { session: "mine" });
    assert.equal(faults, sum(told, "faultline_faults_total"));
  });

  test("are served on a TCP address, and nothing else is", async () => {
    const [port] = (await freePorts(1)) as [number];
    const options = ["--metrics", `127.0.0.1:${port}`];
    await using daemon = await DaemonProcess.start(folder, options);
    assert.equal((await daemon.logged("Serves metrics")).address, `127.0.0.1:${port}`);
    const get = await ask(port, "GET", "/metrics?sessions=true");
    assert.deepEqual([get.status, get.type], [200, "text/plain; version=0.0.4; charset=utf-8"]);
    assert.ok(parseMetrics(get.text).families.has("faultline_sessions_left_out"));
    assert.equal((await ask(port, "HEAD", "/metrics")).status, 200);
    for (const [method, path, status] of [
      ["POST", "/metrics", 405],
      ["GET", "/v1/sessions", 404],
      ["POST", "/v1/reload", 404],
      ["GET", "/", 404],
      ["GET", "/metrics?x=1", 400],
    ] as const) {
      assert.equal((await ask(port, method, path)).status, status, `${method} ${path}`);
    }
    const socket = connect(port, "127.0.0.1");
    socket.write("nonsense\r\n\r\n");
    assert.match(await untilClosed(socket), /^HTTP\/1.1 400 /);
    await daemon.stoodBy();
    await daemon.killPager();
    await daemon.logged("Serves metrics", 2);
    assert.equal((await ask(port, "GET", "/metrics")).status, 200);
    await daemon.client.reload();
    await daemon.logged("Serves metrics", 3);
    assert.equal((await ask(port, "GET", "/metrics")).status, 200);
  });

  test("are served as soon as their address can be had", async () => {
    const other = createServer();
    await new Promise<void>((resolve) => other.listen(0, "127.0.0.1", resolve));
    const { port } = other.address() as AddressInfo;
    try {
      const options = ["--metrics", `127.0.0.1:${port}`];
      await using daemon = await DaemonProcess.start(folder, options);
      const line = await daemon.logged("Metrics cannot be served on their address for now");
      assert.match(String(line.reason), /EADDRINUSE/);
      await daemon.client.health();
      await new Promise((resolve) => other.close(resolve));
      await daemon.logged("Serves metrics");
      assert.equal((await ask(port, "GET", "/metrics")).status, 200);
    } finally {
      other.close();
    }
  });
});

describe("metrics of images", requires("userfaultfd", "cc", "nginx"), () => {
  test("count chunks and what stores did, and begin again with a new pager", async () => {
    await using nginx = await Nginx.start();
    using stage = new ImageStage();
    const image = stage.path("image");
    writeMemory(image, PAGE_COUNT, 7);
    stage.json("pack", image, "--name", "web-1", "--store", join(nginx.path, "images"));
    await using daemon = await DaemonProcess.start(folder, ["--store", nginx.location]);
    const { socketPath } = await daemon.client.createSession({ memory: "web-1", id: "web" });
    await using vmm = new Vmm(socketPath, image, ["--linger", 60_000]);
    assert.equal((await vmm.result()).mismatches, 0);
    const told = await scrape(daemon);
    const loads = sum(told, "faultline_cache_loads_total");
    assert.ok(loads > 0);
    assert.equal(sum(told, "faultline_memories", { kind: "image" }), 1);
    for (const stage of ["fetch", "decode"]) {
      assert.equal(sum(told, "faultline_cache_stage_seconds_count", { stage }), loads, stage);
    }
    const store = { store: nginx.location };
    const reads = sum(told, "faultline_store_requests_total", { ...store, kind: "read" });
    assert.ok(reads >= loads, `${reads} reads for ${loads} chunks`);
    assert.ok(sum(told, "faultline_store_read_duration_seconds_count", store) >= loads);
    assert.ok(sum(told, "faultline_awaited_pages_total") > 0);
    const { cache, stores } = await daemon.client.statistics();
    assert.deepEqual([cache.loads, stores[0]?.location], [loads, nginx.location]);

    await daemon.stoodBy();
    await daemon.killPager();
    const after = await scrape(daemon);
    assert.equal(sum(after, "faultline_cache_loads_total"), 0, "nothing was asked for since");
    assert.equal(sum(after, "faultline_cache_chunks", { state: "unchecked" }), loads);
    const awaited = "faultline_awaited_pages_total";
    assert.equal(sum(after, awaited), sum(told, awaited));
  });
});

describe("the log", needs, () => {
  test("names the session in each line about its VM, and has none for faults", async () => {
    await using daemon = await DaemonProcess.start(folder);
    await using vmm = await runVm(daemon, "told");
    await daemon.client.completeSession("told");
    await daemon.logged("Detached a VM");
    const about = daemon.log.filter(({ pid }) => pid === vmm.pid);
    assert.deepEqual(
      about.map(({ session }) => session),
      about.map(() => "told"),
    );
    assert.ok(about.length >= 3 && about.length < 8, about.map(({ msg }) => msg).join("; "));
  });
});

interface Answer {
  readonly status: number;
  readonly type: string;
  readonly text: string;
}

async function ask(port: number, method: string, path: string): Promise<Answer> {
  return await new Promise((resolve, reject) => {
    const sent = request({ port, host: "127.0.0.1", method, path, agent: false }, (response) => {
      let text = "";
      response.setEncoding("utf8").on("data", (chunk: string) => {
        text += chunk;
      });
      response.on("end", () => {
        const { statusCode: status = 0, headers } = response;
        resolve({ status, type: headers["content-type"] ?? "", text });
      });
    });
    sent.setTimeout(BUDGET_MS, () => sent.destroy(new Error("no answer")));
    sent.on("error", reject);
    sent.end();
  });
}
