/** Dashboards of other things than a daemon's memory files: of `serve`, and of images. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { type AddressInfo, createServer } from "node:net";
import { describe, test } from "node:test";
import {
  Cell,
  decodeBase64,
  kindOfCell,
  NO_LAYER,
  type Overview,
  type OverviewUpdate,
  type PageStory,
} from "../../src/daemon/dashboard/protocol.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { Dirtier } from "../support/dirtier.ts";
import { EventReader } from "../support/event-reader.ts";
import { PAGE_BYTES, TestFolder, writeFull } from "../support/fixtures.ts";
import { ImageStage, writeMemory } from "../support/image-stage.ts";
import { requires } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { Vmm } from "../support/vmm-process.ts";
import { askTcp, ReadMap } from "../support/watched-daemon.ts";

const needs = requires("userfaultfd", "cc");
const BUDGET_MS = 20_000;
const PAGE_COUNT = 2048;

/** Its port, and the headers that it wants. */
async function dashboardOf(serve: ServeProcess): Promise<{
  readonly port: number;
  readonly headers: Readonly<Record<string, string>>;
}> {
  const line = await waitFor(
    "it said where its dashboard is",
    () => serve.printed.find((each) => each.startsWith("dashboard: ")),
    BUDGET_MS,
  );
  const { port, hash } = new URL(line.slice("dashboard: ".length));
  return { port: Number(port), headers: { authorization: `Bearer ${hash.slice(1)}` } };
}

describe("serve", needs, () => {
  test("shows its VM, and what it has written", async () => {
    using folder = new TestFolder();
    const memory = folder.at("memory");
    writeFull(memory, PAGE_COUNT);
    mkdirSync(folder.at("sessions"));
    const socket = folder.at("socket");
    await using serve = await ServeProcess.start([
      ...["--memory", memory, "--socket", socket, "--track-dirty", folder.at("sessions")],
      ...["--dashboard", "127.0.0.1:0"],
    ]);
    const place = await dashboardOf(serve);
    using overview = await EventReader.open({ ...place, path: "/v1/watch" });
    assert.deepEqual((await overview.next<Overview>("snapshot")).sessions, []);
    await using vm = await Dirtier.start(socket, memory);
    const id = `vm-${vm.pid}`;
    const isThere = ({ sessions = [] }: OverviewUpdate): boolean =>
      sessions.some((row) => row.id === id && row.state === "attached");
    await overview.next<OverviewUpdate>("update", isThere);
    using view = await ReadMap.open(place, id, "?scale=1");
    assert.equal(view.map.tracksDirty, true);
    await vm.order("read 10 1");
    await vm.order("write 500 1");
    await vm.order("remove 900 2");
    const wanted = [Cell.present, Cell.dirty, Cell.removed];
    await view.until("it showed what was done", (states) =>
      wanted.every((kind, index) => kindOfCell(states[[10, 500, 901][index]!]!) === kind),
    );
    const story = await askTcp(place.port, `/v1/sessions/${id}/pages/500`, place.headers);
    assert.equal((JSON.parse(story.text) as PageStory).state, "dirty");
    assert.equal((await askTcp(place.port, "/v1/sessions", place.headers)).status, 404);
    assert.equal((await askTcp(place.port, "/v1/watch")).status, 401);
    await vm.kill();
    await view.reader.next("gone");
    const isOver = ({ sessions = [] }: OverviewUpdate): boolean =>
      sessions.some((row) => row.id === id && row.state === "ended" && row.endReason !== null);
    await overview.next<OverviewUpdate>("update", isOver);
  });

  test("serves VMs while its dashboard's port is somebody else's", async () => {
    using folder = new TestFolder();
    writeFull(folder.at("memory"), 4);
    const other = createServer().listen(0, "127.0.0.1");
    await once(other, "listening");
    const { port } = other.address() as AddressInfo;
    await using serve = await ServeProcess.start([
      ...["--memory", folder.at("memory"), "--socket", folder.at("socket")],
      ...["--dashboard", `127.0.0.1:${port}`],
    ]);
    await serve.logged("The dashboard cannot be served on its address for now");
    other.close();
    assert.equal((await dashboardOf(serve)).port, port);
  });

  test("has none on an address that others can reach", async () => {
    const args = ["--memory", "/none", "--socket", "/none", "--dashboard", "0.0.0.0:7433"];
    const { errors, exit } = await ServeProcess.run(args);
    assert.equal(exit?.code, 2);
    assert.match(errors, /--dashboard 0\.0\.0\.0:7433 cannot be used.*ssh -L/);
  });
});

describe("images", needs, () => {
  test("tell which chunks others have, and pages which chunk they are from", async () => {
    using folder = new TestFolder();
    using stage = new ImageStage(folder.path);
    const memory = stage.path("memory");
    const content = writeMemory(memory, PAGE_COUNT, 5);
    stage.json("pack", memory, "--name", "one", "--chunk-size", "64K");
    // Half of it is another.
    const other = stage.path("other");
    writeMemory(other, PAGE_COUNT, 6).copy(content, content.length / 2, content.length / 2);
    writeFileSync(other, content);
    stage.json("pack", other, "--name", "two", "--chunk-size", "64K");
    await using daemon = await DaemonProcess.start(folder, ["--store", `dir:${stage.store}`]);
    const socketPath = daemon.controlPath;
    const { client } = daemon;
    const one = await client.createSession({ memory: "one", id: "one" });
    await client.createSession({ memory: "two", id: "two" });
    using overview = await EventReader.open({ socketPath, path: "/v1/watch" });
    const { images } = await overview.next<Overview>("snapshot");
    const row = images.find(({ memory: name }) => name.endsWith("/one"))!;
    assert.ok(row.chunks! > row.sharedChunks! && row.sharedChunks! > 0, JSON.stringify(row));
    assert.deepEqual(row.sharedWith, [
      { memory: `dir:${stage.store}/two`, chunks: row.sharedChunks },
    ]);

    await using vmm = new Vmm(one.socketPath, memory, ["--linger", 60_000]);
    assert.equal((await vmm.result()).mismatches, 0);
    using view = await ReadMap.open({ socketPath }, "one", "?scale=1");
    assert.deepEqual(view.map.layerNames, ["own", "shared"]);
    const layers = decodeBase64(view.map.layers);
    assert.deepEqual(new Set(layers), new Set([0, 1, NO_LAYER]));
    const page = layers.indexOf(1);
    const story = await client.page("one", page);
    assert.deepEqual([story.state, story.source.kind], ["present", "chunk"]);
    assert.match(story.source.name, /^[0-9a-f]{64}$/);
    assert.equal(story.source.store, `dir:${stage.store}`);
    assert.equal(story.source.sizeBytes, 65_536);
    assert.equal(story.source.offset, (page * PAGE_BYTES) % 65_536);
    assert.equal(story.inCache, true);
    assert.ok(story.demandedAfterMs === null || story.demandOrder !== null);
    const demanded = view.map.ages;
    assert.ok(
      decodeBase64(demanded).some((byte) => byte !== 255),
      "some pages have ages",
    );
  });
});
