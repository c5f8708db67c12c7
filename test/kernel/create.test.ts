/** How a userfaultfd comes into being, and who may have one. */
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { openSync, readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { FaultlineError } from "../../src/base/errors.ts";
import { EFAULT } from "../../src/linux/abi-posix.ts";
import { describeFd, isNonblocking, OwnedFd } from "../../src/linux/fd.ts";
import { createMemfd } from "../../src/linux/memory.ts";
import { uffdFeatures } from "../../src/uffd/features.ts";
import { Userfaultfd } from "../../src/uffd/userfaultfd.ts";
import { requires, UNPRIVILEGED_UID } from "../support/requires.ts";
import { PAGE, Stage } from "../support/stage.ts";
import type { UnprivilegedReport } from "../support/unprivileged-program.ts";

const needs = requires("userfaultfd");
const closeOnExec = /^flags:\t0?2\d{6}$/m; // O_CLOEXEC, octal 02000000

describe("creating a userfaultfd", () => {
  for (const via of ["device", "syscall"] as const) {
    test(`by ${via}: non-blocking and close-on-exec`, requires("userfaultfd", "root"), () => {
      using uffd = Userfaultfd.create({ via });
      assert.equal(describeFd(uffd.fd), "anon_inode:[userfaultfd]");
      assert.equal(isNonblocking(uffd.fd), true);
      assert.match(readFileSync(`/proc/self/fdinfo/${uffd.fd}`, "utf8"), closeOnExec);
    });
  }

  test("UFFD_USER_MODE_ONLY: a kernel access gets EFAULT and makes no event", needs, async () => {
    await using stage = new Stage({ via: "syscall", userModeOnly: true });
    using target = createMemfd("target");
    const address = stage.page(0);
    const touch = stage.toucher().start({ what: "writeFrom", fd: target.fd, address });
    assert.equal(await touch.done(), -EFAULT);
    assert.equal(stage.uffd.drain(stage.batch), 0);
  });

  test("a full one is told of kernel accesses too", needs, async () => {
    await using stage = new Stage();
    using target = createMemfd("target");
    const address = stage.page(0);
    const touch = stage.toucher().start({ what: "writeFrom", fd: target.fd, address });
    await stage.drained();
    assert.equal(stage.uffd.copy(address, stage.source(), PAGE), "installed");
    assert.equal(await touch.done(), 1);
  });

  test("fromFd refuses what is no userfaultfd", () => {
    const stranger = new OwnedFd(openSync("/dev/null", "r"));
    assert.throws(() => Userfaultfd.fromFd(stranger), /is \/dev\/null, not a userfaultfd/);
    stranger.close();
  });

  test("fromFd takes over a negotiated descriptor", needs, () => {
    const first = Userfaultfd.create();
    using second = Userfaultfd.fromFd(new OwnedFd(first.intoRawFd()));
    assert.equal(first.isOpen, false);
    assert.equal(second.isOpen, true);
  });
});

describe("features", () => {
  test("the supported ones are known by name, the oldest among them", needs, () => {
    const supported = Userfaultfd.supportedFeatures();
    assert.ok(supported.has("eventRemove"), [...supported].join());
    assert.ok([...supported].every((name) => name in uffdFeatures));
  });

  test("each supported feature can be asked for", requires("userfaultfd", "root"), () => {
    for (const name of Userfaultfd.supportedFeatures()) {
      Userfaultfd.create({ features: [name] }).close();
    }
  });

  test("the enabled features are what was asked for, not all", needs, () => {
    using uffd = Userfaultfd.create({ features: ["eventRemove"] });
    // The kernel keeps an internal "initialized" bit beside them.
    assert.match(readFileSync(`/proc/self/fdinfo/${uffd.fd}`, "utf8"), /^API:\taa:8?0*8:/m);
  });
});

describe("an unprivileged user", () => {
  const isClosed = readFileSync("/proc/sys/vm/unprivileged_userfaultfd", "utf8").trim() === "0";
  const options = isClosed
    ? requires("unprivileged-user")
    : { skip: "vm.unprivileged_userfaultfd=1 lets everybody in" };
  let cached: UnprivilegedReport | undefined;
  const report = (): UnprivilegedReport => {
    cached ??= runUnprivileged();
    return cached;
  };

  test("is refused by the device, and told of setfacl", options, () => {
    const { code, message } = report().refusals.device!;
    assert.equal(code, "no-userfaultfd");
    assert.match(message, new RegExp(`setfacl -m u:${UNPRIVILEGED_UID}:rw /dev/userfaultfd`));
  });

  for (const via of ["syscall", "auto"] as const) {
    test(`is refused by ${via}, and told of the sysctl`, options, () => {
      const { code, message } = report().refusals[via]!;
      assert.equal(code, "no-userfaultfd");
      assert.match(message, /sysctl vm\.unprivileged_userfaultfd=1/);
    });
  }

  test("may have one with userModeOnly, and serve faults with it", options, () => {
    assert.equal(report().servedByte, 0x42);
  });

  test("is told that eventFork needs CAP_SYS_PTRACE", options, () => {
    assert.deepEqual(report().refusals.eventFork, {
      code: "unsupported",
      message: "The feature eventFork needs CAP_SYS_PTRACE: run as root, or leave it out.",
    });
  });

  test("is denied the kill of a process of root, through a pidfd", options, () => {
    assert.equal(report().killOfInit, "denied");
  });
});

function runUnprivileged(): UnprivilegedReport {
  const program = new URL("../support/unprivileged-program.js", import.meta.url).pathname;
  const child = spawnSync(process.execPath, [program], {
    uid: UNPRIVILEGED_UID,
    gid: UNPRIVILEGED_UID,
    cwd: "/",
    encoding: "utf8",
  });
  assert.equal(child.status, 0, child.stderr);
  return JSON.parse(child.stdout) as UnprivilegedReport;
}

test("a refusal is a FaultlineError, whose exit code is 5", () => {
  assert.equal(new FaultlineError("no-userfaultfd", "").exitCode, 5);
});
