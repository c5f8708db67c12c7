/** The map in a real browser: exact states in exact cells, closer looks, and keys. */
import assert from "node:assert/strict";
import { after, before, describe, test } from "node:test";
import { stateTable } from "../../dashboard/palette.ts";
import { Cell, cellByte, type PageStory } from "../../src/daemon/dashboard/protocol.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { pixelOfPage } from "../support/map-pixels.ts";
import { BUDGET_MS, PageBrowser, type WatchedPage } from "../support/page-browser.ts";
import { requires } from "../support/requires.ts";
import {
  type AskedWindow,
  changesOf,
  mapOf,
  numbersOf,
  overviewOf,
  ScriptedDashboard,
  sessionRow,
} from "../support/scripted-dashboard.ts";

const needs = requires("chromium");
const PAGES = 262_144;
const SCALE = 16;

/** What each page is, as the script has it: runs of 1,024 pages of every kind in turn. */
function stateOf(page: number): number {
  const kind = Math.floor(page / 1024) % 8;
  const share = kind === Cell.untouched || kind === Cell.none ? 0 : 15;
  return cellByte(kind, share);
}

function windowOf({ first, scale, cells }: AskedWindow): ReturnType<typeof mapOf> {
  const [from, step] = [first ?? 0, scale ?? SCALE];
  const count = cells ?? Math.ceil((PAGES - from) / step);
  const states = Uint8Array.from({ length: count }, (_, cell) => stateOf(from + cell * step));
  const layers = Uint8Array.from({ length: count }, (_, cell) => cell % 2);
  return mapOf({ pageCount: PAGES, first: from, scale: step, states, layers });
}

function storyOf(page: number): PageStory {
  return {
    page,
    state: "present",
    guestOffset: page * 4096,
    hostAddress: "0x7f0000001000",
    region: 0,
    source: { kind: "file", name: "/srv/web.mem", offset: 8192, store: null, sizeBytes: 1 },
    inCache: true,
    demandedAfterMs: 12,
    demandOrder: 34,
    prefault: "unplanned",
    costUs: 5600,
    cause: "disk",
  };
}

const rows = [sessionRow("web-1", PAGES), sessionRow("web-2", PAGES)];
const script = {
  overview: () => overviewOf(rows),
  map: windowOf,
  numbers: () => numbersOf({ causes: { ...numbersOf().causes, store: 79_000, decode: 21_000 } }),
  story: (_: string, page: number) => storyOf(page),
};

let browser: PageBrowser;
let daemon: ScriptedDashboard;

async function told(watched: WatchedPage, name: string): Promise<number> {
  return Number(await watched.page.locator("canvas.map").getAttribute(`data-${name}`));
}

async function openMap(colorScheme: "light" | "dark" = "dark"): Promise<WatchedPage> {
  const watched = await browser.open(`${daemon.url}#/vm/web-1`, { colorScheme });
  await watched.page.waitForSelector("canvas.map[data-scale]");
  return watched;
}

async function showsPage(watched: WatchedPage, page: number, expected: number): Promise<void> {
  let seen = 0;
  const look = async (): Promise<boolean> => {
    seen = await pixelOfPage(watched, page);
    return seen === expected;
  };
  await waitFor(`page ${page} has its colour`, look, BUDGET_MS).catch(() => {
    assert.equal(seen.toString(16), expected.toString(16), `page ${page}`);
  });
}

describe("the map of a scripted session", needs, () => {
  before(async () => {
    browser = await PageBrowser.start();
    daemon = await ScriptedDashboard.start(script);
  });
  after(async () => {
    await browser[Symbol.asyncDispose]();
    await daemon[Symbol.asyncDispose]();
  });

  for (const theme of ["light", "dark"] as const) {
    test(`shows every state in its cells, ${theme}`, async () => {
      await using watched = await openMap(theme);
      const table = stateTable(theme);
      for (let page = 0; page < PAGES; page += 5120 + SCALE) {
        await showsPage(watched, page, table[stateOf(page)]!);
      }
    });
  }

  test("shows changes in their cells, and only there", async () => {
    await using watched = await openMap();
    const table = stateTable("dark");
    const [changed, beside] = [8200, 8200 + SCALE];
    const cell = Math.floor(changed / SCALE);
    await showsPage(watched, changed, table[stateOf(changed)]!);
    const other = cellByte(Cell.pending, 15);
    daemon.tellMaps(
      "cells",
      changesOf(70_000, [
        [cell, [other]],
        [PAGES / SCALE - 1, [other]],
      ]),
    );
    await showsPage(watched, changed, table[other]!);
    await showsPage(watched, PAGES - 1, table[other]!);
    await showsPage(watched, beside, table[stateOf(beside)]!);
    const legend = watched.page.locator(".legend li[data-kind=pending]");
    await waitFor(
      "the legend counts it",
      async () => /2,050/.test(await legend.innerText()),
      BUDGET_MS,
    );
  });

  test("begins anew after its stream broke", async () => {
    await using watched = await browser.open(`${daemon.url}#/vm/web-1`, {
      mayPrint: /ERR_|Failed to load/,
    });
    await watched.page.waitForSelector("canvas.map[data-scale]");
    const lost = cellByte(Cell.dirty, 15);
    daemon.tellMaps("cells", changesOf(1, [[0, [lost]]]));
    await showsPage(watched, 0, stateTable("dark")[lost]!);
    daemon.drop();
    await showsPage(watched, 0, stateTable("dark")[stateOf(0)]!);
    await watched.page.getByText("● live").waitFor();
  });

  test("looks closer until each cell is a page, and back", async () => {
    await using watched = await openMap();
    await watched.page.locator("canvas.map").focus();
    for (let step = 0; step < 14; step++) await watched.page.keyboard.press("+");
    await waitFor("single pages", async () => (await told(watched, "scale")) === 1, BUDGET_MS);
    assert.equal(await told(watched, "pages"), 64);
    const first = await told(watched, "first");
    assert.ok(first > 0 && first < PAGES);
    const table = stateTable("dark");
    for (const page of [first, first + 1, first + 63]) {
      await showsPage(watched, page, table[stateOf(page)]!);
    }
    const fine = daemon.openMaps.filter(({ scale }) => scale === 1);
    assert.equal(fine.length, 1, "one stream of single pages");
    // Only the closer stream tells of it: the page is found by its own number.
    const cell = first + 1 - fine[0]!.first!;
    const other = cellByte(Cell.removed, 15);
    daemon.tellMaps("cells", changesOf(80_000, [[cell, [other]]]), ({ scale }) => scale === 1);
    await showsPage(watched, first + 1, table[other]!);
    await showsPage(watched, first + 2, table[stateOf(first + 2)]!);
    await watched.page.keyboard.press("Home");
    await waitFor("the whole VM", async () => (await told(watched, "pages")) === PAGES, BUDGET_MS);
    const one = (): boolean => daemon.openMaps.length === 1;
    await waitFor("the closer stream is closed", one, BUDGET_MS);
  });

  test("zooms where the wheel points, and into what is marked", async () => {
    await using watched = await openMap();
    const box = (await watched.page.locator("canvas.map").boundingBox())!;
    await watched.page.mouse.move(box.x + 5, box.y + 5);
    await watched.page.mouse.wheel(0, -400);
    const isCloser = async (): Promise<boolean> => (await told(watched, "pages")) < PAGES;
    await waitFor("it is closer", isCloser, BUDGET_MS);
    assert.ok((await told(watched, "first")) < 16, "the beginning stays where it is");
    await watched.page.keyboard.press("Escape");
    const height = await watched.ask<number>("document.querySelector('canvas.map').clientHeight");
    await watched.page.locator("canvas.map").focus();
    await watched.page.keyboard.press("Home");
    await waitFor("the whole VM", async () => (await told(watched, "pages")) === PAGES, BUDGET_MS);
    await watched.page.mouse.move(box.x + 2, box.y + height / 2);
    await watched.page.mouse.down();
    await watched.page.mouse.move(box.x + 200, box.y + height / 2 + 40, { steps: 4 });
    await watched.page.mouse.up();
    await waitFor("what was marked", isCloser, BUDGET_MS);
    const first = await told(watched, "first");
    assert.ok(Math.abs(first - PAGES / 2) < PAGES / 20, `from the middle on: ${first}`);
  });

  test("tells of the cell under the pointer, and its first page's story", async () => {
    await using watched = await openMap();
    const box = (await watched.page.locator("canvas.map").boundingBox())!;
    await watched.page.mouse.move(box.x + 1, box.y + 1);
    const tip = watched.page.locator(".tip");
    await tip.getByText("0x0 – 0xffff").waitFor();
    await tip.getByText("page 0: present; region 0").waitFor();
    await tip.getByText("cost 5.6 ms, most of it: disk").waitFor();
    await tip.getByText("from: /srv/web.mem + 0x2000, in memory now").waitFor();
  });

  test("can be walked by keys alone, from the list to a page and back", async () => {
    await using watched = await browser.open(daemon.url);
    const { keyboard } = watched.page;
    await watched.page.waitForSelector("tr[data-id]");
    await keyboard.press("/");
    await keyboard.type("web-2");
    await watched.page.getByText("1 session", { exact: true }).waitFor();
    await keyboard.press("ArrowDown");
    await keyboard.press("ArrowDown");
    await watched.page.locator("tr[aria-selected=true]").waitFor();
    await keyboard.press("Enter");
    await watched.page.waitForSelector("canvas.map[data-scale]");
    assert.equal(await watched.ask("location.hash"), "#/vm/web-2");
    const isFocused = (): Promise<boolean> =>
      watched.ask("document.activeElement.className === 'map'");
    await waitFor("the map has the focus", isFocused, BUDGET_MS);
    for (const key of ["ArrowRight", "ArrowRight", "ArrowDown"]) await keyboard.press(key);
    const columns = await told(watched, "columns");
    const scale = await told(watched, "scale");
    const page = (1 + columns) * scale;
    await watched.page.locator("#announcer").getByText(`${scale} pages from ${page}`).waitFor({
      state: "attached",
    });
    await keyboard.press("2");
    await watched.page.locator("button[aria-pressed=true]", { hasText: "Source layer" }).waitFor();
    await keyboard.press("?");
    await watched.page.locator("dialog", { hasText: "Keys" }).waitFor();
    await keyboard.press("Escape");
    await watched.page.locator("dialog").waitFor({ state: "detached" });
    await keyboard.press("m");
    await keyboard.press("Enter");
    const isCloser = async (): Promise<boolean> => (await told(watched, "pages")) < PAGES;
    await waitFor("it is closer", isCloser, BUDGET_MS);
    await keyboard.press("Escape");
    await waitFor("the whole VM", async () => (await told(watched, "pages")) === PAGES, BUDGET_MS);
    await keyboard.press("Escape");
    await watched.page.waitForSelector("tr[data-id]");
  });

  test("says in words what the map shows, and why the VM waited", async () => {
    await using watched = await openMap();
    await watched.page.getByText("Waited 100 ms: store 79 %, decode 21 %.").waitFor();
    const label = await watched.page.locator("canvas.map").getAttribute("aria-label");
    assert.match(label!, /^Map of 16,384 cells: 2,048 untouched, 2,048 pending, .* none\.$/);
  });

  test("of a session that ended stays, and says so", async () => {
    await using watched = await openMap();
    daemon.tellMaps("gone", { reason: "exited" });
    await watched.page.getByText("The session has ended (exited)").waitFor();
    await showsPage(watched, 2048, stateTable("dark")[stateOf(2048)]!);
  });

  test("makes room for the next VM with its id", async () => {
    await using watched = await openMap();
    const ended = cellByte(Cell.dirty, 15);
    daemon.tellMaps("cells", changesOf(1, [[0, [ended]]]));
    await showsPage(watched, 0, stateTable("dark")[ended]!);
    daemon.tellMaps("gone", { reason: "exited" });
    daemon.tell("update", { sessions: [{ ...rows[0], state: "ended", endReason: "exited" }] });
    await watched.page.getByText("The session has ended (exited)").waitFor();
    const attachedAt = new Date().toISOString();
    daemon.tell("update", { sessions: [{ ...rows[0], attachedAt }] });
    await showsPage(watched, 0, stateTable("dark")[stateOf(0)]!);
    await watched.page.getByText("The session has ended").waitFor({ state: "hidden" });
  });
});

describe("a VM of 16 GiB", needs, () => {
  test("has a cell for each 64 KiB", async () => {
    const pageCount = 4_194_304;
    const cells = 262_144;
    const states = Uint8Array.from({ length: cells }, (_, cell) => stateOf(cell));
    await using huge = await ScriptedDashboard.start({
      overview: () => overviewOf([sessionRow("web-1", pageCount)]),
      map: () => mapOf({ pageCount, scale: 16, states }),
    });
    await using one = await PageBrowser.start();
    await using watched = await one.open(`${huge.url}#/vm/web-1`);
    await watched.page.waitForSelector("canvas.map[data-scale]");
    assert.deepEqual(huge.asked, [{ id: "web-1", first: null, scale: 16, cells: null }]);
    const table = stateTable("dark");
    for (let cell = 0; cell < cells; cell += 10_240 + 512) {
      await showsPage(watched, cell * 16, table[stateOf(cell)]!);
    }
    const rows = await told(watched, "rows");
    assert.ok(rows * (await told(watched, "columns")) >= cells);
    await watched.page.getByText("whole VM, 16 GiB").waitFor();
  });
});
