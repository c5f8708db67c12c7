/**
 * One daemon per run folder. Pagers inherit the locked descriptor, so the lock is free only when
 * the last of them is gone too: two readers of one userfaultfd would lose faults.
 */
import {
  closeSync,
  existsSync,
  ftruncateSync,
  mkdirSync,
  openSync,
  readFileSync,
  writeSync,
} from "node:fs";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { FaultlineError } from "../base/errors.ts";
import { OwnedFd } from "../linux/fd.ts";
import { tryLock } from "../linux/file.ts";
import { processTimes } from "../linux/process.ts";

/** Pagers of a dead supervisor are killed by the kernel: this is for a very slow machine. */
const ORPHANS_TIMEOUT_MS = 5000;
const RETRY_MS = 10;

/** @throws FaultlineError `conflict` another daemon runs there */
export async function lockRunFolder(runFolder: string): Promise<OwnedFd> {
  const path = join(runFolder, "daemon.lock");
  const lock = openLock(runFolder, path);
  try {
    await take(lock.fd, path, runFolder);
    ftruncateSync(lock.fd, 0);
    writeSync(lock.fd, `${process.pid} ${processTimes(process.pid)?.startTicks}\n`, 0);
    return lock;
  } catch (error) {
    lock.close();
    throw error;
  }
}

function openLock(runFolder: string, path: string): OwnedFd {
  try {
    if (!existsSync(runFolder)) mkdirSync(runFolder, { mode: 0o755 });
    closeSync(openSync(path, "a", 0o644));
    return new OwnedFd(openSync(path, "r+"));
  } catch (cause) {
    throw new FaultlineError(
      "socket-failed",
      `The run folder ${runFolder} cannot be used. Create it for user ` +
        `${process.geteuid?.()}, with room for sockets, or name another: --run-folder FOLDER`,
      { cause },
    );
  }
}

async function take(fd: number, path: string, runFolder: string): Promise<void> {
  const deadlineMs = performance.now() + ORPHANS_TIMEOUT_MS;
  while (!tryLock(fd)) {
    const holder = livingHolder(path);
    if (holder !== null) {
      throw new FaultlineError(
        "conflict",
        `A daemon runs in ${runFolder} already, as process ${holder}. Stop it, or choose another ` +
          "run folder.",
      );
    }
    if (performance.now() > deadlineMs) {
      throw new FaultlineError(
        "conflict",
        `A pager of a daemon that died still runs in ${runFolder}. Find it with ` +
          `\`fuser ${path}\`, and end it.`,
      );
    }
    await delay(RETRY_MS);
  }
}

/** The process that wrote itself into the file, unless it is dead, or another of its number. */
function livingHolder(path: string): number | null {
  const [pid, startTicks] = readFileSync(path, "utf8").split(" ").map(Number);
  if (!pid) return null;
  return processTimes(pid)?.startTicks === startTicks ? pid : null;
}
