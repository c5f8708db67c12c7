/** The dashboard's streams under viewers that are slow, or gone: what waits for them is bounded. */
import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { IncomingMessage, ServerResponse } from "node:http";
import { Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, mock, test } from "node:test";
import { MAX_STREAMS } from "../../src/daemon/dashboard/dashboard.ts";
import { Cell, cellByte, FULL_SHARE, type Overview } from "../../src/daemon/dashboard/protocol.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { ControlStage } from "../support/control-stage.ts";
import { EventReader } from "../support/event-reader.ts";
import { TableDashboard, TableVm } from "../support/table-dashboard.ts";
import { TableHost } from "../support/table-host.ts";
import { ReadMap } from "../support/watched-daemon.ts";

const BUDGET_MS = 20_000;
/** 16 GiB: as many cells as a map may have. */
const PAGES = 2 ** 22;

const cellsOf = ({ events }: EventReader): number =>
  events.filter(({ name }) => name === "cells").length;

describe("a viewer that does not read", () => {
  test("has one event waiting, and is told the rest at once when he goes on", async () => {
    const dashboard = new TableDashboard();
    const vm = new TableVm(PAGES);
    dashboard.source.vms.set("one", vm);
    await using stage = await ControlStage.start({ service: new TableHost(), dashboard });
    using slow = await ReadMap.open({ socketPath: stage.socketPath }, "one");
    using fast = await ReadMap.open({ socketPath: stage.socketPath }, "one");
    slow.reader.pause();
    for (let round = 0; round < 24; round++) {
      const kind = round % 2 === 0 ? Cell.present : Cell.removed;
      if (kind === Cell.present) vm.pageTable.installRange(0, PAGES);
      else vm.pageTable.removeRange(0, PAGES);
      await fast.until("the other viewer saw it", (states) =>
        states.every((state) => state === cellByte(kind, FULL_SHARE)),
      );
    }
    assert.equal(cellsOf(fast.reader), 24);
    vm.pageTable.set(17, 1);
    slow.reader.resume();
    await slow.until("the slow one saw all", (states) =>
      states.every(
        (state, cell) => state === cellByte(cell === 1 ? Cell.pending : Cell.removed, FULL_SHARE),
      ),
    );
    const told = cellsOf(slow.reader);
    assert.ok(told >= 2 && told <= 6, `the slow one was told ${told} times`);
  });

  test("is cut off in the end, and others are not", async () => {
    const dashboard = new TableDashboard({ stallTimeoutMs: 500 });
    const vm = new TableVm(PAGES);
    dashboard.source.vms.set("one", vm);
    await using stage = await ControlStage.start({ service: new TableHost(), dashboard });
    using stuck = await ReadMap.open({ socketPath: stage.socketPath }, "one");
    using idle = await EventReader.open({ socketPath: stage.socketPath, path: "/v1/watch" });
    await idle.next<Overview>("snapshot");
    stuck.reader.pause();
    assert.equal(dashboard.dashboard.streams, 2);
    let isPresent = false;
    const isCutOff = (): boolean => {
      // More than the kernel takes for one who does not read.
      isPresent = !isPresent;
      if (isPresent) vm.pageTable.installRange(0, PAGES);
      else vm.pageTable.removeRange(0, PAGES);
      return dashboard.dashboard.streams === 1;
    };
    await waitFor("it was cut off", isCutOff, BUDGET_MS);
    await waitFor("the idle one was told that all is well", () => idle.comments >= 3, BUDGET_MS);
    assert.equal(idle.isEnded, false);
  });

  test("is forgotten when he goes", async () => {
    const dashboard = new TableDashboard();
    dashboard.source.vms.set("one", new TableVm(64));
    await using stage = await ControlStage.start({ service: new TableHost(), dashboard });
    const map = await ReadMap.open({ socketPath: stage.socketPath }, "one");
    const overview = await EventReader.open({ socketPath: stage.socketPath, path: "/v1/watch" });
    assert.equal(dashboard.dashboard.streams, 2);
    map.reader.close();
    overview.close();
    await waitFor("both were forgotten", () => dashboard.dashboard.streams === 0, BUDGET_MS);
  });
});

describe("a map's stream", () => {
  test("ends with its VM, or with the dashboard", async () => {
    const dashboard = new TableDashboard();
    const vm = new TableVm(64);
    dashboard.source.vms.set("one", vm);
    dashboard.source.vms.set("two", new TableVm(64));
    await using stage = await ControlStage.start({ service: new TableHost(), dashboard });
    using first = await ReadMap.open({ socketPath: stage.socketPath }, "one");
    using second = await ReadMap.open({ socketPath: stage.socketPath }, "two");
    vm.end("exited");
    assert.deepEqual(await first.reader.next("gone"), { reason: "exited" });
    await first.reader.ended();
    assert.equal(second.reader.isEnded, false);
    dashboard.dashboard.close();
    await second.reader.ended();
    const late = await stage.ask("GET", "/v1/watch");
    assert.equal(late.status, 503);
  });

  test("tells of writes where they are tracked", async () => {
    const dashboard = new TableDashboard();
    const vm = new TableVm(64);
    vm.dirty = new Uint8Array(8);
    dashboard.source.vms.set("one", vm);
    await using stage = await ControlStage.start({ service: new TableHost(), dashboard });
    using view = await ReadMap.open({ socketPath: stage.socketPath }, "one", "?scale=1");
    vm.pageTable.installRange(0, 2);
    vm.dirty[0] = 2;
    const wanted = [cellByte(Cell.present, FULL_SHARE), cellByte(Cell.dirty, FULL_SHARE)];
    await view.until("it showed", (states) =>
      wanted.every((state, page) => states[page] === state),
    );
    // When its VM ends, its bitmap is no more; nobody looks at it.
    vm.dirty = null;
    vm.pageTable.installRange(2, 3);
    await view.until("it went on", (states) => states[2] === cellByte(Cell.present, FULL_SHARE));
  });
});

describe("a stream that is asked for", () => {
  test("has its place before anything is done for it", async () => {
    const dashboard = new TableDashboard();
    const { source } = dashboard;
    const asked = mock.method(source, "prepare");
    source.vms.set("one", new TableVm(PAGES));
    await using stage = await ControlStage.start({ service: new TableHost(), dashboard });
    const { socketPath } = stage;
    const all = Array.from({ length: MAX_STREAMS + 1 }, () =>
      EventReader.open({ socketPath, path: "/v1/sessions/one/watch" }),
    );
    const readers = await Promise.all(all);
    assert.equal(readers.filter(({ status }) => status === 429).length, 1);
    assert.equal(asked.mock.callCount(), MAX_STREAMS);
    for (const reader of readers) reader.close();
    await waitFor("all have gone", () => dashboard.dashboard.streams === 0, BUDGET_MS);
    // A refusal takes no place for good.
    for (let round = 0; round <= MAX_STREAMS; round++) {
      assert.equal((await stage.ask("GET", "/v1/sessions/none/watch")).status, 404);
    }
  });

  test("is not prepared to its end for a viewer who has gone", async () => {
    const { source, dashboard } = new TableDashboard();
    const vm = new TableVm(PAGES);
    source.vms.set("one", vm);
    const looked = mock.method(source, "vm");
    let hasFinished = false;
    const { layers } = vm;
    Object.defineProperty(vm, "layers", {
      get: () => {
        hasFinished = true;
        return layers;
      },
    });
    const ask = async (goAfter: (response: ServerResponse) => void): Promise<void> => {
      const response = new ServerResponse(new IncomingMessage(new Socket()));
      const { req } = response;
      const served = dashboard.serve("watchSession", { id: "one", query: {} }, req, response);
      goAfter(response);
      await served;
    };
    await ask((response) => response.destroy());
    assert.equal(looked.mock.callCount(), 0);
    await ask((response) => setImmediate(() => response.destroy()));
    assert.equal(looked.mock.callCount(), 1);
    assert.equal(hasFinished, false);
  });
});

describe("a look that fails", () => {
  test("ends the streams that wanted it, and is told once", async () => {
    const dashboard = new TableDashboard();
    const { source, complaints } = dashboard;
    const vm = new TableVm(64);
    source.vms.set("one", vm);
    await using stage = await ControlStage.start({ service: new TableHost(), dashboard });
    const { socketPath } = stage;
    using map = await ReadMap.open({ socketPath }, "one");
    using overview = await EventReader.open({ socketPath, path: "/v1/watch" });
    await overview.next<Overview>("snapshot");
    const broken = (): never => {
      throw new Error("a bug");
    };
    vm.endReason = broken;
    await map.reader.ended();
    const images = mock.method(source, "images", broken);
    await overview.ended();
    assert.deepEqual(complaints, ["A stream of the dashboard failed"]);
    images.mock.restore();
    using again = await EventReader.open({ socketPath, path: "/v1/watch" });
    await again.next<Overview>("snapshot");
  });
});

describe("the page", () => {
  test("is served with a policy, once per version, and missed with advice", async () => {
    const folder = mkdtempSync(join(tmpdir(), "faultline-page-"));
    try {
      const pagePath = join(folder, "index.html");
      const dashboard = new TableDashboard({ pagePath });
      await using stage = await ControlStage.start({ service: new TableHost(), dashboard });
      const missing = await stage.ask("GET", "/");
      assert.equal(missing.status, 503);
      assert.match(String(missing.json.detail), /npm run build/);
      writeFileSync(pagePath, "<!doctype html><title>é</title>");
      const page = await stage.ask("GET", "/");
      assert.equal(page.status, 200);
      assert.equal(page.text, "<!doctype html><title>é</title>");
      assert.match(String(page.headers["content-security-policy"]), /^default-src 'none';/);
      const etag = String(page.headers.etag);
      const again = await stage.ask("GET", "/", undefined, { "if-none-match": etag });
      assert.deepEqual([again.status, again.text], [304, ""]);
      writeFileSync(pagePath, "<!doctype html><title>another</title>");
      const other = await stage.ask("GET", "/", undefined, { "if-none-match": etag });
      assert.equal(other.status, 200);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});
