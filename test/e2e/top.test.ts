/** `faultline top`: in a terminal, in a pipe, and against a real daemon. */
import assert from "node:assert/strict";
import { execFile } from "node:child_process";
import { join } from "node:path";
import { describe, test } from "node:test";
import { promisify } from "node:util";
import { FaultlineError } from "../../src/base/errors.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { ControlStage } from "../support/control-stage.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { PtyProcess } from "../support/pty-process.ts";
import { requires } from "../support/requires.ts";
import { TableHost } from "../support/table-host.ts";
import { Vmm } from "../support/vmm-process.ts";

const MAIN = join(builtRoot, "src/cli/main.js");
const ENTER = "\x1b[?1049h";
const LEAVE = "\x1b[?7h\x1b[?25h\x1b[?1049l";
const KEYS = /^(PAUSED {2})?f faults/;

const run = promisify(execFile);

interface Stage extends AsyncDisposable {
  readonly host: TableHost;
  readonly pty: PtyProcess;
}

/** Three sessions, one of them with a VM, and `top` in a terminal that looks at them. */
async function topOfThree(interval = "0.1"): Promise<Stage> {
  const host = new TableHost();
  const control = await ControlStage.start({ service: host });
  for (const id of ["a", "b", "c"]) await control.client.createSession({ id, memory: "/vm.mem" });
  host.attach("b", 4711, 100);
  const command = [process.execPath, MAIN, "top", "--interval", interval];
  const pty = new PtyProcess([...command, "--control", control.socketPath], 120, 20);
  return {
    host,
    pty,
    [Symbol.asyncDispose]: async () => {
      await pty[Symbol.asyncDispose]();
      await control[Symbol.asyncDispose]();
    },
  };
}

/** The ids in the order of their rows. */
function idsIn(lines: readonly string[]): string {
  const rows = lines.filter((line) => / \/vm\.mem$/.test(line));
  return rows.map((line) => line.split(" ")[0]).join("");
}

/** The first screen again, and keys that come line by line and make signals. */
function assertLeft({ output }: PtyProcess): void {
  const after = output.slice(output.lastIndexOf(LEAVE));
  assert.ok(after.startsWith(LEAVE), "the second screen was left");
  assert.match(after, /^isig icanon .* echo /m);
}

function isWhole(lines: readonly string[]): boolean {
  return KEYS.test(lines.at(-1) ?? "") && idsIn(lines).length === 3;
}

describe("in a terminal", () => {
  test("draws all sessions, sorts as keys say, and leaves it as it was", async () => {
    await using stage = await topOfThree();
    const { pty, host } = stage;
    const first = await pty.frame("a frame is drawn", isWhole);
    assert.match(first[0]!, /^faultline 0\.0\.0 {2}pager \d+/);
    assert.match(first.find((line) => line.startsWith("b "))!, /4711 .* 12\.0 µs .* 60 % /);
    pty.press("n");
    assert.equal(idsIn(await pty.frame("it sorts by name", (l) => idsIn(l) === "abc")), "abc");
    pty.press("r");
    assert.equal(idsIn(await pty.frame("it sorts by share", (l) => idsIn(l) === "bac")), "bac");
    host.attach("c", 4712, 0);
    await pty.frame("another VM is seen", (lines) => idsIn(lines) === "cba");
    assert.match(pty.modes(), /-icanon/);
    pty.press("q");
    assert.equal(await pty.ended(), 0);
    assert.ok(pty.output.startsWith(ENTER));
    assertLeft(pty);
  });

  test("pauses, and goes on", async () => {
    await using stage = await topOfThree();
    const { pty, host } = stage;
    await pty.frame("a frame is drawn", isWhole);
    pty.press("p");
    await waitFor("it says so", () => pty.output.includes("PAUSED"), 10_000);
    host.attach("a", 4713);
    // Each of these is drawn an interval after the one before: it would have looked by then.
    for (let frame = 0; frame < 3; frame++) {
      const isPaused = (lines: readonly string[]) => lines.at(-1)?.startsWith("PAUSED") === true;
      const lines = await pty.frame("it is drawn", isPaused);
      assert.ok(!lines.some((line) => line.includes("4713")), lines.join("\n"));
    }
    pty.press("p");
    await pty.frame("it goes on", (lines) => lines.some((line) => line.includes("4713")));
  });

  test("follows the terminal's size", async () => {
    await using stage = await topOfThree("3600");
    const { pty } = stage;
    await waitFor("a frame is drawn", () => pty.output.includes("q quit"), 10_000);
    const { length } = pty.output;
    pty.resize(40, 8);
    await waitFor("it is drawn again", () => pty.output.length > length, 10_000);
    // A frame is whole when another one begins.
    pty.press("nnn");
    const small = await pty.frame("it is smaller", (lines) => lines.length === 8);
    const longest = Math.max(...small.map((line) => line.length));
    assert.ok(longest <= 40, small.join("\n"));
  });

  test("tells what is wrong with the daemon, and shows it when all is well again", async () => {
    await using stage = await topOfThree();
    const { pty, host } = stage;
    await pty.frame("a frame is drawn", isWhole);
    host.nextError = new FaultlineError("limit", "It is too much.");
    const alarm = "It is too much.";
    const isShown = () => pty.output.includes(`\x1b[1;31m${alarm}`);
    await waitFor("the trouble is shown", isShown, 10_000);
    await pty.frame("all is well again", (lines) => isWhole(lines) && !lines.includes(alarm));
  });

  for (const [how, end] of [
    ["Ctrl-C", (pty: PtyProcess) => pty.press("\x03")],
    ["SIGTERM", (pty: PtyProcess) => process.kill(pty.pid, "SIGTERM")],
    ["SIGINT", (pty: PtyProcess) => process.kill(pty.pid, "SIGINT")],
  ] as const) {
    test(`leaves the terminal as it was on ${how}`, async () => {
      await using stage = await topOfThree();
      const { pty } = stage;
      await pty.frame("a frame is drawn", isWhole);
      end(pty);
      const code = await pty.ended();
      assert.equal(code === 0, how === "Ctrl-C", `exit code ${code}`);
      assertLeft(pty);
    });
  }
});

describe("without a daemon", () => {
  test("says that there is none, in no screen of its own", async () => {
    await using pty = new PtyProcess(
      [process.execPath, MAIN, "top", "--control", "/no.sock"],
      80,
      24,
    );
    assert.notEqual(await pty.ended(), 0);
    assert.match(pty.output, /Nobody listens on \/no\.sock/);
    assert.ok(!pty.output.includes(ENTER));
  });

  test("refuses an interval that makes no sense", async () => {
    const wrong = run(process.execPath, [MAIN, "top", "--interval", "0"]);
    await assert.rejects(
      wrong,
      /--interval 0 cannot be used: give a time from 0\.1 to 3600 seconds/,
    );
  });
});

describe("a real daemon", requires("userfaultfd", "cc"), () => {
  const PAGES = 1024;

  test("is told of in one frame, and in objects", async () => {
    using folder = new TestFolder();
    const memory = folder.at("memory");
    writeFull(memory, PAGES);
    await using daemon = await DaemonProcess.start(folder);
    const { socketPath } = await daemon.client.createSession({ memory, id: "mine" });
    await using vmm = new Vmm(socketPath, memory, ["--linger", 60_000]);
    await vmm.result();
    const options = [MAIN, "top", "--control", daemon.controlPath, "--interval", "0.1"];
    // No terminal: the same as --once.
    const { stdout: frame } = await run(process.execPath, options);
    assert.ok(!frame.includes("\x1b"));
    assert.match(frame, /^sessions 1 attached, 0 waiting/m);
    assert.match(frame, new RegExp(`^mine +attached +${vmm.pid} .* █{10} +100 % +`, "m"));
    const { stdout: text } = await run(process.execPath, [...options, "--once", "--json"]);
    const object = JSON.parse(text) as { sessions: { id: string; residentShare: number }[] };
    assert.deepEqual(
      object.sessions.map(({ id, residentShare }) => [id, residentShare]),
      [["mine", 1]],
    );
  });
});
