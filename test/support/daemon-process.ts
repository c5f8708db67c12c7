/** `faultline daemon` as a child process, in a run folder of its own, with a client. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { dirname, join, relative } from "node:path";
import { createInterface } from "node:readline";
import { ControlClient } from "../../src/daemon/control/client.ts";
import type { HostView, SessionView } from "../../src/daemon/host-service.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { atExit } from "./end-cleanly.ts";
import type { TestFolder } from "./fixtures.ts";
import type { LogLine, ServeExit } from "./serve-process.ts";

const MAIN = join(builtRoot, "src/cli/main.js");
/** Several starts of Node on a busy machine. */
const BUDGET_MS = 30_000;

export interface DaemonStart {
  readonly environment?: NodeJS.ProcessEnv;
  readonly uid?: number;
  /** A program that becomes the daemon, with its arguments: `setpriv`, for instance. */
  readonly through?: readonly string[];
  /** Inherited from 3 on, as by sd_listen_fds(3), with their names. */
  readonly stored?: readonly { readonly name: string; readonly fd: number }[];
  /** Run by sh in a mount namespace of its own, with the run folder as $1, before the daemon. */
  readonly mounting?: string;
  /** Run folder and memory folder are in a configuration file, and not given as options. */
  readonly isConfigured?: boolean;
}

export class DaemonProcess {
  readonly runFolder: string;
  readonly controlPath: string;
  readonly client: ControlClient;
  readonly log: LogLine[] = [];
  /** What it printed besides the log. */
  errors = "";
  readonly exited: Promise<ServeExit>;
  exit: ServeExit | null = null;
  readonly #child: ChildProcess;

  private constructor(folder: TestFolder, args: readonly string[], start: DaemonStart) {
    this.runFolder = folder.at("run");
    const { stored = [], through = [], environment, uid, mounting, isConfigured = false } = start;
    const places = ["--run-folder", this.runFolder, "--memory-folder", folder.path];
    const daemon = [
      ...through,
      process.execPath,
      MAIN,
      "daemon",
      "--log",
      "debug",
      ...(isConfigured ? [] : places),
      ...args,
    ];
    // The shell becomes the daemon: LISTEN_PID is its number.
    const listens = stored.length > 0 ? "export LISTEN_PID=$$; " : "";
    const script = `${mounting === undefined ? "" : `${mounting}; `}${listens}shift; exec "$@"`;
    const shell = ["sh", "-ec", script, "sh", this.runFolder, ...daemon];
    const [command, ...rest] = mounting === undefined ? shell : ["unshare", "-m", ...shell];
    this.#child = spawn(command!, rest, {
      stdio: ["ignore", "ignore", "pipe", ...stored.map(({ fd }) => fd)],
      cwd: "/",
      env: {
        ...process.env,
        ...(stored.length > 0 && {
          LISTEN_FDS: String(stored.length),
          LISTEN_FDNAMES: stored.map(({ name }) => name).join(":"),
        }),
        ...environment,
      },
      ...(uid === undefined ? {} : { uid, gid: uid }),
    });
    // Seen from its own mounts, if it has such.
    const root = mounting === undefined ? "" : `/proc/${this.pid}/root`;
    this.controlPath = join(root, this.runFolder, "control.sock");
    this.client = new ControlClient({ socketPath: this.controlPath });
    const forget = atExit(() => this.#child.kill("SIGKILL"));
    this.exited = once(this.#child, "close").then(([code, signal]) => {
      forget();
      this.exit = { code, signal };
      return this.exit;
    });
    createInterface(this.#child.stderr!).on("line", (line) => this.#take(line));
  }

  /** Its memory may lie in `folder`. Returns when its control socket answers. */
  static async start(
    folder: TestFolder,
    args: readonly string[] = [],
    start: DaemonStart = {},
  ): Promise<DaemonProcess> {
    const daemon = new DaemonProcess(folder, args, start);
    try {
      await daemon.logged("The pager serves");
      return daemon;
    } catch (error) {
      await daemon[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** A path of its run folder, for others. */
  reach(path: string): string {
    return join(dirname(this.controlPath), relative(this.runFolder, path));
  }

  /** The supervisor's. */
  get pid(): number {
    return this.#child.pid!;
  }

  /** The pager that serves. */
  get pager(): number {
    return this.log.findLast(({ msg }) => msg.endsWith("pager serves"))!.pid!;
  }

  lines(msg: string): LogLine[] {
    return this.log.filter((line) => line.msg === msg);
  }

  /** Waits for the `count`th line with this text. */
  async logged(msg: string, count = 1): Promise<LogLine> {
    const seen = (): boolean => this.lines(msg).length >= count || this.exit !== null;
    await waitFor(`the log says "${msg}" (${count})`, seen, BUDGET_MS);
    const line = this.lines(msg)[count - 1];
    if (line === undefined) throw new Error(`the daemon has ended: ${this.errors}`);
    return line;
  }

  /** The standby is there, so that the next death costs as little as it can. */
  async stoodBy(): Promise<void> {
    await waitFor("the next pager stands by", () => this.standby !== null, BUDGET_MS);
  }

  /** Null: there is none that would take over at once. */
  get standby(): number | null {
    const { pid } = this.log.findLast(({ msg }) => msg === "A pager stands by") ?? {};
    const isOver = (line: LogLine): boolean => line.pid === pid && line.msg === "A pager ended";
    return pid === undefined || pid === this.pager || this.log.some(isOver) ? null : pid;
  }

  /** Kills the pager that serves, and waits until another one does. */
  async killPager(): Promise<HostView> {
    const before = this.lines("Another pager serves").length;
    process.kill(this.pager, "SIGKILL");
    await this.logged("Another pager serves", before + 1);
    return await this.client.host();
  }

  /** A session, as soon as its VM is attached. */
  async attached(id: string): Promise<SessionView> {
    let view = await this.client.session(id);
    const look = async (): Promise<boolean> => {
      view = await this.client.session(id);
      return view.vm !== null;
    };
    await waitFor(`a VM is attached to session ${id}`, look, BUDGET_MS);
    return view;
  }

  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  async ended(): Promise<ServeExit> {
    return await within("the daemon ended", this.exited, BUDGET_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Its pagers end with it.
    this.#child.kill("SIGKILL");
    await this.exited;
  }

  #take(line: string): void {
    try {
      this.log.push(JSON.parse(line) as LogLine);
    } catch {
      this.errors += `${line}\n`;
    }
  }
}
