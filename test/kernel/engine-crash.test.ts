/**
 * What happens when a fault worker dies of a bug: its VMs are killed, never left to read zeroes.
 */
import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { closeSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { createLogger } from "../../src/daemon/log.ts";
import { Server } from "../../src/daemon/server.ts";
import type { Session } from "../../src/engine/session.ts";
import { compile } from "../../src/kit/compile.ts";
import { repositoryRoot } from "../../src/kit/paths.ts";
import { waitFor } from "../../src/kit/wait.ts";
import { describeFd } from "../../src/linux/fd.ts";
import { requires } from "../support/requires.ts";

const folder = mkdtempSync(join(tmpdir(), "faultline-crash-"));
after(() => rmSync(folder, { recursive: true, force: true }));

/** The epoll that watches a userfaultfd: the fault worker's. libuv has others in this process. */
function workersEpoll(): number {
  const fds = readdirSync("/proc/self/fd").map(Number);
  const epolls = fds.filter((fd) => describeFd(fd) === "anon_inode:[eventpoll]");
  const watchesFaults = (epoll: number): boolean => {
    const info = readFileSync(`/proc/self/fdinfo/${epoll}`, "latin1");
    const watched = [...info.matchAll(/^tfd:\s*(\d+)/gm)].map((match) => Number(match[1]));
    return watched.some((fd) => describeFd(fd) === "anon_inode:[userfaultfd]");
  };
  const found = epolls.find(watchesFaults);
  assert.ok(found !== undefined, "a fault worker watches the VM");
  return found;
}

/** A VM that touches some pages and then lives on; resolves with the signal that ended it. */
function startVm(socketPath: string, memory: string): Promise<string | null> {
  const binary = compile(join(repositoryRoot, "test/peer/vmm.c"), ["-pthread"]);
  const vm = spawn(binary, [socketPath, memory, "--touch", "stride:16", "--linger", "60000"]);
  after(() => vm.kill("SIGKILL"));
  return new Promise((resolve) => {
    vm.once("exit", (_code, signal) => resolve(signal));
  });
}

const options = { ...requires("userfaultfd", "cc"), timeout: 20_000 };

test("a crashed fault worker kills its VMs and ends the server", options, async () => {
  const memory = join(folder, "memory");
  writeFileSync(memory, Buffer.alloc(1024 * 1024, 7));
  const server = await Server.start({
    memory,
    socketPath: join(folder, "uffd.sock"),
    workers: 1,
    logger: createLogger("silent", "json"),
  });
  const attached = new Promise<Session>((resolve) => {
    server.onSession = resolve;
  });
  const first = startVm(server.socketPath, memory);
  const session = await attached;
  await waitFor("the worker serves the VM", () => session.stats.counters().faults > 0);
  closeSync(workersEpoll());
  // Another VM wakes the worker, which finds its epoll gone.
  void startVm(server.socketPath, memory);
  await server.ended;
  assert.equal(await first, "SIGKILL");
  assert.equal(server.hasCrashed, true);
});
