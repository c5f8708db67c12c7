/**
 * What connects a QEMU process with a test: its control socket, the guest's console, and the serial
 * port of the warm service. Whoever waits for an answer learns of a crash at once, and why.
 */
import { appendFileSync } from "node:fs";
import { TestFolder } from "./fixtures.ts";
import { LineChannel } from "./line-channel.ts";

/** What the kernel, or the first process when it gives up, writes on the console. */
const CRASH = /Kernel panic|BUG:|Oops|segfault|general protection|Call Trace|Out of memory|^init:/;
/** A crash says why in the lines that follow its first one. */
const CRASH_LINES_MS = 500;
const CRASH_LINES = 60;

/** Where to write the console to, for people who look for a fault. */
const CONSOLE_FILE = process.env.FAULTLINE_GUEST_CONSOLE;

const WIRES = ["qmp", "service", "console"] as const;

export class GuestWires {
  readonly qmp: LineChannel;
  readonly service: LineChannel;
  readonly #console: LineChannel;
  readonly #folder: TestFolder;
  readonly #consoleLines: string[] = [];
  #hasCrashed = false;

  private constructor(folder: TestFolder, channels: Record<(typeof WIRES)[number], LineChannel>) {
    this.#folder = folder;
    this.qmp = channels.qmp;
    this.service = channels.service;
    this.#console = channels.console;
    this.#console.onLine((line) => this.take(line));
  }

  static async listen(): Promise<GuestWires> {
    const folder = new TestFolder();
    const [qmp, service, console] = await Promise.all([
      LineChannel.listen(folder.at("qmp")),
      LineChannel.listen(folder.at("service")),
      LineChannel.listen(folder.at("console")),
    ]);
    return new GuestWires(folder, { qmp, service, console });
  }

  /** QEMU's side: it connects when it starts, and ends if it cannot. */
  options(): string[] {
    const sockets = WIRES.map((name) => `socket,id=${name},path=${this.#folder.at(name)}`);
    return [
      ...sockets.flatMap((socket) => ["-chardev", socket]),
      ...["-mon", "chardev=qmp,mode=control"],
      ...["-serial", "chardev:console", "-serial", "chardev:service"],
    ];
  }

  /** Everybody who waits, or will, fails with this reason and the end of the console. */
  fail(reason: string): void {
    const tail = this.#consoleLines.slice(-CRASH_LINES).join("\n");
    const error = new Error(`${reason}. The end of the guest's console:\n${tail}`);
    for (const channel of [this.qmp, this.service]) channel.fail(error);
  }

  /** A line of the console, or of what QEMU itself says. */
  take(line: string): void {
    this.#consoleLines.push(line);
    if (CONSOLE_FILE !== undefined) appendFileSync(CONSOLE_FILE, `${line}\n`);
    if (this.#hasCrashed || !CRASH.test(line)) return;
    this.#hasCrashed = true;
    setTimeout(() => this.fail(`The guest has crashed: ${line}`), CRASH_LINES_MS);
  }

  [Symbol.dispose](): void {
    for (const channel of [this.qmp, this.service, this.#console]) channel[Symbol.dispose]();
    this.#folder[Symbol.dispose]();
  }
}
