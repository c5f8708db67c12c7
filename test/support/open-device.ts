/**
 * Programs as an ordinary user who may open /dev/userfaultfd: a node of the same device, open to
 * everyone, is bound over it in a mount namespace of their own. Nothing of the host is changed.
 */
import { execFile } from "node:child_process";
import { mkdtempSync, rmdirSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { promisify } from "node:util";
import { UNPRIVILEGED_UID } from "./requires.ts";

const BUDGET_MS = 60_000;

export interface OpenDevice extends Disposable {
  /** The command line of a program with the device. */
  command(program: string, args: readonly string[]): [program: string, args: string[]];
  /** Runs it to its end; throws unless it succeeds. Returns what it printed. */
  run(program: string, args: readonly string[]): Promise<string>;
}

/** For this user; needs root, `unshare` and `setpriv`. */
export function openDevice(uid: number = UNPRIVILEGED_UID): OpenDevice {
  const place = mkdtempSync(join(tmpdir(), "faultline-device-"));
  const script =
    "set -e; place=$1; shift\n" +
    'mount -t tmpfs -o mode=0755 none "$place"\n' +
    'mknod "$place/uffd" c $(stat -c "0x%t 0x%T" /dev/userfaultfd)\n' +
    'chmod 666 "$place/uffd"; mount --bind "$place/uffd" /dev/userfaultfd\n' +
    `exec setpriv --reuid ${uid} --regid ${uid} --clear-groups --pdeathsig KILL -- "$@"`;
  const command = (program: string, args: readonly string[]): [string, string[]] => [
    "unshare",
    ["--mount", "sh", "-c", script, "sh", place, program, ...args],
  ];
  return {
    command,
    run: async (program, args) => {
      const [unshare, line] = command(program, args);
      const { stdout } = await promisify(execFile)(unshare, line, {
        cwd: "/",
        timeout: BUDGET_MS,
        killSignal: "SIGKILL",
      });
      return stdout;
    },
    [Symbol.dispose]: () => rmdirSync(place),
  };
}
