/** The demo in a browser: its dashboard, and a guest that is slow enough to be looked at. */
import { spawn } from "node:child_process";
import { setTimeout as delay } from "node:timers/promises";
import { FaultlineError } from "../base/errors.ts";
import { type ServedDashboard, serveDashboard } from "../daemon/dashboard/serve-dashboard.ts";
import { createLogger } from "../daemon/log.ts";
import { packageVersion } from "../daemon/package-version.ts";
import type { Server } from "../daemon/server.ts";
import { withDeadline } from "../source/deadline.ts";
import { SlowMotion } from "./slow-motion.ts";

/** A guest that needs a quarter of a second is looked at for ten. */
export const DEFAULT_SLOWNESS = 40;
/** Any port of this host. */
const DEFAULT_ADDRESS = "127.0.0.1:0";
/** The demo goes on without anybody who looks. */
const VIEWER_DEADLINE_MS = 10 * 60_000;
const LISTEN_DEADLINE_MS = 3000;
const LOOK_EVERY_MS = 100;
/** To draw the empty memory before something happens in it. */
const FIRST_LOOK_MS = 1500;

export interface DemoDashboardOptions {
  /** `true`: any port. */
  readonly address: string | true;
  readonly slowness: number;
  readonly say: (text: string) => void;
}

export class DemoDashboard {
  readonly #served: ServedDashboard;
  readonly #slowness: number;
  #motion: SlowMotion | null = null;

  private constructor(served: ServedDashboard, slowness: number) {
    this.#served = served;
    this.#slowness = slowness;
  }

  /** Returns when somebody looks. */
  static async open(server: Server, options: DemoDashboardOptions): Promise<DemoDashboard> {
    const { address, slowness, say } = options;
    const log = createLogger("warn", "auto");
    const place = address === true ? DEFAULT_ADDRESS : address;
    const served = serveDashboard(server.watchable(packageVersion()), place, log);
    const url = `${await listening(served, place)}/first`;
    say(`   Open this in a browser, and the guest begins: ${url}`);
    openBrowser(url);
    const endMs = performance.now() + VIEWER_DEADLINE_MS;
    while (served.viewers === 0 && performance.now() < endMs) await delay(LOOK_EVERY_MS);
    return new DemoDashboard(served, slowness);
  }

  /** The VM has nothing of its memory yet: from now on it runs in slow motion. */
  async present(pid: number): Promise<void> {
    process.kill(pid, "SIGSTOP");
    await delay(FIRST_LOOK_MS);
    this.#motion = new SlowMotion(pid, this.#slowness);
    this.#motion.begin();
  }

  async close(): Promise<void> {
    this.#motion?.end();
    await this.#served.close();
  }
}

async function listening(served: ServedDashboard, place: string): Promise<string> {
  try {
    return await withDeadline(served.url, LISTEN_DEADLINE_MS, "Nobody could listen");
  } catch (cause) {
    await served.close();
    const message = `--dashboard ${place} cannot be had: is it in use? Give another port, or none`;
    throw new FaultlineError("conflict", message, { cause });
  }
}

/**
 * Where there is a desktop. Who has none, or is on another host, has the URL. Everybody on this
 * host can read the token in the command line: it is the demo's own, and worth nothing after it.
 */
function openBrowser(url: string): void {
  if (process.env.DISPLAY === undefined && process.env.WAYLAND_DISPLAY === undefined) return;
  const opener = spawn("xdg-open", [url], { stdio: "ignore", detached: true });
  opener.on("error", () => {});
  opener.unref();
}
