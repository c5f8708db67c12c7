/** Processes held by a pidfd. */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { describe, test } from "node:test";
import { SysError } from "../../src/base/errors.ts";
import { Epoll } from "../../src/linux/epoll.ts";
import { killByPidfd, openPidfd } from "../../src/linux/process.ts";

describe("a pidfd", () => {
  test("becomes readable when its process has ended", async () => {
    const child = spawn("sleep", ["60"]);
    using pidfd = openPidfd(child.pid!);
    using epoll = Epoll.create(1);
    epoll.add(pidfd.fd, 0, 0);
    assert.equal(epoll.wait(0), 0);
    child.kill("SIGTERM");
    await once(child, "exit");
    assert.equal(epoll.wait(0), 1);
  });

  test("kills its process, and then says that it is gone", async () => {
    const child = spawn("sleep", ["60"]);
    using pidfd = openPidfd(child.pid!);
    assert.equal(killByPidfd(pidfd.fd), "killed");
    const [, signal] = await once(child, "exit");
    assert.equal(signal, "SIGKILL");
    assert.equal(killByPidfd(pidfd.fd), "gone");
  });

  test("of a process that never was cannot be opened", () => {
    const beyond = Number(readFileSync("/proc/sys/kernel/pid_max", "utf8")) + 1;
    assert.throws(
      () => openPidfd(beyond),
      (error) => error instanceof SysError && error.errnoName === "ESRCH",
    );
  });

  test("that is none throws instead of guessing", () => {
    assert.throws(() => killByPidfd(0), SysError);
  });
});
