/**
 * Debian's Chromium, driven by Playwright, with an eye on what no page of ours may do: complain on
 * the console, fail, or ask anybody but the daemon that it came from.
 */
import { type Browser, chromium, type Page } from "playwright-core";

/** Pages and browsers are slow to start on a busy machine. */
export const BUDGET_MS = 30_000;

export interface PageOptions {
  readonly colorScheme?: "light" | "dark";
  readonly width?: number;
  readonly height?: number;
  /** Messages that the browser itself prints about answers that a test wants. */
  readonly mayPrint?: RegExp;
}

export class PageBrowser {
  readonly #browser: Browser;

  private constructor(browser: Browser) {
    this.#browser = browser;
  }

  static async start(): Promise<PageBrowser> {
    // Root may not have a sandbox, and small machines no large /dev/shm.
    const args = ["--no-sandbox", "--disable-dev-shm-usage", "--force-color-profile=srgb"];
    const executablePath = "/usr/bin/chromium";
    return new PageBrowser(await chromium.launch({ executablePath, args, timeout: BUDGET_MS }));
  }

  async open(url: string, options: PageOptions = {}): Promise<WatchedPage> {
    const { width = 1440, height = 900, colorScheme = "dark" } = options;
    const context = await this.#browser.newContext({
      viewport: { width, height },
      colorScheme,
      deviceScaleFactor: 1,
    });
    const page = await context.newPage();
    page.setDefaultTimeout(BUDGET_MS);
    const watched = new WatchedPage(page, new URL(url).origin, options.mayPrint ?? null);
    await page.goto(url);
    return watched;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#browser.close();
  }
}

export class WatchedPage {
  readonly page: Page;
  readonly #violations: string[] = [];

  constructor(page: Page, origin: string, mayPrint: RegExp | null) {
    this.page = page;
    page.on("pageerror", (error) => this.#violations.push(`threw ${error.stack}`));
    page.on("console", (message) => {
      const isBad = ["error", "warning"].includes(message.type());
      if (isBad && mayPrint?.test(message.text()) !== true) {
        this.#violations.push(`printed: ${message.text()}`);
      }
    });
    page.on("request", (request) => {
      const url = request.url();
      const isOwn = url.startsWith(`${origin}/`) || url.startsWith("data:");
      if (!isOwn) this.#violations.push(`asked for ${url}`);
    });
  }

  /** Evaluates an expression in the page. */
  async ask<Answer>(expression: string): Promise<Answer> {
    return (await this.page.evaluate(expression)) as Answer;
  }

  /** Fails if the page did anything that it may not do. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.page.context().close();
    if (this.#violations.length > 0) {
      throw new Error(`The page misbehaved:\n${this.#violations.join("\n")}`);
    }
  }
}
