/** Who may do what with a daemon: sockets, users, and a daemon without rights of its own. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import {
  chmodSync,
  chownSync,
  existsSync,
  mkdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { ExitCode, FaultlineError } from "../../src/base/errors.ts";
import { builtRoot } from "../../src/kit/paths.ts";
import { waitFor, within } from "../../src/kit/wait.ts";
import { DaemonProcess } from "../support/daemon-process.ts";
import { TestFolder, writeFull } from "../support/fixtures.ts";
import { HandshakePeer } from "../support/handshake-peer.ts";
import { openDevice } from "../support/open-device.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";
import { ServeProcess } from "../support/serve-process.ts";
import { compileVmm, Vmm, type VmmResult } from "../support/vmm-process.ts";

const needs = requires("userfaultfd", "cc", "unprivileged-user");
const MAIN = join(builtRoot, "src/cli/main.js");
const PAGE_COUNT = 1024;
const BUDGET_MS = 20_000;
const OTHER = { uid: UNPRIVILEGED_UID, gid: UNPRIVILEGED_UID };

const folder = new TestFolder();
const memory = folder.at("memory");

before(() => {
  writeFull(memory, PAGE_COUNT);
  chmodSync(folder.path, 0o755);
});

after(() => folder[Symbol.dispose]());

function fails(code: string, message: RegExp): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof FaultlineError, String(error));
    assert.equal(error.code, code, error.message);
    assert.match(error.message, message);
    return true;
  };
}

/** `mode uid:gid` */
function rightsOf(path: string): string {
  const { mode, uid, gid } = statSync(path);
  return `${(mode & 0o777).toString(8)} ${uid}:${gid}`;
}

/** A command of the daemon's clients, as another user. */
function asOther(daemon: DaemonProcess, ...args: readonly string[]) {
  return spawnSync(process.execPath, [MAIN, ...args, "--control", daemon.controlPath], {
    ...OTHER,
    cwd: "/",
    encoding: "utf8",
    timeout: BUDGET_MS,
  });
}

async function finishes(vmm: Vmm): Promise<void> {
  assert.equal((await vmm.result()).mismatches, 0);
}

async function refusal(daemon: DaemonProcess, id: string): Promise<string> {
  const look = async () => (await daemon.client.session(id)).lastRefusal;
  return await waitFor("the VM is refused", look, BUDGET_MS);
}

describe("sockets", needs, () => {
  test("are their owner's, and nobody else's", async () => {
    await using daemon = await DaemonProcess.start(folder);
    assert.equal(rightsOf(daemon.controlPath), "600 0:0");
    assert.equal(rightsOf(join(daemon.runFolder, "sessions")), "711 0:0");
    const own = await daemon.client.createSession({ memory });
    assert.equal(rightsOf(own.socketPath), "600 0:0");
    const given = await daemon.client.createSession({ memory, owner: OTHER });
    assert.equal(rightsOf(given.socketPath), `600 ${OTHER.uid}:${OTHER.gid}`);
    const { status, stderr } = asOther(daemon, "ps");
    assert.equal(status, ExitCode.noAccess, stderr);
    assert.match(stderr, /This user may not connect to .*control\.sock/);
  });

  test("of the control API can be another user's", async () => {
    const owner = `${OTHER.uid}:${OTHER.gid}`;
    const flags = ["--control-owner", owner, "--control-mode", "0660"];
    await using daemon = await DaemonProcess.start(folder, flags);
    assert.equal(rightsOf(daemon.controlPath), `660 ${owner}`);
    const { status, stdout, stderr } = asOther(daemon, "restore", memory, "--id", "theirs");
    assert.equal(status, 0, stderr);
    assert.match(stdout, /session theirs waits for its VM/);
    assert.match(asOther(daemon, "ps").stdout, /^theirs +waiting/m);
  });

  test("that may be connected to serve only users who were named", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const options = { pageCount: 1, uid: OTHER.uid };
    for (const [id, allowedUids, message] of [
      ["strict", [], /runs as uid 65534; this socket serves only uid 0\. .*allowedUids/],
      ["open", [OTHER.uid], /it announces 0 memory regions/],
    ] as const) {
      const session = await daemon.client.createSession({ memory, id, allowedUids });
      chmodSync(session.socketPath, 0o666);
      await using peer = await HandshakePeer.start(session.socketPath, options);
      await peer.introduce("[]", ["null"]);
      assert.match(await refusal(daemon, id), message);
      // Whoever was refused has taken nothing from the one who is meant.
      await using vmm = new Vmm(session.socketPath, memory);
      await finishes(vmm);
    }
  });

  test("serve one VM, once: who comes later is hung up on", async () => {
    await using daemon = await DaemonProcess.start(folder);
    const { client } = daemon;
    const { id, socketPath } = await client.createSession({ memory });
    // The first says nothing, and so the others wait behind it, in their order.
    const silent = connect(socketPath);
    const connected = (count: number) => () =>
      readFileSync("/proc/net/unix", "utf8").split(`${socketPath}\n`).length - 1 > count;
    await waitFor("the silent one has connected", connected(1), BUDGET_MS);
    await using vmm = new Vmm(socketPath, memory, ["--linger", 60_000]);
    await waitFor("the VM has connected", connected(2), BUDGET_MS);
    const late = connect(socketPath);
    let heard = 0;
    late.on("data", () => heard++).on("error", () => undefined);
    const hungUp = new Promise<void>((resolve) => late.on("close", () => resolve()));
    await waitFor("the late one has connected", connected(3), BUDGET_MS);
    silent.destroy();
    await finishes(vmm);
    await within("the late one is hung up on", hungUp, BUDGET_MS);
    assert.equal(heard, 0);
    assert.equal(existsSync(socketPath), false);
    assert.equal((await client.session(id)).vm?.pid, vmm.pid);
    const { code } = await new Promise<NodeJS.ErrnoException>((resolve) =>
      connect(socketPath).on("error", resolve),
    );
    assert.equal(code, "ENOENT");
  });
});

describe("what requests name", needs, () => {
  const jails = folder.at("jails");
  const root = join(jails, "firecracker/vm-1/root");
  before(() => {
    mkdirSync(root, { recursive: true });
    chownSync(root, OTHER.uid, OTHER.gid);
    mkdirSync(folder.at("elsewhere"));
    symlinkSync(folder.at("elsewhere"), join(root, "way-out"));
    symlinkSync(folder.at("elsewhere/vm.sock"), join(root, "link.sock"));
    writeFileSync(join(root, "file.sock"), "theirs");
  });

  test("is a socket in a jail of another user, and stays in it", async () => {
    await using daemon = await DaemonProcess.start(folder, ["--socket-folder", jails]);
    const { client } = daemon;
    const create = (name: string) =>
      client.createSession({ memory, owner: OTHER, socketPath: join(root, name) });
    const { socketPath } = await create("vm.sock");
    assert.equal(rightsOf(socketPath), `600 ${OTHER.uid}:${OTHER.gid}`);
    await assert.rejects(create("vm.sock"), fails("socket-in-use", /Another process serves/));
    await assert.rejects(create("way-out/vm.sock"), fails("not-allowed", /socketFolders/));
    await assert.rejects(create("link.sock"), fails("socket-in-use", /is no socket/));
    await assert.rejects(create("file.sock"), fails("socket-in-use", /is no socket/));
    await assert.rejects(create("missing/vm.sock"), fails("socket-path", /Create it first/));
    await assert.rejects(create("../../../../../x"), fails("not-allowed", /socketFolders/));
    assert.equal(readFileSync(join(root, "file.sock"), "utf8"), "theirs");
    assert.equal(existsSync(folder.at("elsewhere/vm.sock")), false);
    assert.equal((await client.sessions()).length, 1);
  });

  test("is memory in the folders, however it is written", async () => {
    using places = new TestFolder();
    symlinkSync("/etc/hostname", places.at("link"));
    await using daemon = await DaemonProcess.start(places);
    const { client } = daemon;
    const outside = ["/etc/hostname", `${places.path}/../../etc/hostname`, places.at("link")];
    for (const path of [...outside, "dir:/etc/web", memory]) {
      const isRefused = fails("not-allowed", /memoryFolders/);
      await assert.rejects(client.createSession({ memory: path }), isRefused);
      await assert.rejects(client.prefetchImage(path), isRefused);
    }
    const layers = [memory];
    const below = places.at("below");
    writeFull(below, 1);
    await assert.rejects(
      client.createSession({ memory: below, layers }),
      fails("not-allowed", /./),
    );
    assert.deepEqual(await client.sessions(), []);
  });
});

describe("a daemon without rights", needs, () => {
  /** A folder that is all its own, with memory in it. */
  class OwnFolder extends TestFolder {
    readonly memory = this.at("memory");

    constructor() {
      super();
      writeFull(this.memory, PAGE_COUNT);
      chownSync(this.path, OTHER.uid, OTHER.gid);
    }
  }

  test("serves VMs of its user and of root, and survives its pager", async () => {
    using own = new OwnFolder();
    await using daemon = await DaemonProcess.start(own, [], OTHER);
    const { client } = daemon;
    const one = await client.createSession({ memory: own.memory });
    assert.equal(rightsOf(one.socketPath), `600 ${OTHER.uid}:${OTHER.gid}`);
    using device = openDevice();
    const options = ["--threads", "2", "--balloon", "--touch", "random:500"];
    const printed = await device.run(compileVmm(), [one.socketPath, own.memory, ...options]);
    assert.equal((JSON.parse(printed) as VmmResult).mismatches, 0);
    const two = await client.createSession({ memory: own.memory });
    await using vmm = new Vmm(two.socketPath, own.memory, ["--linger", 60_000]);
    await daemon.attached(two.id);
    await daemon.stoodBy();
    await daemon.killPager();
    await finishes(vmm);
  });

  test("says what it may not do, and why", async () => {
    using own = new OwnFolder();
    await using daemon = await DaemonProcess.start(own, [], OTHER);
    const { client } = daemon;
    const secret = own.at("secret");
    writeFull(secret, 1);
    chmodSync(secret, 0o600);
    const create = (spec: object) => client.createSession({ memory: own.memory, ...spec });
    await assert.rejects(create({ memory: secret }), fails("memory-missing", /EACCES/));
    const owner = { uid: 0, gid: 0 };
    await assert.rejects(create({ owner }), fails("socket-failed", /0:0.*CAP_CHOWN.*EPERM/s));
    assert.deepEqual(await client.sessions(), []);
    const { id, socketPath } = await create({ id: "of-root" });
    await using vmm = new Vmm(socketPath, own.memory, ["--linger", 60_000]);
    await finishes(vmm);
    await assert.rejects(client.killSession(id), fails("not-allowed", /CAP_KILL/));
    assert.equal((await client.session(id)).state, "attached");
  });

  test("tells of a VM that it may not kill: it stays frozen", async () => {
    using own = new OwnFolder();
    await using daemon = await DaemonProcess.start(own, [], OTHER);
    const { id, socketPath } = await daemon.client.createSession({ memory: own.memory });
    const peerOptions = { pageCount: PAGE_COUNT };
    await using peer = await HandshakePeer.start(socketPath, peerOptions);
    await peer.introduce();
    await daemon.attached(id);
    truncateSync(own.memory, 0);
    peer.startTouching(5);
    await daemon.logged("A VM could not be served on: it cannot be killed and stays frozen");
    await peer.waitUntilBlocked();
    const { state, vm } = await daemon.client.session(id);
    assert.equal(state, "attached");
    assert.match(vm?.waitsFor ?? "", /offset 0x5000 cannot be read/);
    await peer[Symbol.asyncDispose]();
    const look = async () => (await daemon.client.session(id)).end;
    assert.equal((await waitFor("the session has ended", look, BUDGET_MS)).reason, "failed");
  });
});

describe("a daemon with the capabilities of its service", needs, () => {
  const capabilities = "+kill,+chown";
  const user = ["--reuid", OTHER.uid, "--regid", OTHER.gid, "--clear-groups"].map(String);
  const through = [
    ...["setpriv", ...user, "--inh-caps", capabilities],
    ...["--ambient-caps", capabilities, "--bounding-set", `-all,${capabilities}`, "--"],
  ];

  test("gives sockets to others, and kills VMs of others", async () => {
    using own = new TestFolder();
    chownSync(own.path, OTHER.uid, OTHER.gid);
    const flags = ["--memory-folder", folder.path, "--control-owner", "0:0"];
    const start = { through };
    await using daemon = await DaemonProcess.start(
      own,
      [...flags, "--control-mode", "0640"],
      start,
    );
    assert.equal(rightsOf(daemon.controlPath), "640 0:0");
    const owner = { uid: 0, gid: 0 };
    const { id, socketPath } = await daemon.client.createSession({ memory, owner });
    assert.equal(rightsOf(socketPath), "600 0:0");
    await using vmm = new Vmm(socketPath, memory, ["--linger", 60_000]);
    await finishes(vmm);
    const { end } = await daemon.client.killSession(id);
    assert.equal(end?.reason, "killed");
    assert.equal((await vmm.ended()).signal, "SIGKILL");
  });
});

describe("an ordinary user with the device", needs, () => {
  test("can run the demo, and serve his VMs", async () => {
    using device = openDevice();
    const sizes = ["--memory-mib", "16", "--guest", "process"];
    const demo = await device.run(process.execPath, [MAIN, "demo", ...sizes]);
    assert.match(demo, /./);
    using own = new TestFolder();
    chmodSync(own.path, 0o777);
    const socket = own.at("socket");
    const flags = ["--memory", memory, "--socket", socket];
    await using _serve = await ServeProcess.start(flags, { uid: OTHER.uid });
    const printed = await device.run(compileVmm(), [socket, memory, "--threads", "2"]);
    assert.equal((JSON.parse(printed) as VmmResult).mismatches, 0);
  });
});
