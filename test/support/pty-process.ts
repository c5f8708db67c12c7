/** A program in a terminal of its own (`script` of util-linux), and what it draws there. */
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync, readlinkSync } from "node:fs";
import { waitFor, within } from "../../src/kit/wait.ts";
import { atExit } from "./end-cleanly.ts";

const BUDGET_MS = 20_000;

export class PtyProcess {
  /** Everything that was written, as it came. */
  output = "";
  readonly exited: Promise<number | null>;
  readonly #script: ChildProcess;

  /** In a terminal of so many columns and rows. */
  constructor(command: readonly string[], columns: number, rows: number) {
    const quoted = command.map((each) => `'${each.replaceAll("'", "'\\''")}'`).join(" ");
    // How the program leaves the terminal is printed behind all that it has drawn.
    const after = "code=$?; echo; stty -a; exit $code";
    const shell = `stty cols ${columns} rows ${rows}; ${quoted}; ${after}`;
    this.#script = spawn("script", ["--quiet", "--return", "--command", shell, "/dev/null"], {
      stdio: ["pipe", "pipe", "inherit"],
      env: { ...process.env, SHELL: "/bin/sh", TERM: "xterm" },
    });
    const forget = atExit(() => this.#script.kill("SIGKILL"));
    this.exited = once(this.#script, "close").then(([code]) => {
      forget();
      return code as number | null;
    });
    this.#script.stdout!.setEncoding("utf8").on("data", (text: string) => {
      this.output += text;
    });
  }

  /** The program itself: `script` has a shell, and that has the program. */
  get pid(): number {
    return childOf(childOf(this.#script.pid!));
  }

  press(keys: string): void {
    this.#script.stdin!.write(keys);
  }

  /** Its programs get SIGWINCH. */
  resize(columns: number, rows: number): void {
    const terminal = readlinkSync(`/proc/${this.pid}/fd/0`);
    execFileSync("stty", ["-F", terminal, "cols", String(columns), "rows", String(rows)]);
  }

  /** How the terminal takes keys: `isig` and `icanon` as it was, or raw. */
  modes(): string {
    const terminal = readlinkSync(`/proc/${this.pid}/fd/0`);
    return execFileSync("stty", ["-F", terminal, "-a"], { encoding: "utf8" });
  }

  /** Waits for a frame that was begun after this call, and returns its lines without styles. */
  async frame(what: string, fits: (lines: readonly string[]) => boolean): Promise<string[]> {
    const from = this.output.length;
    let lines: string[] = [];
    await waitFor(
      what,
      () => {
        const frames = this.output.slice(from).split("\x1b[H");
        // The first began before, the last may still be on its way.
        lines = plainLines(frames.slice(1, -1).at(-1) ?? "");
        return fits(lines);
      },
      BUDGET_MS,
    );
    return lines;
  }

  async ended(): Promise<number | null> {
    return await within("the program in the terminal ended", this.exited, BUDGET_MS);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Its terminal goes with it, and the program ends by SIGHUP.
    this.#script.kill("SIGKILL");
    await this.exited;
  }
}

function childOf(pid: number): number {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, "latin1").trim();
  return Number(children.split(" ")[0]);
}

function plainLines(frame: string): string[] {
  const escapes = new RegExp(`${String.fromCharCode(27)}\\[[0-9;?]*[A-Za-z]`, "g");
  return frame.replace(escapes, "").split(/\r?\n/);
}
