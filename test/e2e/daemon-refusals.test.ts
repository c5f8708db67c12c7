/** Daemons that cannot work: each says at once what is wrong, with which value, and what to do. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, chownSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { TestFolder } from "../support/fixtures.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";

const MAIN = join(builtRoot, "src/cli/main.js");
const BUDGET_MS = 30_000;

const folder = new TestFolder();
const run = folder.at("run");
const place = ["--memory-folder", folder.path];

before(() => chmodSync(folder.path, 0o755));
after(() => folder[Symbol.dispose]());

interface Start {
  readonly uid?: number;
  readonly environment?: NodeJS.ProcessEnv;
  /** Run first by a shell in a mount namespace of its own; the command follows. */
  readonly script?: string;
}

/** `faultline …` has to end by itself, with this code and one line that has these parts. */
function refuses(args: readonly string[], code: number, parts: RegExp[], start: Start = {}): void {
  const command = [process.execPath, MAIN, ...args];
  const shell = ["unshare", "--mount", "sh", "-c", `${start.script}; exec "$@"`, "sh"];
  const [program = "", ...line] = start.script === undefined ? command : [...shell, ...command];
  const { status, stderr } = spawnSync(program, line, {
    encoding: "utf8",
    timeout: BUDGET_MS,
    killSignal: "SIGKILL",
    cwd: "/",
    env: { ...process.env, ...start.environment },
    ...(start.uid === undefined ? {} : { uid: start.uid, gid: start.uid }),
  });
  assert.equal(status, code, stderr);
  for (const part of parts) assert.match(stderr, part);
  assert.doesNotMatch(stderr, /\n +at /, "no stack: nothing is wrong with the program");
}

function configuration(text: string): string[] {
  const file = folder.at("daemon.json");
  writeFileSync(file, text);
  return ["daemon", "--run-folder", run, "--config", file];
}

describe("a daemon does not start with", () => {
  test("a configuration that cannot be read or is none", () => {
    const missing = ["daemon", "--config", folder.at("none.json")];
    refuses(missing, ExitCode.usage, [/none\.json cannot be read/, /--config FILE/, /ENOENT/]);
    refuses(configuration("{"), ExitCode.usage, [/daemon\.json is no JSON/]);
    refuses(configuration("[]"), ExitCode.usage, [/daemon\.json is no JSON object/]);
  });

  test("settings that are unknown or out of bounds: each is named", () => {
    const unknown = configuration('{"memroyFolders": ["/srv"]}');
    refuses(unknown, ExitCode.usage, [/there is no setting memroyFolders/]);
    const wrong = configuration('{"memoryFolders": ["srv"], "workers": "4", "cacheMiB": 1}');
    const parts = [/memoryFolders\.0 is "srv", must be an absolute path/, /workers is "4"/];
    refuses(wrong, ExitCode.usage, [...parts, /cacheMiB is 1, .*>=4/]);
  });

  test("options that are unknown or wrong", () => {
    const refused = (flags: readonly string[], part: RegExp) =>
      refuses(["daemon", ...place, "--run-folder", run, ...flags], ExitCode.usage, [part]);
    refused(["--frobnicate"], /unknown option '--frobnicate'/);
    refused(["--workers", "0"], /--workers 0 cannot be used: .* 1 to 64/);
    refused(["--control-mode", "999"], /controlMode is "999", must be like 0660/);
    refused(["--metrics", "nonsense"], /metricsAddress is "nonsense", must be HOST:PORT/);
  });

  test("no place of memory", () => {
    const args = ["daemon", "--run-folder", run];
    refuses(args, ExitCode.usage, [/names no place of memory/, /--memory-folder FOLDER/]);
  });
});

describe("a run folder", () => {
  const refused = (path: string, parts: RegExp[], start: Start = {}) =>
    refuses(["daemon", ...place, "--run-folder", path], ExitCode.badSocket, parts, start);

  test("that is a file, or lies nowhere", () => {
    writeFileSync(folder.at("file"), "");
    refused(folder.at("file"), [/run folder .*\/file cannot be used/, /ENOTDIR/]);
    refused(folder.at("a/b"), [/run folder .*a\/b cannot be used. Create it for user/, /ENOENT/]);
  });

  test("whose sockets nobody could connect to", () => {
    const long = folder.at("x".repeat(100));
    refused(long, [/control\.sock has \d+ bytes; the kernel takes at most 107/]);
  });

  const unprivileged = requires("unprivileged-user");
  test("that this user may not write to, or not create", unprivileged, () => {
    mkdirSync(folder.at("theirs"));
    const start = { uid: UNPRIVILEGED_UID };
    const parts = [/Create it for user 65534/, /--run-folder FOLDER/, /EACCES/];
    refused(folder.at("theirs"), parts, start);
    refused(folder.at("theirs/run"), parts, start);
    refused("/run/faultline-not-there", parts, start);
  });

  test("that no user has given it", unprivileged, () => {
    const environment = { XDG_RUNTIME_DIR: "" };
    const parts = [/XDG_RUNTIME_DIR is not set/, /--run-folder FOLDER/];
    const start = { uid: UNPRIVILEGED_UID, environment };
    refuses(["daemon", ...place], ExitCode.usage, parts, start);
    // A folder of the user's own is found without being named; it is not there.
    const named = { ...start, environment: { XDG_RUNTIME_DIR: folder.at("none") } };
    refuses(["daemon", ...place], ExitCode.badSocket, [/none\/faultline cannot be used/], named);
  });

  test("on a full disk", requires("root"), () => {
    mkdirSync(folder.at("full"));
    const script = `mount -t tmpfs -o size=4k,nr_inodes=1 none ${folder.at("full")}`;
    refused(folder.at("full"), [/with room for sockets/, /ENOSPC/], { script });
    refused(folder.at("full/run"), [/with room for sockets/, /ENOSPC/], { script });
  });

  test("with a daemon in it, which goes on", requires("userfaultfd"), async () => {
    await using daemon = await DaemonProcess.start(folder);
    const args = ["daemon", ...place, "--run-folder", daemon.runFolder];
    const parts = [new RegExp(`already, as process ${daemon.pid}`), /Stop it, or choose another/];
    refuses(args, ExitCode.failed, parts);
    assert.equal((await daemon.client.host()).takeovers, 0);
  });
});

describe("commands of a daemon that is not there", () => {
  test("say where it was looked for, and how to name it", () => {
    for (const command of [["ps"], ["daemon", "status"], ["kill", "web"], ["restore", "/x"]]) {
      const args = [...command, "--control", folder.at("nobody.sock")];
      const parts = [/Nobody listens on .*nobody\.sock/, /faultline daemon/, /--control PATH/];
      refuses(args, ExitCode.failed, parts);
    }
  });

  test("of another user's socket: who may", requires("unprivileged-user"), async () => {
    const own = folder.at("closed");
    mkdirSync(own, { mode: 0o700 });
    chownSync(own, 0, 0);
    const args = ["ps", "--control", join(own, "control.sock")];
    const parts = [/This user may not connect to .*control\.sock/];
    refuses(args, ExitCode.noAccess, parts, { uid: UNPRIVILEGED_UID });
  });
});
