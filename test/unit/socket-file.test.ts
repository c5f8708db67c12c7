/**
 * Sockets in folders in which others have rights, such as jails: what they move about between a
 * look and a deed leads to a refusal, and never out of the folder that was looked at.
 */
import assert from "node:assert/strict";
import {
  existsSync,
  linkSync,
  mkdirSync,
  readdirSync,
  renameSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { allowedSocket } from "../../src/daemon/allowed-places.ts";
import { SocketFile } from "../../src/daemon/socket-file.ts";
import { SocketFolder, withOwnSocket } from "../../src/daemon/socket-folder.ts";
import { connectUnix } from "../../src/linux/socket.ts";
import { TestFolder } from "../support/fixtures.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";

const BACKLOG = 8;

class Jail extends TestFolder {
  readonly root = this.at("jail/root");
  readonly outside = this.at("outside");
  readonly socket = `${this.root}/vm.sock`;

  constructor() {
    super();
    mkdirSync(this.root, { recursive: true });
    mkdirSync(this.outside);
  }

  /** What a user with rights in the jail can do at any moment. */
  turnIntoLink(): void {
    renameSync(this.root, this.at("jail/before"));
    symlinkSync(this.outside, this.root);
  }
}

function fails(code: string): (error: unknown) => boolean {
  return (error) => {
    assert.ok(error instanceof FaultlineError, String(error));
    assert.equal(error.code, code, error.message);
    return true;
  };
}

describe("a socket among others", () => {
  test("is made with its mode, can be connected to, and goes", () => {
    using jail = new Jail();
    const file = SocketFile.listenAmongOthers(jail.socket, BACKLOG, { mode: 0o660 });
    assert.equal(statSync(jail.socket).mode & 0o777, 0o660);
    connectUnix(jail.socket).close();
    file.close();
    assert.deepEqual(readdirSync(jail.root), []);
  });

  test("is not made where the folder leads since it was looked at", () => {
    using jail = new Jail();
    const path = allowedSocket(jail.socket, [jail.at("jail")]);
    jail.turnIntoLink();
    assert.throws(() => SocketFile.listenAmongOthers(path, BACKLOG), fails("socket-path"));
    assert.deepEqual(readdirSync(jail.outside), []);
  });

  test("is made in the folder that was opened, wherever its name leads by now", () => {
    using jail = new Jail();
    using folder = SocketFolder.of(jail.socket);
    jail.turnIntoLink();
    writeFileSync(folder.pathOf("vm.sock"), "");
    assert.deepEqual(readdirSync(jail.outside), []);
    assert.deepEqual(readdirSync(jail.at("jail/before")), ["vm.sock"]);
  });

  test("does not follow a link in its place, nor replace a file", () => {
    using jail = new Jail();
    symlinkSync(jail.at("outside/vm.sock"), jail.socket);
    const listen = () => SocketFile.listenAmongOthers(jail.socket, BACKLOG);
    assert.throws(listen, fails("socket-in-use"));
    unlinkSync(jail.socket);
    writeFileSync(jail.socket, "");
    assert.throws(listen, fails("socket-in-use"));
    assert.deepEqual(readdirSync(jail.outside), []);
  });

  test("that another one listens on stays his; a dead one's is taken over", async () => {
    using jail = new Jail();
    const other = createServer().listen(jail.socket);
    await new Promise((resolve) => other.once("listening", resolve));
    const listen = () => SocketFile.listenAmongOthers(jail.socket, BACKLOG);
    assert.throws(listen, fails("socket-in-use"));
    linkSync(jail.socket, jail.at("jail/kept"));
    await new Promise((resolve) => other.close(resolve));
    renameSync(jail.at("jail/kept"), jail.socket);
    listen().close();
    assert.equal(existsSync(jail.socket), false);
  });

  test("that goes takes nothing along from where its folder leads by now", () => {
    using jail = new Jail();
    for (const adopt of [false, true]) {
      using own = new Jail();
      const file = SocketFile.listenAmongOthers(own.socket, BACKLOG);
      // The very same file, so that only its place tells.
      linkSync(own.socket, own.at("outside/vm.sock"));
      own.turnIntoLink();
      const gone = adopt ? SocketFile.adopt(own.socket, file.listener) : file;
      gone.close();
      assert.deepEqual(readdirSync(own.outside), ["vm.sock"]);
    }
    assert.deepEqual(readdirSync(jail.outside), []);
  });

  test("has a path that can be connected to", () => {
    using jail = new Jail();
    const path = `${jail.root}/${"x".repeat(108 - jail.root.length)}`;
    const listen = () => SocketFile.listenAmongOthers(path, BACKLOG);
    assert.throws(listen, fails("socket-path"));
    assert.deepEqual(readdirSync(jail.root), []);
  });
});

describe("what is given away", requires("root"), () => {
  const give = (path: string): void => {
    withOwnSocket(path, () => assert.fail("it must not be given away"));
  };

  test("is the socket", () => {
    using jail = new Jail();
    const owner = { uid: UNPRIVILEGED_UID, gid: UNPRIVILEGED_UID };
    using _listener = SocketFile.listenAmongOthers(jail.socket, BACKLOG, { owner }).listener;
    const { uid, gid, mode } = statSync(jail.socket);
    assert.deepEqual({ uid, gid, mode: mode & 0o777 }, { ...owner, mode: 0o600 });
  });

  test("is never a file that was moved to its place, nor what a link there means", () => {
    using jail = new Jail();
    writeFileSync(jail.at("secret"), "");
    linkSync(jail.at("secret"), jail.socket);
    assert.throws(() => give(jail.socket), /somebody has replaced it/);
    unlinkSync(jail.socket);
    symlinkSync(jail.at("secret"), jail.socket);
    assert.throws(() => give(jail.socket), /somebody has replaced it/);
  });

  test("is never a socket that has another name, or is another's", () => {
    using jail = new Jail();
    const { listener } = SocketFile.listenAmongOthers(jail.at("other.sock"), BACKLOG);
    using _other = listener;
    linkSync(jail.at("other.sock"), jail.socket);
    assert.throws(() => give(jail.socket), /somebody has replaced it/);
  });
});
