/** The page on a real daemon: its token, its sessions, real VMs, and daemons that die under it. */
import assert from "node:assert/strict";
import { once } from "node:events";
import { createServer } from "node:net";
import { after, before, describe, test } from "node:test";
import { stateTable } from "../../dashboard/palette.ts";
import { Cell, cellByte, FULL_SHARE } from "../../src/daemon/dashboard/protocol.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { TestFolder } from "../support/fixtures.ts";
import { pixelOfPage } from "../support/map-pixels.ts";
import { BUDGET_MS, PageBrowser } from "../support/page-browser.ts";
import { requires } from "../support/requires.ts";
import { ScriptedVms } from "../support/watched-daemon.ts";

const needs = requires("chromium", "userfaultfd");
/** What the browser itself says of answers that these tests want. */
const REFUSALS = /Failed to load resource|ERR_CONNECTION|ERR_INCOMPLETE|ERR_EMPTY/;
const SESSIONS = 1000;

const folder = new TestFolder();
let browser: PageBrowser;
let daemon: DaemonProcess;
let vms: ScriptedVms;
let address: string;

before(async () => {
  if (needs.skip !== undefined) return;
  vms = new ScriptedVms(folder.at("memory"));
  address = `127.0.0.1:${await freePort()}`;
  await startDaemon();
  browser = await PageBrowser.start();
});

after(async () => {
  await browser?.[Symbol.asyncDispose]();
  await vms?.[Symbol.asyncDispose]();
  await daemon?.[Symbol.asyncDispose]();
  folder[Symbol.dispose]();
});

/** A later daemon has to have the same one. */
async function freePort(): Promise<number> {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const place = server.address();
  server.close();
  await once(server, "close");
  assert.ok(place !== null && typeof place === "object");
  return place.port;
}

async function startDaemon(): Promise<void> {
  daemon = await DaemonProcess.start(folder, ["--dashboard", address, "--max-sessions", "2000"]);
  const listens = async (): Promise<boolean> => (await daemon.client.dashboard()).address !== null;
  await waitFor("the dashboard listens", listens, BUDGET_MS);
}

async function urlWithToken(): Promise<string> {
  const { token } = await daemon.client.dashboard();
  return `http://${address}/#${token}`;
}

describe("the token", needs, () => {
  test("comes with the URL, and is taken out of the address bar", async () => {
    const url = await urlWithToken();
    await using watched = await browser.open(url);
    await watched.page.getByText("● live").waitFor();
    assert.equal(await watched.ask("location.hash"), "#/");
    await watched.page.reload();
    await watched.page.getByText("● live").waitFor();
    await watched.page.getByText("No sessions yet").waitFor();
  });

  test("is asked for, refused when it is wrong, and accepted when it is right", async () => {
    const { token } = await daemon.client.dashboard();
    await using watched = await browser.open(`http://${address}/`, { mayPrint: REFUSALS });
    const { page } = watched;
    await page.getByRole("heading", { name: "Token needed" }).waitFor();
    await page.keyboard.type("wrong");
    await page.keyboard.press("Enter");
    await page.getByRole("heading", { name: "Token refused" }).waitFor();
    await page.getByText("⚷ token needed").waitFor();
    await page.keyboard.type(token!);
    await page.keyboard.press("Enter");
    await page.getByText("● live").waitFor();
    assert.equal(await page.locator("dialog").count(), 0);
  });
});

describe("a VM of a real daemon", needs, () => {
  const untouched = stateTable("dark")[Cell.untouched]!;
  const present = stateTable("dark")[cellByte(Cell.present, FULL_SHARE)]!;

  test("comes to life page by page, also under another pager and another daemon", async () => {
    await using watched = await browser.open(await urlWithToken(), { mayPrint: REFUSALS });
    const { page } = watched;
    const vm = await vms.attach(daemon, "alive");
    await page.getByRole("link", { name: "alive", exact: true }).click();
    await page.waitForSelector("canvas.map[data-scale='1']");
    const shows = async (at: number, colour: number): Promise<void> => {
      const look = async (): Promise<boolean> => (await pixelOfPage(watched, at)) === colour;
      await waitFor(`page ${at} has its colour`, look, BUDGET_MS);
    };
    await shows(7, untouched);
    await vm.expect([7], "file");
    await shows(7, present);
    await shows(8, untouched);
    await daemon.killPager();
    await vm.expect([9], "file");
    await shows(9, present);
    await shows(8, untouched);
    await page.getByText("● live").waitFor();

    await daemon[Symbol.asyncDispose]();
    await page.getByText("◌ reconnecting").waitFor();
    await startDaemon();
    await page.getByText("● live").waitFor();
    await page.getByText("There is no session alive any more.").waitFor();
    await vms.attach(daemon, "second");
    await page.getByText("‹ Sessions").click();
    await page.getByRole("link", { name: "second", exact: true }).waitFor();
    assert.equal(await page.locator("tr[data-id]").count(), 1);
  });

  test("has a story of each page", async () => {
    await using watched = await browser.open(await urlWithToken());
    const { page } = watched;
    const vm = await vms.attach(daemon, "told");
    await vm.expect([0], "file");
    await page.getByRole("link", { name: "told", exact: true }).click();
    await page.waitForSelector("canvas.map[data-scale='1']");
    await page.locator("canvas.map").focus();
    await page.keyboard.press("ArrowRight");
    await page.locator(".tip").getByText("page 0: present; region 0").waitFor();
    await page.locator(".tip").getByText(`from: ${vms.image.path} + 0x0`).waitFor();
  });
});

describe("a thousand sessions", needs, () => {
  test("are listed, though only those that can be seen are in the document", async () => {
    await using watched = await browser.open(await urlWithToken());
    const { page } = watched;
    const create = async (from: number): Promise<void> => {
      for (let index = from; index < SESSIONS; index += 8) {
        await daemon.client.createSession({ memory: vms.image.path, id: `many-${index}` });
      }
    };
    await Promise.all(Array.from({ length: 8 }, (_, lane) => create(lane)));
    await page.getByRole("searchbox").fill("many-");
    await page.getByText("1,000 sessions").waitFor();
    const rows = await page.locator("tr[data-id]").count();
    assert.ok(rows > 10 && rows < 80, `${rows} rows are in the document`);
    // The list's keys need no focus on it.
    await page.evaluate("document.activeElement.blur()");
    await page.keyboard.press("End");
    await page.locator("tr[data-id=many-999][aria-selected=true]").waitFor();
    await page.getByRole("searchbox").fill("many-517");
    await page.getByText("1 session", { exact: true }).waitFor();
    await page.keyboard.press("Enter");
    await page.keyboard.press("ArrowDown");
    await page.keyboard.press("Enter");
    await page.getByText("It waits for its VM.").waitFor();
  });
});
