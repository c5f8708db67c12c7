/** `faultline restore`: what it prints, and a stand-in for Firecracker that it starts. */
import assert from "node:assert/strict";
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, test } from "node:test";
import { ExitCode } from "../../src/base/errors.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { type CommandEnd, CommandProcess, runCommand } from "../support/command-process.ts";
import { type ControlTarget, startControlTarget } from "../support/control-target.ts";
import { writeSparse } from "../support/fixtures.ts";
import { requires } from "../support/requires.ts";
import type { StandInState } from "../support/stand-in-firecracker.ts";

const PAGES = 300;
const UID = 4242;
const PROGRAM = join(builtRoot, "test/support/stand-in-firecracker.js");

class Stage implements AsyncDisposable {
  readonly memory: string;
  readonly #target: ControlTarget;

  private constructor(target: ControlTarget) {
    this.#target = target;
    this.memory = this.path("vm.mem");
    writeSparse(this.memory, PAGES, [{ first: 3, end: 200 }], 7);
  }

  static async start(): Promise<Stage> {
    return new Stage(await startControlTarget());
  }

  get client(): ControlTarget["client"] {
    return this.#target.client;
  }

  get environment(): NodeJS.ProcessEnv {
    return { FAULTLINE_CONTROL: this.#target.controlPath };
  }

  path(name: string): string {
    return join(this.#target.folder, name);
  }

  state(state: Partial<StandInState>): string {
    writeFileSync(
      this.path("vm.state"),
      JSON.stringify({ memory: this.memory, afterwards: 0, ...state }),
    );
    return this.path("vm.state");
  }

  /** An executable that is the stand-in. */
  firecracker(script = `exec "${process.execPath}" "${PROGRAM}" "$@"`): string {
    return this.#script("firecracker", script);
  }

  /** Does what the jailer does, but for the jail: its arguments, the folders, the new root. */
  jailer(): string {
    return this.#script(
      "jailer",
      '[ "$1 $3 $5 $7 $9" = "--id --exec-file --uid --gid --chroot-base-dir" ] || exit 77\n' +
        `[ "$6 $8" = "${UID} ${UID}" ] || exit 78\n` +
        "id=$2 program=$4\nshift 9\n" +
        'export STAND_IN_ROOT="$1/$(basename "$program")/$id/root"\n' +
        '[ -d "$STAND_IN_ROOT" ] || exit 79\nmkdir -p "$STAND_IN_ROOT/run"\n' +
        'exec "$program" --id "$id" --api-sock /run/firecracker.socket',
    );
  }

  restore(...args: readonly string[]): CommandProcess {
    return new CommandProcess(["restore", this.memory, ...args], this.environment);
  }

  async run(...args: readonly string[]): Promise<CommandEnd> {
    return await runCommand(["restore", this.memory, ...args], this.environment);
  }

  async states(): Promise<string[]> {
    const sessions = await this.client.sessions({ withEnded: true });
    return sessions.map(({ state }) => state);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#target[Symbol.asyncDispose]();
  }

  #script(name: string, text: string): string {
    const path = this.path(name);
    writeFileSync(path, `#!/bin/sh\n${text}\n`);
    chmodSync(path, 0o755);
    return path;
  }
}

describe("restore without a VMM", requires("userfaultfd"), () => {
  test("prints the socket, and what Firecracker is to be told", async () => {
    await using stage = await Stage.start();
    const { code, stdout, stderr } = await stage.run("--id", "web-1", "--label", "tenant=7");
    assert.equal(code, 0, stderr);
    const socket = stage.path("run/sessions/web-1.sock");
    assert.equal(
      stdout,
      `session web-1 waits for its VM at ${socket}\n` +
        "Firecracker: PUT /snapshot/load, with your snapshot_path\n" +
        `{"mem_backend":{"backend_type":"Uffd","backend_path":"${socket}"},"resume_vm":true}\n`,
    );
    assert.ok(statSync(socket).isSocket());
    assert.deepEqual((await stage.client.session("web-1")).labels, { tenant: "7" });
    const again = await stage.run("--id", "web-1");
    assert.equal(again.code, ExitCode.failed);
    assert.match(again.stderr, /There is a session web-1 already/);
    const json = JSON.parse((await stage.run("--state", "vm.state", "--json")).stdout);
    assert.equal(json.request.snapshot_path, "vm.state");
    assert.equal(json.request.mem_backend.backend_path, json.session.socketPath);
  });

  test("with a jail, the socket is in it, for its user, and the path is the jail's", async () => {
    await using stage = await Stage.start();
    const ids = ["--uid", String(UID), "--gid", String(UID)];
    const base = stage.path("jails");
    const jail = ["--jail-id", "vm-1", "--chroot-base", base, "--firecracker", "/opt/fc-1.15"];
    const { code, stdout, stderr } = await stage.run(...jail, ...ids, "--json");
    assert.equal(code, 0, stderr);
    const { session, request } = JSON.parse(stdout);
    const inside = "/faultline.sock";
    assert.equal(session.socketPath, `${base}/fc-1.15/vm-1/root${inside}`);
    assert.equal(request.mem_backend.backend_path, inside);
    const { uid, gid } = statSync(session.socketPath);
    assert.deepEqual([uid, gid], [UID, UID]);
  });

  test("refuses what does not go together, before a session is made", async () => {
    await using stage = await Stage.start();
    const wrong: [args: readonly string[], message: RegExp][] = [
      [["--firecracker", "/bin/true"], /needs the VM's state: give --state FILE/],
      [["--uid", "1"], /A jail is known by its id: give --jail-id/],
      [["--jail-id", "a"], /A jail needs --firecracker, --uid and --gid/],
      [
        ["--jail-id", "../a", "--firecracker", "fc", "--uid", "1", "--gid", "1"],
        /--jail-id \.\.\/a cannot be used/,
      ],
      [
        ["--jail-id", "a", "--firecracker", "fc", "--uid", "1", "--gid", "1", "--socket", "/x"],
        /leave out --socket/,
      ],
      [["--label", "x"], /--label x cannot be used: give NAME=VALUE/],
      [["--id", "Web"], /id cannot be "Web": lower case letters/],
    ];
    for (const [args, message] of wrong) {
      const { code, stderr } = await stage.run(...args);
      assert.equal(code, 2, stderr);
      assert.match(stderr, message);
    }
    assert.deepEqual(await stage.states(), []);
  });

  test("files are those of the user's folder, names are images", async () => {
    await using stage = await Stage.start();
    const elsewhere = await runCommand(["restore", "./missing.mem"], stage.environment);
    assert.equal(elsewhere.code, ExitCode.noAccess);
    assert.ok(elsewhere.stderr.includes(`${process.cwd()}/missing.mem`), elsewhere.stderr);
    const missing = await runCommand(["restore", stage.path("missing.mem")], stage.environment);
    assert.equal(missing.code, ExitCode.badSnapshot);
    const named = await runCommand(["restore", "web-1"], stage.environment);
    assert.ok(!named.stderr.includes(process.cwd()), named.stderr);
  });
});

describe("restore with a VMM", requires("userfaultfd"), () => {
  const leftovers = (): string[] =>
    readdirSync(tmpdir()).filter((name) => name.startsWith("faultline-restore-"));

  test("restores the VM, and ends as it does; every page was right", async () => {
    await using stage = await Stage.start();
    const before = leftovers();
    for (const afterwards of [0, 3]) {
      const args = ["--state", stage.state({ afterwards }), "--firecracker", stage.firecracker()];
      const { code, stdout, stderr } = await stage.run(...args);
      assert.equal(code, afterwards, stderr);
      assert.match(stdout, /^restored: session [0-9a-f]{8}, process \d+, in \d+ ms\n$/);
    }
    await waitFor("both sessions had ended", async () =>
      (await stage.states()).every((state) => state === "ended"),
    );
    assert.deepEqual(leftovers(), before);
  });

  test("wrong memory is found out by the stand-in", async () => {
    await using stage = await Stage.start();
    const other = stage.path("other.mem");
    writeSparse(other, PAGES, [{ first: 3, end: 200 }], 8);
    const state = stage.state({ memory: other });
    const { code } = await stage.run("--state", state, "--firecracker", stage.firecracker());
    assert.equal(code, 9);
  });

  test("passes signals on, and ends with the shell's code for them", async () => {
    await using stage = await Stage.start();
    const args = [
      "--state",
      stage.state({ afterwards: "stay" }),
      "--firecracker",
      stage.firecracker(),
    ];
    await using restore = stage.restore(...args, "--json");
    await restore.prints(/guest: all is there/);
    const { id, pid } = JSON.parse(restore.stdout.split("\n").find((line) => /pid/.test(line))!);
    assert.equal((await stage.client.session(id)).vm?.pid, pid);
    restore.kill("SIGTERM");
    const { code, stderr } = await restore.ended();
    assert.equal(code, 143, stderr);
    assert.ok(!existsSync(`/proc/${pid}`), "the VM has ended, too");
  });

  test("in a jail: its folder, a copy of the state for its user, its API socket", async () => {
    await using stage = await Stage.start();
    const base = stage.path("jails");
    const root = join(base, "firecracker/vm-1/root");
    mkdirSync(root, { recursive: true });
    const victim = stage.path("victim");
    writeFileSync(victim, "not to be written to");
    symlinkSync(victim, join(root, "vm.state"));
    const { code, stdout, stderr } = await stage.run(
      ...["--state", stage.state({}), "--firecracker", stage.firecracker()],
      ...["--jailer", stage.jailer(), "--jail-id", "vm-1", "--chroot-base", base],
      ...["--uid", String(UID), "--gid", String(UID)],
    );
    assert.equal(code, 0, stderr);
    assert.match(stdout, /^restored: /);
    assert.equal(lstatSync(join(root, "vm.state")).uid, UID);
    assert.equal(readFileSync(victim, "utf8"), "not to be written to");
    assert.notEqual(statSync(stage.path("vm.state")).uid, UID, "the original is not touched");
  });

  const failures: [name: string, script: string | undefined, state: object, message: RegExp][] = [
    ["refuses", undefined, { refusal: "Bad CPU." }, /did not load the snapshot: Bad CPU\.\n$/],
    ["ends at once", "exit 5", {}, /It ended before it was asked: 5\./],
  ];
  for (const [name, script, state, message] of failures) {
    test(`a Firecracker that ${name} leaves no session behind`, async () => {
      await using stage = await Stage.start();
      const args = ["--state", stage.state(state), "--firecracker", stage.firecracker(script)];
      const { code, stderr } = await stage.run(...args);
      assert.equal(code, 1, stderr);
      assert.match(stderr, message);
      assert.deepEqual(await stage.states(), ["ended"]);
    });
  }

  test("one that does not exist, neither", async () => {
    await using stage = await Stage.start();
    const args = ["--state", stage.state({}), "--firecracker", stage.path("nothing")];
    const { code, stderr } = await stage.run(...args);
    assert.equal(code, 1);
    assert.match(stderr, /cannot be started: spawn .*nothing ENOENT/);
    assert.deepEqual(await stage.states(), ["ended"]);
  });
});
