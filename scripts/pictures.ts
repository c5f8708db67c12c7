/**
 * Makes the pictures of the README: runs the demo with its dashboard, looks at it with Debian's
 * Chromium, and writes what it sees into docs/pictures/.
 *
 *     npm run pictures
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import { type Browser, chromium, type Page } from "playwright-core";
import { builtRoot, repositoryRoot } from "../src/kit/paths.ts";

const FOLDER = join(repositoryRoot, "docs", "pictures");
const CHROMIUM = "/usr/bin/chromium";
const DEMO_FLAGS = ["--memory-mib", "32", "--image", "--slowness", "40"];
/** Of the demo's start, and of its guest in slow motion. */
const DEADLINE_MS = 120_000;
const LOOK_EVERY_MS = 100;
/** When the strip's pictures are taken: at these shares of all its faults. */
const STRIP_SHARES = [0.05, 0.2, 0.45, 0.7, 0.97];
/** And that of the whole page. */
const PICTURE_SHARE = 0.9;
const STRIP_PICTURE_WIDTH = 300;

type Theme = "dark" | "light";

/** The demo, until it is closed. */
class Demo {
  readonly url: string;
  readonly #child;

  private constructor(child: ReturnType<typeof spawn>, url: string) {
    this.#child = child;
    this.url = url;
  }

  static async start(): Promise<Demo> {
    const main = join(builtRoot, "src/cli/main.js");
    const child = spawn(process.execPath, [main, "demo", "--dashboard", ...DEMO_FLAGS], {
      stdio: ["ignore", "pipe", "inherit"],
    });
    for await (const line of createInterface({ input: child.stdout })) {
      const url = /https?:\S+/.exec(line)?.[0];
      if (url !== undefined) return new Demo(child, url);
    }
    throw new Error("The demo has ended without telling its dashboard's address.");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#child.stdout?.resume();
    this.#child.kill("SIGINT");
    if (this.#child.exitCode === null) await once(this.#child, "exit");
  }
}

async function openPage(browser: Browser, url: string, colorScheme: Theme): Promise<Page> {
  const viewport = { width: 1440, height: 900 };
  const context = await browser.newContext({ viewport, colorScheme });
  const page = await context.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  await page.goto(url);
  return page;
}

/** How often the guest has asked for pages, by the page's own numbers. */
async function faults(page: Page): Promise<number> {
  const label = page.locator("dt", { hasText: /^faults$/ });
  const text = await label.locator("xpath=following-sibling::dd").textContent();
  return Number((text ?? "").replace(/\D/g, ""));
}

async function takePictures(browser: Browser): Promise<void> {
  await using demo = await Demo.start();
  const page = await openPage(browser, demo.url, "dark");
  const canvas = page.locator("canvas").first();
  await canvas.waitFor();
  const seen: { readonly count: number; readonly picture: Buffer; readonly whole: Buffer }[] = [];
  const ended = page.getByText("The session has ended");
  while (!(await ended.isVisible())) {
    const count = await faults(page);
    if (count !== (seen.at(-1)?.count ?? 0)) {
      seen.push({ count, picture: await canvas.screenshot(), whole: await page.screenshot() });
    }
    await delay(LOOK_EVERY_MS);
  }
  const all = seen.at(-1)?.count ?? 0;
  const at = (share: number) => seen.find(({ count }) => count >= share * all)!;
  writeFileSync(join(FOLDER, "dashboard-dark.png"), at(PICTURE_SHARE).whole);
  await writeStrip(
    browser,
    STRIP_SHARES.map((share) => at(share).picture),
  );
  // The other theme, and the map by where the pages came from.
  await page.keyboard.press("t");
  await page.keyboard.press("2");
  await page.screenshot({ path: join(FOLDER, "dashboard-light.png") });
}

/** One picture of several, side by side. */
async function writeStrip(browser: Browser, frames: readonly Buffer[]): Promise<void> {
  const page = await (await browser.newContext()).newPage();
  const images = frames.map((frame) => {
    const source = `data:image/png;base64,${frame.toString("base64")}`;
    return `<img width="${STRIP_PICTURE_WIDTH}" src="${source}">`;
  });
  await page.setContent(
    '<body style="margin:0;background:#0b0f14"><div id="strip" style="display:inline-flex;' +
      `gap:6px;padding:6px">${images.join("")}</div></body>`,
  );
  await page.locator("#strip").screenshot({ path: join(FOLDER, "coming-to-life.png") });
}

mkdirSync(FOLDER, { recursive: true });
const browser = await chromium.launch({
  executablePath: CHROMIUM,
  args: ["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"],
});
try {
  await takePictures(browser);
} finally {
  await browser.close();
}
