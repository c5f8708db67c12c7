/** The dashboard of a real daemon: what VMs do comes to those who watch, and to nobody else. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import {
  Cell,
  decodeBase64,
  kindOfCell,
  type MapSnapshot,
  NO_LAYER,
  type Overview,
  type OverviewUpdate,
  type SessionRow,
  type VmNumbers,
} from "../../src/daemon/dashboard/protocol.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { EventReader } from "../support/event-reader.ts";
import { TestFolder } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import { askTcp, ReadMap, ScriptedVms } from "../support/watched-daemon.ts";

const needs = requires("userfaultfd");
const BUDGET_MS = 20_000;

const folder = new TestFolder();
let daemon: DaemonProcess;
let vms: ScriptedVms;
let port: number;
let token: string;

before(async () => {
  if (needs.skip !== undefined) return;
  vms = new ScriptedVms(folder.at("memory"));
  daemon = await DaemonProcess.start(folder, ["--dashboard", "127.0.0.1:0"]);
  await whereItIs();
});

after(async () => {
  await vms?.[Symbol.asyncDispose]();
  await daemon?.[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

async function whereItIs(): Promise<void> {
  const listens = async (): Promise<boolean> => (await daemon.client.dashboard()).address !== null;
  await waitFor("the dashboard listened", listens, BUDGET_MS);
  const place = await daemon.client.dashboard();
  port = Number(place.address!.split(":")[1]);
  token = place.token!;
}

const watch = (): Promise<EventReader> =>
  EventReader.open({ socketPath: daemon.controlPath, path: "/v1/watch" });

/** Rows as they are told until one is as wanted. */
async function rowOf(
  reader: EventReader,
  id: string,
  isWanted: (row: SessionRow) => boolean,
): Promise<SessionRow> {
  const find = ({ sessions = [] }: OverviewUpdate): SessionRow | undefined =>
    sessions.find((row) => row.id === id && isWanted(row));
  return find(await reader.next<OverviewUpdate>("update", (update) => find(update) !== undefined))!;
}

describe("the overview", needs, () => {
  test("tells of sessions from their creation to their end", async () => {
    using reader = await watch();
    assert.equal(reader.headers["content-type"], "text/event-stream; charset=utf-8");
    const first = await reader.next<Overview>("snapshot");
    assert.deepEqual(first.sessions, []);
    assert.equal(first.host.isDraining, false);
    const vm = await vms.attach(daemon, "life");
    const attached = await rowOf(reader, "life", ({ state }) => state === "attached");
    assert.equal(attached.pid, vm.pid);
    assert.equal(attached.pages.total, vms.image.pageCount);
    await vm.expect([0, 50, 90], "file");
    const busy = await rowOf(reader, "life", ({ faults }) => faults >= 3);
    assert.ok(busy.pages.present >= 3 && busy.p50Us > 0 && busy.waitedUs > 0);
    using other = await watch();
    const second = await other.next<Overview>("snapshot");
    assert.equal(second.sessions.find(({ id }) => id === "life")?.faults, busy.faults);
    assert.ok(second.numbers.faults >= 3 && second.numbers.latencyBuckets.length > 0);
    assert.equal(second.images[0]?.kind, "files");
    await daemon.client.killSession("life");
    const ended = await rowOf(reader, "life", ({ state }) => state === "ended");
    assert.equal(ended.endReason, "killed");
  });
});

describe("a map", needs, () => {
  const kindsOf = (states: Uint8Array, pages: readonly number[]): number[] =>
    pages.map((page) => kindOfCell(states[page]!));

  test("shows what becomes of every page", async () => {
    const { image } = vms;
    const vm = await vms.attach(daemon, "map");
    using view = await ReadMap.open({ socketPath: daemon.controlPath }, "map", "?scale=1");
    const { map } = view;
    assert.deepEqual([map.first, map.scale, map.cells], [0, 1, image.pageCount]);
    assert.deepEqual([map.tracksDirty, map.layerNames], [false, [image.path]]);
    assert.deepEqual([map.regions[0]?.firstPage, map.regions[0]?.pages], [0, image.pageCount]);
    assert.match(map.regions[0]!.hostAddress, /^0x[0-9a-f]+$/);
    assert.ok(view.states.every((state) => state === Cell.untouched));
    const [hole] = image.holes;
    const layers = decodeBase64(map.layers);
    assert.deepEqual([layers[0], layers[hole!.first]], [0, NO_LAYER]);

    await vm.expect([5, 9], "file");
    await vm.expect([hole!.first], "file or zero");
    await vm.remove([{ first: 100, count: 3 }]);
    const wanted = [Cell.present, Cell.present, Cell.zero, Cell.removed, Cell.untouched];
    const shown = [5, 9, hole!.first, 101, 200];
    await view.until("the pages were shown", (states) =>
      kindsOf(states, shown).every((kind, index) => kind === wanted[index]),
    );
    const numbers = await view.reader.next<VmNumbers>("numbers", ({ faults }) => faults >= 3);
    assert.deepEqual([numbers.removedPages, numbers.state], [3, "attached"]);
    assert.ok(numbers.causes.install > 0);
    assert.equal(numbers.demandedPages, null, "nothing is learnt of memory files");

    using late = await ReadMap.open(
      { socketPath: daemon.controlPath },
      "map",
      "?first=96&scale=8&cells=1",
    );
    assert.equal(kindOfCell(late.states[0]!), Cell.removed);
    const story = await daemon.client.page("map", 5);
    assert.deepEqual(
      [story.state, story.source.kind, story.source.name, story.source.offset, story.inCache],
      ["present", "file", image.path, 5 * 4096, true],
    );
    assert.ok(story.costUs === null || story.costUs > 0);
    assert.equal((await daemon.client.page("map", hole!.first)).source.kind, "zero");
    await assert.rejects(daemon.client.page("map", 1e6), { status: 404, message: /no page/ });

    await daemon.client.completeSession("map");
    const completed = [Cell.present, Cell.present, Cell.zero, Cell.removed, Cell.prefaulted];
    await view.until("the rest came by itself", (states) =>
      kindsOf(states, shown).every((kind, index) => kind === completed[index]),
    );

    await daemon.client.killSession("map");
    const gone = await view.reader.next<{ reason: string }>("gone");
    assert.equal(gone.reason, "killed");
    await view.reader.ended();
  });

  test("is refused where there is none", async () => {
    const { path: memory } = vms.image;
    await daemon.client.createSession({ memory, id: "waits" });
    const statusOf = async (path: string): Promise<number> => {
      using reader = await EventReader.open({ socketPath: daemon.controlPath, path });
      return reader.status;
    };
    assert.equal(await statusOf("/v1/sessions/nobody/watch"), 404);
    assert.equal(await statusOf("/v1/sessions/waits/watch"), 409);
    assert.equal(await statusOf("/v1/sessions/map/watch"), 404, "it has ended");
    await vms.attach(daemon, "asked");
    for (const query of ["scale=0", "first=9999999", "cells=0", "scale=x", "zoom=1"]) {
      assert.equal(await statusOf(`/v1/sessions/asked/watch?${query}`), 400, query);
    }
  });
});

describe("over TCP", needs, () => {
  const known = (): Record<string, string> => ({ authorization: `Bearer ${token}` });

  test("all but the page wants the token", async () => {
    const paths = ["/v1/watch", "/v1/sessions", "/v1/host", "/v1/sessions/a/pages/1"];
    for (const path of paths) {
      for (const authorization of ["", "Bearer x", `Basic ${token}`, `Bearer ${token}x`]) {
        const { status, headers } = await askTcp(port, path, { authorization });
        assert.equal(status, 401, `${path} with ${authorization}`);
        assert.match(String(headers["www-authenticate"]), /^Bearer/);
      }
    }
    assert.equal((await askTcp(port, "/v1/sessions", known())).status, 200);
    const page = await askTcp(port, "/");
    assert.ok([200, 503].includes(page.status), `${page.status}`);
    using reader = await EventReader.open({ port, path: "/v1/watch", headers: known() });
    assert.ok((await reader.next<Overview>("snapshot")).host.pid > 0);
  });

  test("only names of this host are answered, and nothing can be changed", async () => {
    for (const host of ["evil.example", "127.0.0.1.evil.example", "10.0.0.1:80", "localhost."]) {
      const answer = await askTcp(port, "/v1/sessions", { ...known(), host });
      assert.equal(answer.status, 403, host);
    }
    for (const host of ["localhost", "LOCALHOST:7433", "[::1]:80", "127.0.0.1:9"]) {
      const answer = await askTcp(port, "/v1/sessions", { ...known(), host });
      assert.equal(answer.status, 200, host);
    }
    const cases: [method: string, path: string, status: number][] = [
      ["POST", "/v1/sessions", 405],
      ["DELETE", "/v1/sessions/a", 405],
      ["POST", "/v1/sessions/a/kill", 404],
      ["POST", "/v1/reload", 404],
      ["GET", "/v1/dashboard", 404],
      ["GET", "/metrics", 404],
      ["GET", "/v1/nothing", 404],
      ["GET", "/../etc/passwd", 404],
    ];
    for (const [method, path, status] of cases) {
      assert.equal((await askTcp(port, path, known(), method)).status, status, `${method} ${path}`);
    }
  });

  test("16 streams may be open, and one more when one is closed", async () => {
    const open = (): Promise<EventReader> =>
      EventReader.open({ port, path: "/v1/watch", headers: known() });
    const readers: EventReader[] = [];
    try {
      const refused = await waitFor(
        "streams were refused",
        async () => {
          const reader = await open();
          if (reader.status === 429) return reader;
          readers.push(reader);
          return null;
        },
        BUDGET_MS,
      );
      assert.equal(readers.length, 16);
      refused.close();
      readers[0]!.close();
      const isOpen = async (): Promise<boolean> => {
        const reader = await open();
        readers.push(reader);
        return reader.status === 200;
      };
      await waitFor("a place was free", isOpen, BUDGET_MS);
    } finally {
      for (const reader of readers) reader.close();
    }
  });

  test("a pager's end ends its streams; the next one has the same port and token", async () => {
    const id = "survivor";
    const vm = await vms.attach(daemon, id);
    await vm.expect([3], "file");
    using reader = await watch();
    await reader.next<Overview>("snapshot");
    using view = await ReadMap.open({ socketPath: daemon.controlPath }, id);
    const before = { port, token };
    await daemon.client.reload();
    await reader.ended();
    await view.reader.ended();
    await whereItIs();
    // Nobody else could have had it meanwhile, and been told the token.
    assert.deepEqual({ port, token }, before);
    using again = await EventReader.open({ port, path: "/v1/watch", headers: known() });
    const overview = await again.next<Overview>("snapshot");
    assert.equal(overview.sessions.find((row) => row.id === id)?.state, "attached");
    const path = `/v1/sessions/${id}/watch?scale=1`;
    using map = await EventReader.open({ port, path, headers: known() });
    const { states } = await map.next<MapSnapshot>("map");
    assert.equal(kindOfCell(decodeBase64(states)[3]!), Cell.present);
  });
});
